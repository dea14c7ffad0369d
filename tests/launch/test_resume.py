from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import space
from launch.resume import alone, goes_on, may_change
from training.config import RunConfig, load_config
from training.config.schema import leaves
from training.rundir import RunDir, read_json, write_json

from . import fakes
from .commandline import LINE, TRAIN, tree

WRITTEN = ("config.yaml", "plan.json", "submission.sh", "command.sh", "jobs.json", "request.json")


@pytest.fixture
def run(here: Path, job: fakes.Executor, typed: Any) -> RunDir:
    """A run that was interrupted after 20 steps, with a checkpoint."""
    assert typed(LINE + " --name r --nodes 2").status == 0
    made = RunDir(here / "runs" / "r")
    made.attempt(0).mkdir(parents=True)
    write_json(made.node(0, 0), {"host": "n1", "end": "interrupted"})
    checkpoint(made, 20)
    job.job_state = "gone"
    return made


def checkpoint(run: RunDir, step: int, layout: int = 1) -> None:
    folder = run.checkpoints / f"step-{step}"
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"format": layout, "step": step, "files": {}})


def contents(run: RunDir) -> dict[str, str | None]:
    return {n: p.read_text() if (p := run.path / n).exists() else None for n in WRITTEN}


def last_entry(run: RunDir) -> dict[str, Any]:
    return (read_json(run.jobs) or {})["jobs"][-1]


def test_on_another_shape(run: RunDir, job: Any, typed: Any) -> None:
    write_json(run.request, {"stop": True})
    line = "--nodes 1 --procs-per-node 3 --zero 2 --offload optimizer --micro-tokens 256"
    line += " --time 30 --save-every 5 --log-every 2 --sbatch exclusive --tracker tensorboard"
    done = typed(f"--resume r {line}")
    if "needs the package" in done.err:  # tensorboard is an extra
        done = typed(f"--resume r {line.replace('--tracker tensorboard', '')}")
    assert done.status == 0, done.err
    assert "goes on from step 20" in done.out and "cluster.nodes: 2 → 1" in done.out
    config = load_config(run.config)
    assert config.cluster.nodes == 1 and config.cluster.procs_per_node == 3
    assert config.engine.zero == 2 and config.engine.offload == "optimizer"
    assert config.batch.micro_tokens == 256 and config.batch.global_batch == 8
    assert config.train.save_every == 5 and config.cluster.sbatch == {"exclusive": ""}
    plan = read_json(run.plan) or {}
    assert plan["world_size"] == 3 and plan["engine"] == "DeepSpeed ZeRO-2"
    assert plan["steps"] == 45 and plan["micro_tokens"] == 256
    changed = last_entry(run)["changed"]
    assert changed["cluster.nodes"] == [2, 1] and changed["engine.zero"] == [None, 2]
    assert last_entry(run)["first_attempt"] == 1 and not run.request.exists()
    assert run.submission.stat().st_mode & 0o111 and run.command.stat().st_mode & 0o111
    assert job.submitted[-1][0] == config
    # The line that the run was first made with still means this run.
    done = typed(LINE + " --name r --nodes 2")
    assert "--resume r" in done.err or "run r is" in done.out, done.err
    assert "another configuration" in typed(LINE + " --name r --nodes 3").err
    said = typed(LINE + " --name r --nodes 2 --time 45").err
    assert "run r was made with cluster.time '30', not '45'" in said and "add --name" in said


def test_back_to_ddp(run: RunDir, typed: Any) -> None:
    assert typed("--resume r --zero 3 --offload all").status == 0
    done = typed("--resume r --zero none")
    assert done.status == 0, done.err
    config = load_config(run.config)
    assert config.engine.zero is None and config.engine.offload == "none"
    assert last_entry(run)["changed"] == {
        "engine.zero": [3, None],
        "engine.offload": ["all", "none"],
    }


def test_as_it_was(run: RunDir, typed: Any) -> None:
    before = contents(run)
    # The whole line again asks for nothing else.
    for line in ("--resume r", f"--resume r {LINE} --nodes 2"):
        done = typed(line)
        assert done.status == 0, done.err
        assert "change" not in done.out and "changed" not in last_entry(run)
    after = contents(run)
    assert {k: v for k, v in after.items() if k != "jobs.json"} == {
        k: v for k, v in before.items() if k != "jobs.json"
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--lr 3", ["optim.lr is 0.001 there, 3.0 asked (--lr)"]),
        ("--seed 7 --nodes 1", ["train.seed is 42 there, 7 asked"]),
        ("--global-batch 16", ["batch.global_batch is 8 there, 16 asked"]),
        ("--precision bf16", ["engine.precision is 'fp32' there, 'bf16' asked"]),
        ("--epochs 9", ["train.epochs is 5.0 there, 9.0 asked"]),
        ("--optimizer sgd --schedule cosine", ["optim.name", "optim.schedule"]),
        ("--model minilm", ["model.name is 'tiny' there, 'minilm' asked"]),
        ("--task demo", ["task.name is 'mine' there, 'demo' asked"]),
        ("--train-file other.csv", ["task.files"]),
        ("--set model.dropout=0.3", ["model.dropout is 0.0 there, 0.3 asked (--set)"]),
        ("--name other", ["leave out --name"]),
        ("--nodes 9", ["partition cpu has 4 nodes"]),
        ("--partition gpux", ["unknown partition 'gpux'"]),
        ("--partition gpu --time 5:00:00", ["partition gpu allows 2:00:00"]),
        ("--executor local", ["--executor local has one node"]),
        ("--offload all", ["--offload all needs --zero"]),
        ("--micro-tokens 4", ["--micro-tokens is 4"]),
        ("--procs-per-node 0", ["--procs-per-node must be at least 1"]),
        ("--save-every 0", ["--save-every"]),
        ("--zero 7", ["'7'"]),
    ],
)
def test_another_experiment_or_a_shape_that_is_not_there(
    run: RunDir, job: Any, typed: Any, here: Path, line: str, words: list[str]
) -> None:
    (here / "other.csv").write_text(TRAIN)
    before, files = contents(run), tree(here)
    for dry in ("", " --dry-run"):
        done = typed(f"--resume r {line}{dry}")
        assert done.status == 2 and done.err.count("\n") == 1, (done.out, done.err)
        for word in words:
            assert word in done.err, (word, done.err)
        assert contents(run) == before and tree(here) == files
    assert len(job.submitted) == 1


def test_a_dry_run_writes_nothing(run: RunDir, job: Any, typed: Any, here: Path) -> None:
    before, files = contents(run), tree(here)
    done = typed("--resume r --nodes 4 --dry-run")
    assert done.status == 0, done.err
    for word in ("goes on from step 20", "cluster.nodes", "4 nodes × 1 = 4", "# batch of"):
        assert word in done.out, word
    done = typed("--resume r --nodes 4 --dry-run --json")
    value = json.loads(done.out)
    assert value["changed"] == {"cluster.nodes": [2, 4]} and value["resumes_from"] == 20
    assert value["plan"]["world_size"] == 4
    assert contents(run) == before and tree(here) == files and len(job.submitted) == 1


def test_slurm_refuses_and_the_old_files_stand(run: RunDir, job: Any, typed: Any) -> None:
    write_json(run.request, {"stop": True})
    before, files = contents(run), tree(run.path)
    job.refusal = "Slurm refused the job: Invalid qos"
    done = typed("--resume r --nodes 4 --qos none-such")
    assert done.status == 2 and "Invalid qos" in done.err
    assert contents(run) == before and tree(run.path) == files


def test_jobs_that_follow_each_other(run: RunDir, job: Any, typed: Any) -> None:
    job.queues_again = False
    assert typed("--resume r --nodes 1").status == 0
    entries = (read_json(run.jobs) or {})["jobs"]
    assert [(e["job_id"], e.get("after"), e["first_attempt"]) for e in entries] == [
        ("101", None, 0),
        ("102", None, 1),
        ("103", "102", 1),
        ("104", "103", 1),
    ]
    assert [e.get("changed") for e in entries] == [None, {"cluster.nodes": [2, 1]}, None, None]


def test_the_cores_follow_the_partition(run: RunDir, typed: Any) -> None:
    assert load_config(run.config).cluster.cpus_per_node == 8
    done = typed("--resume r --partition gpu --json")
    assert json.loads(done.out)["changed"] == {
        "cluster.partition": [None, "gpu"],
        "cluster.cpus_per_node": [8, 32],
    }
    assert typed("--resume r --partition cpu --cpus-per-node 3").status == 0
    assert load_config(run.config).cluster.cpus_per_node == 3


def test_another_site(run: RunDir, typed: Any, here: Path) -> None:
    (here / "site.yaml").write_text(
        "cluster: {partition: gpu, account: us}\ndefaults: {optim.lr: 0.5}\n"
    )
    assert typed("--resume r --qos fast").status == 0
    done = typed("--resume r --cluster site.yaml")
    assert done.status == 0, done.err
    cluster = load_config(run.config).cluster
    assert (cluster.partition, cluster.account, cluster.qos) == ("gpu", "us", None)
    assert cluster.nodes == 2 and cluster.profile == str(here / "site.yaml")


def test_rows_that_changed(run: RunDir, typed: Any, here: Path) -> None:
    (here / "train.csv").write_text(TRAIN + "one more,good\n")
    done = typed("--resume r")
    assert done.status == 2 and "held other rows" in done.err


def test_no_checkpoint_yet(run: RunDir, typed: Any) -> None:
    (run.checkpoints / "step-20" / "manifest.json").unlink()
    assert "starts at step 0: it has no checkpoint yet" in typed("--resume r").out
    assert goes_on(7) == "goes on from step 7"


def test_finished_and_running(run: RunDir, job: Any, typed: Any) -> None:
    job.job_state = "running"
    done = typed("--resume r --nodes 1")
    assert done.status == 2 and "is running" in done.err and "cancel r" in done.err
    write_json(run.results, {"run_id": "r"})
    done = typed("--resume r --nodes 1")
    assert done.status == 0 and "is finished" in done.out and str(run.results) in done.out


def test_made_by_a_newer_version(run: RunDir, typed: Any) -> None:
    checkpoint(run, 30, layout=9)
    done = typed("--resume r")
    assert done.status == 2 and "newer glueline" in done.err and "step-30 has format 9" in done.err
    values = yaml.safe_load(run.config.read_text())
    values["train"]["telepathy"] = True
    run.config.write_text(yaml.safe_dump(values))
    done = typed("--resume r")
    assert done.status == 2 and "newer glueline" in done.err and "train.telepathy" in done.err
    write_json(run.manifest, {"format": 99, "versions": {"glueline": "7.0"}})
    done = typed("--resume r")
    assert done.status == 2 and "newer glueline (7.0)" in done.err and "format 99" in done.err


def test_no_room(run: RunDir, typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    monkeypatch.setattr(space, "bytes_free", lambda folder: 5000)
    for line in ("--resume r", "--resume r --dry-run", LINE + " --seed 3"):
        done = typed(line)
        assert done.status == 2 and "5 kB free" in done.err, done.err
    assert contents(run) == before


def hold(path: str, held: Any, release: Any) -> None:
    with alone(RunDir(path)):
        held.set()
        release.wait(30)


def test_two_at_once(run: RunDir, job: Any, typed: Any) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(run.path), held, release))
    other.start()
    try:
        assert held.wait(30)
        done = typed("--resume r")
        assert done.status == 2 and "by another process" in done.err
    finally:
        release.set()
        other.join(30)
    assert len(job.submitted) == 1
    assert typed("--resume r").status == 0


def test_what_may_change_is_there() -> None:
    known = leaves(RunConfig)
    assert {
        k for k in known if may_change(k) and k.split(".")[0] not in ("cluster", "tracking")
    } == {
        "engine.zero",
        "engine.zero_config",
        "engine.zero_settings",
        "engine.offload",
        "engine.timeout",
        "engine.hang_timeout",
        "engine.bucket_megabytes",
        "batch.micro_tokens",
        "train.save_every",
        "train.log_every",
        "train.keep",
        "train.fault",
    }
