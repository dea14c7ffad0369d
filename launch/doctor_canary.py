"""The doctor's canary job: two nodes for about half a minute, watched from the login node."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch.doctor_login import PACKAGES, hub
from launch.executor import (
    check_path,
    environment_lines,
    refusal,
    scrubbed_environment,
    slurm_parameters,
)
from launch.slurm_site import JobInfo, job_states
from slurm.canary import Canary, CanaryDir, marker
from slurm.command import FIRST_PORT, PORTS
from slurm.failure import last_words
from training.config import RunConfig, UsageError
from training.rundir import RunDir, read_json, write_json

SAMPLES = 16
"""Ports that are tried, evenly over the range that jobs take theirs from."""
POLL_SECONDS = 0.3
SIGNAL_SECONDS = 3.0
"""How often the signal is sent again until the nodes have it."""
REQUEUE_SECONDS = 15.0
EPILOG_SECONDS = 180.0
"""How long a job may take to be in the queue again while its nodes are being cleaned up."""
END_SECONDS = 30.0


@dataclass
class Outcome:
    """What the canary found, and what became of its job."""

    job: str = ""
    folder: str = ""
    """Where its files lay."""
    refused: str = ""
    """Slurm's words if it did not take the job."""
    started: bool = False
    """Slurm started it, whether or not we heard of it."""
    waited: float = 0.0
    """Seconds in the queue."""
    reason: str = ""
    """Why it still waits, in Slurm's words."""
    state: str = ""
    """Slurm's word for its end."""
    nodes: dict[int, dict[str, Any]] = field(default_factory=dict)
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)
    rank_words: str = ""
    """Last words of a torchrun that failed."""
    requeue: dict[str, Any] | None = None
    queued_again: bool | None = False
    """Slurm's own record says so; None: it took the request, and had not come to it yet."""
    unseen: list[str] = field(default_factory=list)
    """Folders that the first node does not have."""
    seen: dict[str, list[str]] = field(default_factory=dict)
    """Marks of the nodes that the login node sees, by folder."""
    output: str = ""
    """Last line of the job's own output."""
    signalled: bool = False
    folders: list[str] = field(default_factory=list)
    """Folders that were to be looked at."""

    @property
    def silent(self) -> bool:
        """Whether it ran and left no word: its folder is not what the nodes see."""
        return self.started and not self.nodes and not self.output and not self.unseen


def sample_ports() -> list[int]:
    """Return the ports that are tried, from the first of the range to the last."""
    step = (PORTS - 1) / (SAMPLES - 1)
    return [FIRST_PORT + round(i * step) for i in range(SAMPLES)]


class CanaryJob:
    """One canary job, from its folder to its end; nothing of it is left after the block."""

    def __init__(
        self,
        config: RunConfig,
        parent: Path,
        folders: list[Path],
        needed: list[Path],
        say: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            config: as of a run, `auto` values decided.
            parent: where its folder is made: one that the nodes should see.
            folders: shared folders that nodes should see and write to.
            needed: folders that must be there on the nodes.
            say: is told in a line what is waited for.
        """
        self.config, self.parent, self.needed, self.say = config, parent, needed, say
        self.nonce = secrets.token_hex(4)
        self.place = CanaryDir(parent / f".doctor-{self.nonce}")
        self.folders = list(dict.fromkeys(folders))
        self.outcome = Outcome(folder=str(parent))

    def __enter__(self) -> CanaryJob:
        self._made = [p for p in (self.parent, *self.parent.parents) if not p.exists()]
        self.place.path.mkdir(parents=True)
        self.folders = [f for f in self.folders if f.is_dir()]
        self.outcome.folders = [str(f) for f in self.folders]
        return self

    def __exit__(self, *exc: object) -> None:
        if self.outcome.job:
            _scancel(self.outcome.job)
            self._await_end()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                for left in folder.glob(f"{marker('', self.nonce, '').name}*"):
                    left.unlink(missing_ok=True)
        shutil.rmtree(self.place.path, ignore_errors=True)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def run(self, timeout: float) -> Outcome:
        """Submit it and watch it; `timeout` is how many seconds it may wait in the queue.

        Raises:
            UsageError: the folder's path cannot stand in a batch script.
        """
        check_path(self.place.path)
        self._write()
        try:
            self.outcome.job = self._submit()
        except UsageError as error:
            self.outcome.refused = str(error)
            return self.outcome
        self.say(f"canary job {self.outcome.job}: waiting for {self.config.cluster.nodes} nodes")
        if self._started(timeout):
            self._watch()
        return self.outcome

    def _write(self) -> None:
        request = {
            "nonce": self.nonce,
            "folders": [str(f) for f in self.folders],
            "ports": sample_ports(),
            "packages": list(PACKAGES),
            "internet": hub(),
        }
        write_json(self.place.request, request)
        RunDir(self.place.path).config.write_text(self.config.dump(), encoding="utf-8")
        for folder in self.folders:
            with contextlib.suppress(OSError):
                marker(str(folder), self.nonce, "login").touch()

    def _submit(self) -> str:
        import io

        from submitit import SlurmExecutor

        run = RunDir(self.place.path)
        parameters = slurm_parameters(self.config, run)
        parameters["job_name"] = "glueline-doctor"
        # It lives for a minute: the clone is not changed under it.
        config = replace(self.config, cluster=replace(self.config.cluster, snapshot=False))
        parameters["setup"] = [*self._shell_lines(), *environment_lines(config, run.cache)]
        # One node's failure must not end the others: they have something to tell.
        parameters["srun_args"] = ["--kill-on-bad-exit=0", "--wait=0"]
        # The signal is the doctor's to send.
        del parameters["signal_delay_s"]
        said = io.StringIO()  # sbatch's errors, which we raise
        try:
            with (
                scrubbed_environment(),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(said),
            ):
                executor = SlurmExecutor(folder=run.submitit, python=shlex.quote(sys.executable))
                executor.update_parameters(**parameters)
                return executor.submit(Canary(str(self.place.path))).job_id
        except BaseException as error:
            reason = refusal(error)
            if reason is None:
                raise
            raise UsageError(reason) from None

    def _shell_lines(self) -> list[str]:
        """Return shell lines that note which folders the first node lacks, before any Python."""
        unseen = shlex.quote(str(self.place.unseen()))
        return [
            f"[ -e {path} ] || printf '%s\\n' {path} >> {unseen}"
            for path in (shlex.quote(str(p)) for p in self.needed)
        ]

    def _info(self) -> JobInfo | None:
        try:
            return job_states([self.outcome.job])[self.outcome.job]
        except UsageError:
            return None  # the controller is busy: the files tell, or the next look

    def _started(self, timeout: float) -> bool:
        began = time.monotonic()
        while True:
            info = self._info()
            self.outcome.waited = time.monotonic() - began
            if info is not None and info.state != "queued":
                self.outcome.started, self.outcome.state = True, info.slurm
                return True
            if info is not None:
                self.outcome.reason = info.reason
            if self.outcome.waited > timeout:
                return False
            time.sleep(POLL_SECONDS)

    def _watch(self) -> None:
        """Answer the nodes until they are done, or the job is gone."""
        outcome = self.outcome
        gone_at = sent = 0.0
        deadline = time.monotonic() + 60 * self.config.cluster.time_minutes + END_SECONDS
        while time.monotonic() < deadline:
            self._read()
            there = outcome.nodes
            full = len(there) == self.config.cluster.nodes
            if full and all("written" in v for v in there.values()):
                if not self.place.login.exists():
                    self.say("canary: all nodes are there, measuring")
                    write_json(self.place.login, {"time": time.time()})
                waiting = [v for v in there.values() if "signal" not in v]
                if waiting and time.monotonic() > sent + SIGNAL_SECONDS and self._may_signal():
                    _scancel("--signal=USR2", outcome.job)
                    outcome.signalled, sent = True, time.monotonic()
            elif there and not self.place.login.exists() and self._late():
                write_json(self.place.login, {"time": time.time()})
            if outcome.requeue is not None:
                accepted = bool(outcome.requeue.get("accepted"))
                outcome.queued_again = self._requeued() if accepted else False
                break
            info = self._info()
            if info is not None and info.state == "gone":
                outcome.state = info.slurm
                # The nodes' last files may show up later than Slurm's word.
                gone_at = gone_at or time.monotonic()
                if time.monotonic() > gone_at + 3:
                    break
            time.sleep(POLL_SECONDS)
        self._read()
        self._look()

    def _may_signal(self) -> bool:
        """Whether every node has its handler, and none has started ranks yet."""
        values = self.outcome.nodes.values()
        return all("met" in v and "ranks" not in v for v in values)

    def _late(self) -> bool:
        return any(time.time() - v.get("written", time.time()) > 20 for v in self._first())

    def _first(self) -> list[dict[str, Any]]:
        return list(self.outcome.nodes.values())

    def _read(self) -> None:
        for path in self.place.path.glob("node-*.json"):
            value = read_json(path)
            if isinstance(value, dict):
                self.outcome.nodes[int(value["node"])] = value
        self.outcome.requeue = read_json(self.place.requeue)

    def _requeued(self) -> bool | None:
        """Return whether the job is in the queue again; None where that cannot be told yet.

        While a node's epilog runs, health checks of GPUs for example, it is COMPLETING.
        """
        began = time.monotonic()
        info = None
        while (waited := time.monotonic() - began) < EPILOG_SECONDS:
            info = self._info()
            if info is not None and info.state == "queued":
                return True
            if waited > REQUEUE_SECONDS and info is not None and info.slurm != "COMPLETING":
                return False
            time.sleep(POLL_SECONDS)
        return None

    def _look(self) -> None:
        """Collect what lies in the folders at the end."""
        outcome, place = self.outcome, self.place
        for path in place.path.glob("rank-*.json"):
            value = read_json(path)
            if isinstance(value, dict):
                outcome.ranks[int(value["rank"])] = value
        for path in sorted(place.path.glob("torchrun-*.log")):
            failed = (outcome.nodes.get(_number(path), {}).get("ranks") or {}).get("exit") != 0
            if failed and not outcome.rank_words:
                outcome.rank_words = _error_words(path)
        with contextlib.suppress(OSError):
            outcome.unseen = place.unseen().read_text().splitlines()
        for path in sorted(RunDir(place.path).submitit.glob("*.out")):
            outcome.output = last_words(path) or outcome.output
        for folder in self.folders:
            names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
            stem = marker("", self.nonce, "").name
            outcome.seen[str(folder)] = sorted(
                n.removeprefix(stem) for n in names if n.startswith(stem)
            )

    def _await_end(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            info = self._info()
            if info is not None and info.state == "gone":
                return
            time.sleep(POLL_SECONDS)


def _number(path: Path) -> int:
    return int("".join(c for c in path.stem if c.isdigit()) or 0)


def _error_words(log: Path) -> str:
    """Return the line of a torchrun's log that says most: the last error before its summary."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    telling = [
        line.strip()
        for line in lines
        if "Error" in line and "ChildFailedError" not in line and "elastic" not in line
    ]
    sees = [line.strip() for line in lines if "sees no GPU" in line]
    return (sees or telling[-1:] or [last_words(log)])[0][:300]


def _scancel(*words: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scancel", *words], capture_output=True, timeout=20, check=False)
