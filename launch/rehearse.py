"""`glueline rehearse`: hurt a run on purpose, on one's own cluster, and see that it goes on.

What a fault may not change was written down before it and after it: the step, the next examples,
the learning rate, the optimizer's state, the weights. The comparison reads nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Request, request_options, with_flag
from launch.main import run_command
from training.config import RunConfig, UsageError, nearest
from training.rundir import RunDir, Snapshot, last_attempt, read_metrics

if TYPE_CHECKING:
    from rich.console import Console

    from launch.slurm_site import JobInfo

FAULTS = {
    "preempt": "Slurm takes the nodes away and queues the job again",
    "timeout": "the time limit comes near",
    "kill": "a rank is killed",
    "nodefail": "a node is lost: its agent is killed",
    "oom": "memory runs out in a step",
}
LOCAL = ("kill", "oom", "timeout")
"""Faults that a job of this machine can meet: nobody preempts it, and it has one node."""
OWN = ("kill", "oom")
"""Faults that a rank makes itself, at a step (`train.fault`)."""

SAVES = 6
"""Checkpoints of a rehearsal."""
STEPS = ((1 << 20, 600), (40 << 20, 120))
"""Steps of about a minute, for models below so many parameters; 60 for larger ones."""
TIME = "00:20:00"
INTERVAL = 0.3
"""Seconds between two looks: a run of a minute must be met in time."""
SETTLE_SECONDS = 5.0
"""How long a job must have been in the queue again, and its old processes have reported, before
its hold is lifted: a start in the same second as the old end is refused by the nodes."""
LOST_SECONDS = 75.0
"""The same where a process of the old start never reports: what a node did not answer, Slurm sends
again after a minute, and a signal meant for the old start would end the new one."""


@click.command("rehearse", cls=FlagCommand)
@click.argument("kind", metavar="|".join(FAULTS))
@request_options()
@click.option("--name", cls=FlagOption, metavar="ID", help="The run's id, instead of a made one.")
def rehearse(kind: str, request: Request, name: str | None) -> int:
    """Submit a run of about a minute, hurt it, and compare where it was and where it went on.

    preempt: Slurm queues it again. timeout: its time limit comes near. kill: a rank is killed.
    nodefail: a node's agent is killed. oom: memory runs out. Takes the flags of submit.
    """
    from rich.console import Console

    from launch.follow import DETACHED, follow
    from launch.resolve import resolve
    from launch.submit import How, submit_run

    if kind not in FAULTS:
        raise UsageError(f"unknown fault '{kind}': {nearest(kind, FAULTS)}")
    asked = as_rehearsal(request, kind)
    resolved = resolve(asked)
    check_possible(kind, resolved.config)
    name = name or f"rehearse-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = RunDir(resolved.runs / name)
    if run.path.exists():
        raise UsageError(f"run {name} is there already: a rehearsal needs a --name of its own")
    console = Console(highlight=False)
    console.print(f"rehearsal: {FAULTS[kind]}", markup=False)
    submit_run(asked, How(name=name))
    director = Director(run, kind, resolved.config, say=_sayer(console))
    status = follow(run, interval=INTERVAL, console=console, each=director)
    if status == DETACHED:
        return status
    return conclude(run, kind, director, finished=status == 0, console=console)


def as_rehearsal(request: Request, kind: str) -> Request:
    """Return the request with what makes its run short, where nothing else was typed."""
    from launch.resolve import compose
    from launch.space import parameters

    def default(request: Request, key: str, value: Any) -> Request:
        if request.given(key):
            return request
        return with_flag(request, key, str(value), "a rehearsal")

    config, _, _ = compose(request)
    steps = config.train.max_steps if request.given("train.max_steps") else None
    steps = steps or short(parameters(config.model))
    typed = config.train.save_every if request.given("train.save_every") else "auto"
    every = max(1, steps // SAVES) if typed == "auto" else typed
    request = default(request, "train.max_steps", steps)
    if typed == "auto":
        request = with_flag(request, "train.save_every", str(every), "a rehearsal")
    request = default(request, "cluster.time", TIME)
    if kind in OWN:
        # Between two checkpoints: what was done since the first is lost, and made again.
        at = min(2 * every + every // 2, steps - 1)
        if at <= every:
            raise UsageError(
                f"--max-steps {steps} with --save-every {every} leaves no step to {kind} at after "
                f"a checkpoint: use --max-steps {3 * every} or more"
            )
        request = default(request, "train.fault", f"{kind}@{at}")
    elif every >= steps:
        raise UsageError(
            f"--save-every {every} of --max-steps {steps} leaves no step after a checkpoint: use "
            f"--max-steps {3 * every} or more"
        )
    return request


def short(weights: int | None) -> int:
    """Return how many steps of a model with so many parameters take about a minute."""
    return next((steps for most, steps in STEPS if weights is not None and weights < most), 60)


def check_possible(kind: str, config: RunConfig) -> None:
    """Raise `UsageError` for a fault that does not exist where the run is to be."""
    if config.cluster.executor == "local" and kind not in LOCAL:
        raise UsageError(
            f"rehearse {kind} needs Slurm: a job of this machine knows {', '.join(LOCAL)}"
        )


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, soft_wrap=True)


class Director:
    """Looks on, brings the fault when the run has something to lose, and lifts Slurm's hold."""

    def __init__(
        self,
        run: RunDir,
        kind: str,
        config: RunConfig,
        *,
        say: Callable[[str], None],
        tool: Callable[..., str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.kind, self.config, self.say = run, kind, config, say
        self.done = kind in OWN
        """Whether the fault came, or comes by itself."""
        self.trackers: dict[int, str] = {}
        """W&B's id by attempt, as far as it was seen."""
        self._tool, self._clock = tool or slurm_tool, clock
        self._pending: float | None = None
        self._lifted = False

    def __call__(self, files: Snapshot, job: JobInfo | None) -> None:
        """Look once."""
        progress = files.progress
        tracker = progress.get("tracker") or {}
        if tracker.get("run_id"):
            self.trackers[int(progress.get("attempt", 0))] = str(tracker["run_id"])
        if not self.done and self._ripe(files, job):
            assert job is not None
            self.done = True
            self.say(f"now: {self.strike(files, job)}")
        else:
            self._lift(files, job)

    def _ripe(self, files: Snapshot, job: JobInfo | None) -> bool:
        from training.checkpoints import last_step

        return bool(
            job
            and job.slurm == "RUNNING"
            and not files.finished
            and last_attempt(files)
            and last_step(self.run) is not None
        )

    def strike(self, files: Snapshot, job: JobInfo) -> str:
        """Bring the fault; return what was done."""
        if self.kind == "preempt":
            self._tool("scontrol", "requeue", job.id)
            return f"scontrol requeue {job.id}"
        if self.kind == "timeout" and self.config.cluster.executor == "slurm":
            self._tool("scancel", "--signal=USR2", job.id)
            return f"scancel --signal=USR2 {job.id}"
        agent = max(last_attempt(files), key=lambda node: node.get("node", 0))
        pid, host = int(agent["pid"]), str(agent["host"])
        if self.kind == "timeout":
            import os
            import signal

            os.kill(pid, signal.SIGUSR2)
            return f"kill -USR2 {pid}"
        step = ("srun", f"--jobid={job.id}", "--overlap", "--nodes=1", "--ntasks=1")
        where = (f"--nodelist={host}", "--chdir=/", "--quiet")
        self._tool(*step, *where, "/bin/sh", "-c", f"kill -9 {pid}")
        return f"kill -9 {pid} on {host}: its agent"

    def _lift(self, files: Snapshot, job: JobInfo | None) -> None:
        """Have a job that was queued again start now: Slurm holds it for two minutes."""
        if job is None or job.slurm != "PENDING" or not files.nodes:
            self._pending, self._lifted = None, False
            return
        now = self._clock()
        if self._pending is None:
            self._pending = now
        reported = all(node.get("ended") for node in last_attempt(files))
        settled = now - self._pending >= (SETTLE_SECONDS if reported else LOST_SECONDS)
        if self._lifted or not settled:
            return
        if job.reason not in ("", "BeginTime"):
            return  # it waits for nodes: no hold to lift
        self._lifted = True
        if self._tool("scontrol", "update", f"JobId={job.id}", "StartTime=now") == "":
            self.say("it was queued again; Slurm's hold of two minutes is lifted")
        else:
            self.say("it was queued again; Slurm holds it for about two minutes")


def slurm_tool(*command: str) -> str:
    """Run a command of Slurm; return why it failed, or the empty text.

    A tool that complains while the job that it reached is ended has done its work: what became
    of the run decides.
    """
    import subprocess

    from launch.executor import scrubbed_environment

    try:
        with scrubbed_environment():
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{command[0]}: {error}") from None
    return " ".join(done.stderr.split()) or "it failed" if done.returncode else ""


@dataclass(frozen=True)
class Row:
    """One thing that is compared."""

    what: str
    before: str
    after: str
    same: bool


@dataclass(frozen=True)
class Resume:
    """One resume of a run: what was saved, and what it went on with."""

    attempt: int
    """The one that went on."""
    rows: tuple[Row, ...]

    @property
    def differs(self) -> list[str]:
        """What is not as it was."""
        return [row.what for row in self.rows if not row.same]


SAME = {
    "next_ids": "next examples",
    "lr": "learning rate",
    "optimizer": "optimizer's state",
    "weights": "weights",
}


def resumes(
    lines: Sequence[Mapping[str, Any]], trackers: Mapping[int, str] | None = None
) -> list[Resume]:
    """Return every resume of a run, compared with what was saved before it.

    Args:
        lines: of `metrics.jsonl`.
        trackers: W&B's id by attempt, as far as known.
    """
    events = [line for line in lines if line.get("kind") == "event"]
    saved = [e for e in events if e.get("event") == "saved"]
    found = []
    for resumed in sorted(
        (e for e in events if e.get("event") == "resumed"), key=lambda e: e["attempt"]
    ):
        before = [e for e in saved if e["attempt"] < resumed["attempt"]]
        newest = max((e["step"] for e in before), default=None)
        there = [e for e in before if e["step"] == resumed["step"]]
        there.sort(key=lambda e: e["attempt"])
        found.append(_compare(there[-1] if there else {}, resumed, newest, trackers or {}))
    return found


def _compare(
    saved: Mapping[str, Any],
    resumed: Mapping[str, Any],
    newest: int | None,
    trackers: Mapping[int, str],
) -> Resume:
    rows = [_row("step", newest, resumed["step"])]
    rows += [_row(text, saved.get(key), resumed.get(key)) for key, text in SAME.items()]
    known = {n: trackers.get(n) for n in (saved.get("attempt", -1), resumed["attempt"])}
    if all(known.values()):
        rows.append(_row("W&B run", *known.values()))
    # These may change, and change nothing.
    for key, text in (("world_size", "ranks"), ("micro_tokens", "micro-batch tokens")):
        if key in saved and key in resumed:
            rows.append(Row(text, str(saved[key]), str(resumed[key]), True))
    return Resume(int(resumed["attempt"]), tuple(rows))


def _row(what: str, before: Any, after: Any) -> Row:
    return Row(what, _text(before), _text(after), before is not None and before == after)


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def conclude(run: RunDir, kind: str, director: Director, finished: bool, console: Console) -> int:
    """Print the comparison and the verdict; return the exit status."""
    say = _sayer(console)
    lines = read_metrics(run.metrics)
    found = resumes(lines, director.trackers)
    for resume in found:
        console.print(_table(resume))
    if not director.done:
        say(f"the run ended before {kind} came: rehearse it with more steps, --max-steps N")
        return 1
    for line in lines:
        if line.get("event") == "out_of_memory":
            say(
                f"memory ran out in step {line['step']}: made again, with micro-batches of "
                f"{line.get('micro_tokens')} tokens"
            )
    verdict = judge(kind, found, lines, finished)
    say(verdict or ("resumed as it should" if found else "went on as it should"))
    return 1 if verdict else 0


def judge(
    kind: str, found: Sequence[Resume], lines: Sequence[Mapping[str, Any]], finished: bool
) -> str | None:
    """Return what is wrong with how a run went on; None if it is as it should be."""
    wrong = [
        f"attempt {resume.attempt} went on with another {', '.join(resume.differs)}"
        for resume in found
        if resume.differs
    ]
    shrunk = any(line.get("event") == "out_of_memory" for line in lines)
    if not found and not (kind == "oom" and shrunk):
        wrong.append("the run did not resume" if kind != "oom" else "memory did not run out")
    if not finished:
        wrong.append("the run did not finish")
    return "; ".join(wrong) or None


def _table(resume: Resume) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "saved", f"resumed, attempt {resume.attempt}", ""):
        table.add_column(name, overflow="fold")
    for row in resume.rows:
        mark = Text("as it was", style="green") if row.same else Text("differs", style="red")
        if row.same and row.before != row.after:
            mark = Text("may change")
        table.add_row(Text(row.what), Text(row.before), Text(row.after), mark)
    return table


def main() -> None:
    """Run the command."""
    run_command(rehearse)


if __name__ == "__main__":
    main()
