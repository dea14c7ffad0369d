"""Jobs on four hosts read what was prepared, and run the code as it was at submission."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import ROOT, assert_refused, clean_environment, glueline
from tests.slurm.slurmtools import start_now, wait_for
from training.rundir import RunDir, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

ROWS = "text,label\n" + "".join(f"a fine film {i},good\nan awful film {i},bad\n" for i in range(60))
LINE = ["--model", "tiny", "--text-columns", "text", "--label-column", "label"]
LINE += ["--global-batch", "8", "--tracker", "none"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder that all hosts see, though each has its own /tmp."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared):
    """Start four hosts of one core each, without a way out of the cluster."""
    state = Path(f"/var/tmp/glueline-prepare-{os.getpid()}")
    with VirtualCluster(ClusterConfig(state=state, nodes=4, cpus=1, share=(shared,))) as made:
        yield made


def read(path: Path) -> Any:
    return read_json(path)


def scontrol(cluster, *words):
    command = ["scontrol", *words]
    env = {**os.environ, **cluster.env()}
    subprocess.run(command, env=env, check=True, capture_output=True)


def job_of(run):
    return read(run.jobs)["jobs"][-1]["job_id"]


def state_of(run, cluster):
    done = glueline("status", str(run.path), "--json", cwd=run.path, env=cluster.env())
    return json.loads(done.stdout)


def test_a_held_job_reads_old_rows_and_runs_old_code_on_four_hosts(cluster, shared):
    """No host tokenises: the rows are gone. No host runs new code: it would raise."""
    clone = shared / "my clone"
    for name in ("launch", "slurm", "training", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    rows = shared / "rows.csv"
    rows.write_text(ROWS)
    words = ["--train-file", str(rows), *LINE, "--nodes", "4", "--max-steps", "200"]
    words += ["--sbatch", "hold", "--name", "held", "--runs", str(shared / "runs")]
    words += ["--set", "train.save_every=5"]
    done = subprocess.run(
        [sys.executable, str(clone / "launch" / "submit.py"), *words],
        cwd=shared, env=clean_environment(**cluster.env()), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "120 rows tokenised" in done.stderr and "network forbidden" in done.stderr
    run = RunDir(shared / "runs" / "held")
    (snapshot,) = (shared / "runs" / ".cache" / "code").iterdir()
    assert read(run.manifest)["code"] == snapshot.name
    entry = read(shared / "runs/.cache/prepared" / f"{read(run.prepared)['entry']}.json")
    assert entry["proved"]["network"] == "namespace" and entry["proved"]["rows"]["train"] == 108

    tokens = sorted((shared / "runs/.cache").rglob("*.npy"))
    before = {p: p.stat().st_mtime_ns for p in tokens}
    rows.unlink()
    for module in ("training/train.py", "training/session.py", "slurm/agent.py"):
        (clone / module).write_text("raise SystemExit('new code')\n")
    scontrol(cluster, "release", job_of(run))

    def step():
        return (read(run.progress) or {}).get("step", 0)

    wait_for("it does not train", lambda: step() >= 6)
    environment = read(run.environment(0))
    assert len({rank["host"] for rank in environment["ranks"]}) == 4
    job = job_of(run)
    scontrol(cluster, "requeue", job)
    start_now(job, {**os.environ, **cluster.env()})
    wait_for("it does not come back", lambda: run.environment(1).exists())
    wait_for("it does not go on", run.results.exists)
    seen = state_of(run, cluster)
    assert seen["state"] == "finished" and seen["step"] == 200
    log = run.rank_log(1, 0, 0).read_text()
    assert "going on from step" in log and "new code" not in log
    after = sorted((shared / "runs/.cache").rglob("*.npy"))
    assert {p: p.stat().st_mtime_ns for p in after} == before


def test_prepared_by_a_job_and_altered_afterwards(cluster, shared):
    rows = shared / "more.csv"
    rows.write_text(ROWS.replace("film", "book"))
    runs = shared / "by job"
    words = ["--train-file", str(rows), *LINE, "--max-steps", "4", "--runs", str(runs)]
    env = cluster.env()
    as_job = ["--set", "cluster.prepare=job", "--set", "cluster.prepare_sbatch.time=5"]
    done = glueline("submit", *words, *as_job, "--name", "a", "--wait", cwd=shared, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    note = read(runs / "a" / "prepared.json")
    output = Path(note["output"]).read_text()
    assert "120 rows tokenised" in output and f"job {note['job']} prepares" in done.stderr
    entry = runs / ".cache" / "prepared" / f"{note['entry']}.json"
    assert read(entry)["proved"]["network"] == "namespace"

    # One byte of what is prepared is another one now: a job that waits finds it, and so do we.
    held = [*words, "--seed", "7", "--name", "b", "--sbatch", "hold"]
    assert glueline("submit", *held, cwd=shared, env=env).returncode == 0
    victim = next(iter((runs / ".cache" / "tokens").glob("*/train/input_ids.npy")))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    again = glueline("submit", *words, "--seed", "8", "--name", "c", cwd=shared, env=env)
    assert_refused(again, "prepared data was altered", str(victim), "--train-file")
    assert not (runs / "c").exists()
    run = RunDir(runs / "b")
    scontrol(cluster, "release", job_of(run))
    seen = wait_for(
        "it does not fail", lambda: (s := state_of(run, cluster))["state"] == "failed" and s
    )
    assert "was altered" in seen["cause"] and "prepare --run b" in seen["cause"], seen
    check = glueline("prepare", "--run", "b", "--check", "--runs", str(runs), cwd=shared, env=env)
    assert check.returncode == 1 and str(victim) in check.stderr

    # What the message says to type, by a job; then the run goes on.
    repair = ["--run", "b", "--runs", str(runs), "--submit", "--wait", "--json"]
    done = glueline("prepare", *repair, cwd=shared, env=env)
    assert done.returncode == 0 and json.loads(done.stdout)["prepared"], done.stderr
    goes_on = ["--resume", "b", "--runs", str(runs), "--wait", "--set", "cluster.sbatch.hold=false"]
    done = glueline("submit", *goes_on, cwd=shared, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_preparation_that_fails_in_its_job_is_said(cluster, shared):
    """The job cannot prepare: its run fails with that as the cause, and nothing waits for ever."""
    rows = shared / "gone.csv"
    rows.write_text(ROWS.replace("film", "song"))
    runs = shared / "lost"
    words = ["--train-file", str(rows), *LINE, "--max-steps", "4", "--runs", str(runs)]
    words += ["--set", "cluster.prepare=job", "--set", "cluster.prepare_sbatch.begin=now+3"]
    env = cluster.env()
    done = glueline("submit", *words, "--name", "r", cwd=shared, env=env)
    assert done.returncode == 0, done.stderr
    rows.unlink()
    run = RunDir(runs / "r")
    note = read(run.prepared)
    begin = time.monotonic()
    seen = wait_for(
        "it does not fail", lambda: (s := state_of(run, cluster))["state"] == "failed" and s
    )
    assert time.monotonic() - begin < 90
    assert f"job {note['job']} ended without it" in seen["cause"], seen["cause"]
    assert "gone.csv" in Path(note["output"]).read_text()
