"""W&B from the login node: compute nodes often have no network, the login node has one.

`metrics.jsonl` is the truth, and what a tracker is shown follows from it. Where rank 0 could not
reach W&B, whoever follows the run here shows W&B the same lines, live; `glueline sync` does it
afterwards. Both go to the one W&B run of the run, and neither shows it a step twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, parse_lines, read_json, read_metrics
from training.tracking import Mirror, flat_summary, wandb_id, wandb_mode

LOOK_SECONDS = 2.0
"""How often the run's files are looked at."""
PATIENCE_SECONDS = 60.0
"""How long W&B may take for the last lines before we leave without it."""

Opener = Callable[[RunDir, RunConfig], Mirror]


class Unreachable(Exception):
    """W&B cannot be reached from here. The message says why."""


class NotHere(Unreachable):
    """This machine has no key or no network either: nothing that a person should be told."""


class Busy(Exception):
    """Another process shows this run's lines to W&B already."""


def tracked_offline(run: RunDir) -> bool:
    """Return whether rank 0 of a run's last attempt could not reach W&B."""
    tracker = _tracker(run)
    return tracker.get("name") == "wandb" and tracker.get("mode") == "offline"


def _tracker(run: RunDir) -> dict[str, Any]:
    progress = read_json(run.progress)
    tracker = progress.get("tracker") if isinstance(progress, dict) else None
    return tracker if isinstance(tracker, dict) else {}


def as_in_job(run: RunDir) -> RunDir:
    """Return the run under the path that the job knows it by: W&B's id follows from it.

    Raises:
        Unreachable: no path leads to that id.
    """
    wanted = _tracker(run).get("run_id")
    candidates = [run, RunDir(run.path.resolve())]
    for candidate in candidates:
        if wanted in (None, wandb_id(candidate)):
            return candidate
    raise Unreachable(f"the job knows the run by another path than {run.path}: name it by that one")


def open_online(run: RunDir, config: RunConfig) -> Mirror:
    """Open a run's W&B run from here.

    Raises:
        Unreachable: there is no key, no network, or W&B refuses.
    """
    from training.tracking import WandbMirror

    mode, why = wandb_mode(dict(os.environ))
    if mode != "online":
        raise NotHere(why)
    run = as_in_job(run)
    before = set(_offline_folders(run))
    mirror = WandbMirror(run, config)
    if mirror.mode != "online":
        mirror.finish({}, ok=True)
        for folder in set(_offline_folders(run)) - before:
            shutil.rmtree(folder, ignore_errors=True)
        raise Unreachable(mirror.why)
    return mirror


def _offline_folders(run: RunDir) -> Iterator[Path]:
    return (run.path / "wandb").glob("offline-run-*")


class Shown:
    """Shows a tracker lines, each once and never one of an earlier step than the last."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.count = 0
        self._step = -1
        self._at_step: set[tuple[Any, ...]] = set()

    def show(self, line: dict[str, Any]) -> None:
        """Show a line of `metrics.jsonl`, if it is news."""
        step = line.get("step", 0)
        key = tuple(line.get(name) for name in ("kind", "split", "event"))
        if step < self._step or (step == self._step and key in self._at_step):
            return
        if step > self._step:
            self._step, self._at_step = step, set()
        self._at_step.add(key)
        self.mirror.log(line)
        self.count += 1


class Tail:
    """The lines of `metrics.jsonl` as they come: first what is there, then what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset: int | None = None

    def new(self) -> list[dict[str, Any]]:
        """Return the lines since the last call; the first call those that count, by step.

        A line may come twice around the first call.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset or 0)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if self._offset is None:
            self._offset = len(whole)
            return read_metrics(self.path)
        self._offset += len(whole)
        return list(parse_lines(whole.decode("utf-8", "replace")))


class Claim:
    """The right to show a run's lines to W&B: one process at a time."""

    def __init__(self, run: RunDir) -> None:
        """Claim it.

        Raises:
            Busy: another process has it.
        """
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(run.metrics, os.O_RDWR)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Busy from None
        except OSError:
            pass  # a file system without locks, or a run that may only be read

    def close(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LiveMirror:
    """Shows W&B what a run logs while somebody follows it, if its compute nodes cannot.

    In a thread of its own: a network that hangs must not keep anybody from following.
    """

    def __init__(
        self, run: RunDir, opener: Opener = open_online, seconds: float = LOOK_SECONDS
    ) -> None:
        self.run, self._opener, self._seconds = run, opener, seconds
        self.trouble: str | None = None
        """Why W&B was not shown everything."""
        self.run_id: str | None = None
        """W&B's id, once a line was shown."""
        self._tail = Tail(run.metrics)
        self._shown: Shown | None = None
        self._claim: Claim | None = None
        self._leave = threading.Event()
        self._ok = True
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)

    def start(self) -> LiveMirror:
        """Begin to look, and return this."""
        self._thread.start()
        return self

    def leave(self, ok: bool, patience: float = PATIENCE_SECONDS) -> str | None:
        """Show the last lines, close W&B's run, and return what there is to tell a person.

        Args:
            ok: whether the run did not fail.
            patience: seconds to wait for W&B.
        """
        self._ok = ok
        self._leave.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            self.trouble = f"it did not take everything in {patience:.0f} s"
        if self.trouble:
            from .existing import command_line, run_arguments

            again = command_line("sync", *run_arguments(self.run))
            return f"W&B      {self.trouble}; to send what is missing: {again}"
        return f"W&B      run {self.run_id}, mirrored from here" if self.run_id else None

    def _work(self) -> None:
        try:
            while not self._leave.wait(self._seconds):
                self._look()
            self._look()
        except (Busy, NotHere):
            return  # somebody else follows the run too, or we are offline as well
        except Exception as error:
            self.trouble = " ".join(str(error).split())[:200] or type(error).__name__
        finally:
            self._close()

    def _look(self) -> None:
        if not tracked_offline(self.run):
            if _tracker(self.run):
                self._close()  # this attempt's nodes reach W&B themselves
            return
        if self._shown is None:
            config = load_config(self.run.config)
            self._claim = Claim(self.run)
            self._shown = Shown(self._opener(self.run, config))
            self._tail = Tail(self.run.metrics)
        for line in self._tail.new():
            self._shown.show(line)
            self.run_id = self._shown.mirror.run_id

    def _close(self) -> None:
        shown, claim, self._shown, self._claim = self._shown, self._claim, None, None
        try:
            if shown is not None:
                shown.mirror.finish(summary(self.run), self._ok)
        except Exception as error:
            self.trouble = self.trouble or " ".join(str(error).split())[:200]
        finally:
            if claim is not None:
                claim.close()


def send(run: RunDir, opener: Opener = open_online) -> tuple[str | None, int]:
    """Show W&B all that a run logged; return W&B's id and how many lines it was shown.

    Raises:
        UsageError: the run's configuration cannot be read.
        Unreachable: W&B cannot be reached.
        Busy: somebody follows the run and shows W&B its lines.
    """
    config = load_config(run.config)
    claim = Claim(run)
    try:
        shown = Shown(opener(run, config))
        for line in read_metrics(run.metrics):
            shown.show(line)
        shown.mirror.finish(summary(run), ok=True)
    finally:
        claim.close()
    return shown.mirror.run_id, shown.count


def summary(run: RunDir) -> dict[str, Any]:
    """Return a run's results as a tracker's summary; empty before they are there."""
    results = read_json(run.results)
    return flat_summary(results) if isinstance(results, dict) else {}


def check_tracked(run: RunDir) -> None:
    """Raise `UsageError` unless a run has lines that W&B was not shown in the job."""
    config = load_config(run.config)
    if config.tracking.tracker != "wandb":
        raise UsageError(f"run {run.run_id} is not tracked by W&B (--tracker wandb)")
    if not run.metrics.is_file():
        raise UsageError(f"run {run.run_id} has logged nothing yet")
    if _tracker(run).get("mode") == "online":
        raise UsageError(f"run {run.run_id} reached W&B from its job: there is nothing to send")
