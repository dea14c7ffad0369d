"""The main job on a real Slurm with four hosts, as a user types it; and on one machine."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import glueline

MINILM = ["--model", "minilm"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder that all hosts of the cluster see, though each has its own /tmp."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, shared, data_dir):
    """Start four hosts of one core each."""
    state = tmp_path_factory.mktemp("cluster") / "s"
    config = ClusterConfig(
        state=state, nodes=4, cpus=1, proctrack="cgroup" if cgroups() else "linuxproc",
        share=(shared, data_dir),
    )  # fmt: skip
    with VirtualCluster(config) as made:
        yield made


def cgroups() -> bool:
    return Path("/sys/fs/cgroup/freezer").is_dir()


def slurm(cluster: VirtualCluster, *command: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **cluster.env()}, capture_output=True, text=True, check=True
    )
    return done.stdout


def screen_of_wandb(folder: Path, seconds: float = 15.0) -> str:
    """Return what wandb's own reader of local runs shows of one on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", WANDB_MODE="offline")
        program = str(Path(sys.executable).with_name("wandb"))
        os.execv(program, [program, "leet", "run", str(folder)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 180, 0, 0))
    seen, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and not (b"train/loss" in seen and b"global_batch" in seen):
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                break
            seen += piece
            if b"\x1b[6n" in piece or b"\x1b[c" in piece:
                os.write(terminal, b"\x1b[1;1R")  # it asks where the cursor is
    os.write(terminal, b"q")
    os.close(terminal)
    with suppress(ProcessLookupError):
        os.killpg(pid, 9)  # what it started too
    os.waitpid(pid, 0)
    return seen.decode(errors="replace")


@contextmanager
def process_lists(seconds: float = 0.5) -> Iterator[set[bytes]]:
    """Collect the command lines of all processes; the hosts share one process table."""
    found: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(seconds):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    found.add(path.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


@pytest.mark.slurm
@pytest.mark.data
@pytest.mark.minilm
@pytest.mark.timeout(900)
def test_the_cards_line_on_four_hosts(cluster, shared, data_dir):
    line = ["--nodes", "4", "--task", "mnli", *MINILM, "--data", str(data_dir)]
    line += ["--max-steps", "30", "--zero", "2", "--global-batch", "64", "--micro-tokens", "512"]
    runs = shared / "runs"
    secrets = {"WANDB_API_KEY": "k" * 40, "HF_TOKEN": "hf_secretsecret", "WANDB_MODE": "offline"}
    with process_lists() as commands:
        done = glueline(
            "submit", *line, "--wait", "--runs", str(runs), cwd=shared,
            env={**cluster.env(), **secrets}, timeout=800,
        )  # fmt: skip
    assert any(b"training.train" in command for command in commands)
    for secret in (b"k" * 40, b"hf_secretsecret"):
        assert not any(secret in command for command in commands)
    logs = "".join(p.read_text()[-1500:] for p in runs.glob("*/attempts/0/logs/*"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr + logs
    (run,) = [p for p in runs.iterdir() if not p.name.startswith(".")]
    results = json.loads((run / "results.json").read_text())
    assert results["zero_stage"] == 2 and results["engine"] == "deepspeed"
    assert results["world_size"] == 4 and results["steps"] == 30
    assert results["examples_seen"] == 30 * 64 and results["micro_batches"] > 1
    assert set(results["metrics"]) == {"validation_matched", "validation_mismatched"}
    assert all(0.2 < m["accuracy"] < 1 for m in results["metrics"].values())
    ranks = json.loads((run / "attempts/0/environment.json").read_text())["ranks"]
    assert len({rank["host"] for rank in ranks}) == 4

    job = json.loads((run / "jobs.json").read_text())["jobs"][0]["job_id"]
    state = ""
    for _ in range(20):  # accounting lags
        state = slurm(cluster, "sacct", "-X", "-n", "-P", "-o", "State", "-j", job).strip()
        if state == "COMPLETED":
            break
        time.sleep(1)
    assert state == "COMPLETED"

    (offline,) = (run / "wandb").glob("offline-run-*")
    screen = screen_of_wandb(offline)
    assert "train/loss" in screen and "global_batch" in screen

    script = (run / "submission.sh").read_text()
    assert (run / "submitit" / f"{job}_submission.sh").read_text() == script
    assert "#SBATCH --requeue" in script and "wckey" not in script
    for file in run.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert b"k" * 40 not in data and b"hf_secretsecret" not in data, file

    again = glueline(
        "submit", *line, "--runs", str(runs), cwd=shared, env={**cluster.env(), **secrets}
    )
    assert again.returncode == 0 and "results.json" in again.stdout


@pytest.mark.slurm
def test_slurm_says_no_and_nothing_is_left(cluster, shared):
    for flags, words in (
        (["--nodes", "40"], "node"),
        (["--partition", "nope"], "nope"),
        (["--sbatch", "reservation=none"], "reservation"),
        (["--runs", "/tmp/not-shared/runs"], "/tmp/not-shared"),
    ):
        runs = [] if "--runs" in flags else ["--runs", str(shared / "none")]
        done = glueline(
            "submit", "--task", "demo", "--model", "tiny", *flags, *runs, cwd=shared,
            env=cluster.env(),
        )  # fmt: skip
        assert done.returncode == 2, (flags, done.stdout, done.stderr)
        # A clone in /tmp has a note of its own.
        said = [s for s in done.stderr.splitlines() if not s.startswith("note: the nodes may not")]
        assert len(said) == 1 and words in said[0], done.stderr
        assert not (shared / "none").exists()
        assert not Path("/tmp/not-shared").exists()


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_dead_rank_takes_the_job_down_and_is_named(cluster, shared):
    """A rank is killed on one of two hosts, no retry: the job ends in a minute, status says why."""
    runs = shared / "dead"
    line = ["--task", "demo", "--model", "tiny", "--nodes", "2", "--max-steps", "1000000"]
    line += ["--set", "cluster.max_retries=0"]
    env = cluster.env()
    done = glueline("submit", *line, "--runs", str(runs), "--name", "dead", cwd=shared, env=env)
    assert done.returncode == 0, done.stderr
    progress, deadline = runs / "dead" / "progress.json", time.monotonic() + 120
    while not progress.exists() or json.loads(progress.read_text())["step"] < 2:
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.5)
    node = json.loads((runs / "dead/attempts/0/environment.json").read_text())["ranks"][1]["host"]
    pids = subprocess.run(
        ["pgrep", "-f", f"training.train --run {runs}/dead"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    victim = next(p for p in pids if rank_of(p) == "1")
    os.kill(int(victim), 9)
    killed = time.monotonic()
    while True:
        seen = json.loads(
            glueline("status", "dead", "--runs", str(runs), "--json", cwd=shared, env=env).stdout
        )
        if seen["state"] == "failed":
            break
        assert time.monotonic() - killed < 60, seen
        time.sleep(1)
    text = json.dumps(seen)
    assert "signal 9" in text and node in text and ".log" in text


def rank_of(pid: str) -> str | None:
    """Return RANK in a rank's environment; None of torchrun and of what is gone."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except OSError:
        return None
    return dict(p.split("=", 1) for p in pairs if "=" in p).get("RANK")


@pytest.mark.data
@pytest.mark.minilm
@pytest.mark.timeout(1200)
def test_one_machine_fine_tunes_rte(tmp_path, data_dir):
    line = ["--executor", "local", "--task", "rte", *MINILM, "--data", str(data_dir)]
    done = glueline(
        "submit", *line, "--procs-per-node", "2", "--max-steps", "20", "--wait",
        "--tracker", "none", cwd=tmp_path, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (results,) = (tmp_path / "runs").glob("*/results.json")
    found = json.loads(results.read_text())
    assert found["world_size"] == 2 and found["metrics"]["validation"]["accuracy"] > 0.4
    config = json.loads((results.parent / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "entailment", "1": "not_entailment"}
