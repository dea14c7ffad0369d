"""A virtual cluster on which faults meet runs, and what the tests ask of a run there."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm.cluster import ClusterConfig, VirtualCluster
from slurm.processes import children
from training.rundir import RunDir, json_lines, read_json, snapshot

from .slurmtools import lingers, start_now, wait_for

ROOT = Path(__file__).resolve().parents[2]
SAVE_EVERY = 8
DISK_MEGABYTES = 160
"""Of the file system that the runs lie on, so that it can be filled."""


class Arena:
    """A virtual cluster of three hosts with runs on a file system of their own."""

    def __init__(self, tracker: str, base: Path) -> None:
        self.runs = base / "runs of 'chaos'"
        self.runs.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "none", str(self.runs)],
            check=True,
        )
        shared = tuple(dict.fromkeys([base, Path(sys.prefix), Path(sys.base_prefix), ROOT]))
        self.cluster = VirtualCluster(
            ClusterConfig(
                state=Path(f"/var/tmp/glueline-chaos-{os.getpid()}"),
                nodes=3,
                cpus=2,
                proctrack=tracker,
                preempt=True,
                share=shared,
                slurmd_timeout=8,
                extra_conf=("KillWait=20",),
            )
        )
        self.straight: dict[tuple[str, str, int], RunDir] = {}
        self.numbers = itertools.count()

    def __enter__(self) -> Arena:
        self.cluster.up()
        self.environment = dict(os.environ) | self.cluster.env()
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["scancel", "-f", "-u", "root"], env=self.environment, check=False)
        self.cluster.down()
        subprocess.run(["umount", "-l", str(self.runs)], check=False)

    def slurm(self, *words: str, check: bool = False) -> str:
        """Return what a Slurm command prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=check, timeout=60
        )
        return done.stdout.strip()

    def submit(
        self, name: str, engine: str, precision: str, steps: int, *more: str, local: bool = False
    ) -> tuple[RunDir, str]:
        """Submit a small run, on two nodes or on this machine; return it and its job."""
        name = f"{name}-{next(self.numbers)}"
        where = ("--nodes", "2", "--procs-per-node", "1", "--cpus-per-node", "1")
        where = ("--executor", "local", "--procs-per-node", "2") if local else where
        command = [sys.executable, str(ROOT / "launch" / "submit.py"), *where]
        command += ["--task", "demo", "--model", "tiny", "--runs", str(self.runs), "--name", name]
        command += ["--global-batch", "256", "--micro-tokens", "512", "--max-steps", str(steps)]
        command += ["--log-every", "1", "--eval-every", "20", "--tracker", "none", "--time", "60"]
        command += ["--precision", precision, *more]
        command += [] if engine == "ddp" else ["--zero", engine]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        run = RunDir(self.runs / name)
        return run, snapshot(run).jobs[-1]["job_id"]

    def reference(self, engine: str, precision: str, steps: int) -> RunDir:
        """Return a run of the same kind that nothing happened to; made once."""
        key = (engine, precision, steps)
        if key not in self.straight:
            run, _ = self.submit("straight", *key, local=True)
            wait_for("the reference run did not finish", run.results.exists, 900)
            self.straight[key] = run
        return self.straight[key]

    def state(self, job: str) -> str:
        """Return Slurm's word for a job."""
        return self.slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def lift_hold(self, job: str) -> None:
        """Have a job start that was queued again, as soon as it may."""
        if self.state(job) == "PENDING" and not lingers(job, self.environment):
            start_now(job, self.environment)
            time.sleep(1.0)

    def over(self, run: RunDir, job: str) -> bool:
        """Return whether a run has finished, or its job has ended for good."""
        state = self.state(job)
        if run.results.exists() and state != "RUNNING":
            return True
        return state in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "COMPLETED")

    def attend(self, run: RunDir, job: str, seconds: float = 900) -> None:
        """Wait until a run is over; lift the hold of its job whenever it is queued again."""
        deadline = time.monotonic() + seconds
        while not self.over(run, job):
            self.lift_hold(job)
            assert time.monotonic() < deadline, f"job {job} is {self.state(job)}: no end"
            time.sleep(0.3)

    def revive(self, run: RunDir, job: str, before: int, seconds: float = 600) -> bool:
        """Wait until a run trains in a later attempt than the first `before`, or is over.

        Returns:
            Whether it trains.
        """
        deadline = time.monotonic() + seconds
        while not self.over(run, job):
            number = max(run.attempt_numbers())
            logged = (e for e in json_lines(run.metrics) if e["attempt"] == number)
            trains = number >= before and any(e["kind"] == "train" for e in logged)
            if trains and len(self.ranks(run)) == 2:
                return True
            self.lift_hold(job)
            assert time.monotonic() < deadline, f"job {job} is {self.state(job)}: it hangs"
            time.sleep(0.2)
        return False

    def agents(self, run: RunDir) -> list[int]:
        """Return the agents of the last attempt, by node."""
        number = max(run.attempt_numbers())
        return [(read_json(run.node(number, k)) or {}).get("pid", 0) for k in (0, 1)]

    def ranks(self, run: RunDir) -> list[int]:
        """Return the ranks' processes of the last attempt, by node."""
        found = []
        for agent in self.agents(run):
            below = [pid for child in children(agent) for pid in children(child)]
            found += [pid for pid in below if "training.train" in _command(pid)]
        return found

    def hosts(self, run: RunDir) -> list[str]:
        """Return the hosts of the last attempt, by node."""
        number = max(run.attempt_numbers())
        return [(read_json(run.node(number, k)) or {}).get("host", "") for k in (0, 1)]


@contextmanager
def arena(tracker: str) -> Iterator[Arena]:
    """Give an arena, and clear it away."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as path, Arena(tracker, Path(path)) as found:
        yield found


def step(run: RunDir) -> int:
    """Return the last step that the last attempt logged."""
    number = max(run.attempt_numbers(), default=0)
    lines = (e for e in json_lines(run.metrics) if e["attempt"] == number)
    return max((line["step"] for line in lines if line["kind"] == "train"), default=0)


def at_step(run: RunDir, number: int) -> None:
    """Wait until a run has logged a step."""
    wait_for(f"{run.run_id} does not reach step {number}", lambda: step(run) >= number, 600)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
