"""Faults on a real Slurm, and what becomes of the run that they meet.

    python -m tests.slurm.chaos random [--faults 20] [--seed N]
    python -m tests.slurm.chaos full [--ledger FILE]
    python -m tests.slurm.chaos table FILE [--rows]

A virtual cluster is brought up, a small run of two nodes is submitted as a person does it, faults
meet it, and in the end its weights, its metrics and the order of its examples are compared with
those of a run that nothing happened to. `random` is many faults at random steps of one run; `full`
is every fault with every engine, precision and process tracker: what a run survives meets one run
after the other. Needs root and Slurm's packages.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.runs import events, unlike
from training.rundir import (
    RunDir,
    append_line,
    first_cause,
    json_lines,
    parse_lines,
    run_state,
    snapshot,
)

from .arena import SAVE_EVERY, Arena, arena, at_step, step
from .slurmtools import wait_for

ENGINES = ("ddp", "1", "2", "3")
PRECISIONS = ("fp32", "bf16")
TRACKERS = ("linuxproc", "pgid", "cgroup")
STEPS = 25
"""Of a run, for each fault that meets it: it must be on its way still when the last one comes."""
SAME = "same bits"
LEFT_BYTES = 300_000
"""Of a full disk: the log goes on, a checkpoint does not fit."""
RESTORED = ("next_ids", "lr", "optimizer", "weights")
"""What a run must find as it was saved; checksums, but for the learning rate."""


@dataclass(frozen=True)
class Kind:
    """The kind of run that faults meet."""

    engine: str
    precision: str
    tracker: str

    def __str__(self) -> str:
        return f"{self.engine}-{self.precision}-{self.tracker}"


@dataclass
class Outcome:
    """What became of a run when a fault met it."""

    fault: str
    engine: str
    precision: str
    tracker: str
    state: str = ""
    attempts: int = 0
    """Further attempts that it took."""
    resumed: list[int] = field(default_factory=list)
    """Steps from which it went on."""
    again: int = 0
    """Steps made again."""
    end: str = ""
    """How the run ended: with the same bits as one that nothing happened to, or why not."""
    seconds: float = 0.0
    """Until it trained again, or was over."""
    wrong: list[str] = field(default_factory=list)
    """What is not as it should be."""

    def row(self) -> str:
        """Return a line of the table."""
        went = ", ".join(map(str, self.resumed)) or "–"
        bad = f" {'; '.join(self.wrong)}" if self.wrong else ""
        return (
            f"| {self.fault} | {self.engine} | {self.precision} | {self.tracker} | {self.state} "
            f"| {self.attempts} | {went} | {self.again} | {self.end[:60]} | {self.seconds:.0f} |"
        ) + bad


HEAD = (
    "| fault | engine | precision | tracker | outcome | new attempts | went on from | steps again "
    "| end | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
)


def timeout(arena: Arena, run: RunDir, job: str) -> None:
    """The signal that sbatch's `--signal` sends ahead of the time limit."""
    arena.slurm("scancel", "--signal=USR2", job, check=True)


def preempt(arena: Arena, run: RunDir, job: str) -> None:
    """A job of a higher partition takes the nodes: TERM, then a requeue by Slurm itself."""
    words = ["sbatch", "-p", "urgent", "-N", "3", "--exclusive", "--parsable", "--chdir=/"]
    urgent = arena.slurm(*words, "--output=/dev/null", "--wrap=sleep 3", check=True)
    wait_for("not preempted", lambda: arena.state(job) != "RUNNING", 60)
    wait_for("the urgent job does not end", lambda: arena.state(urgent) == "COMPLETED", 90)


def rank_killed(arena: Arena, run: RunDir, job: str) -> None:
    """A rank is killed, as the kernel does it when memory runs out."""
    os.kill(arena.ranks(run)[-1], signal.SIGKILL)


def agent_killed(arena: Arena, run: RunDir, job: str) -> None:
    """The agent of the second node is killed."""
    os.kill(arena.agents(run)[1], signal.SIGKILL)


def head_agent_killed(arena: Arena, run: RunDir, job: str) -> None:
    """The agent of the first node, which answers for the job, is killed."""
    os.kill(arena.agents(run)[0], signal.SIGKILL)


def node_down(arena: Arena, run: RunDir, job: str) -> None:
    """The second node dies: slurmd, the step, the agent and the rank are gone at once."""
    host, agent, rank = arena.hosts(run)[1], arena.agents(run)[1], arena.ranks(run)[1]
    step_daemon = int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])
    arena.cluster.kill_slurmd(host)
    for pid in (step_daemon, agent, rank):
        os.kill(pid, signal.SIGKILL)
    wait_for("the job goes on", lambda: arena.state(job) != "RUNNING", 120)
    arena.cluster.start_slurmd(host)


def cut_off(arena: Arena, run: RunDir, job: str) -> None:
    """The network cable of the second node is pulled."""
    host = arena.hosts(run)[1]
    arena.cluster.cut(host)
    try:
        wait_for("the job goes on", lambda: arena.state(job) != "RUNNING", 120)
    finally:
        arena.cluster.mend(host)


def hang(arena: Arena, run: RunDir, job: str) -> None:
    """A rank is frozen: the others wait in a collective until the watchdog names it."""
    os.kill(arena.ranks(run)[-1], signal.SIGSTOP)


def controller_restarted(arena: Arena, run: RunDir, job: str) -> None:
    """slurmctld crashes and comes back; then the time limit's signal."""
    arena.cluster.restart_controller(crash=True)
    wait_for("slurmctld does not answer", lambda: arena.state(job) == "RUNNING", 60)
    timeout(arena, run, job)


def disk_full(arena: Arena, run: RunDir, job: str) -> None:
    """The file system is nearly full until a checkpoint failed for it, and has room again later."""
    filler = arena.runs / ".filler"
    before = len(events(run, "save_failed"))

    def failed() -> bool:
        # A save makes room by giving up the oldest checkpoint: what that leaves has to be filled
        # before the new one is written, so look often.
        for _ in range(200):
            stat = os.statvfs(arena.runs)
            room = stat.f_bavail * stat.f_frsize - LEFT_BYTES
            if room > 0:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, room)
            time.sleep(0.002)
        # What came before may still have something to follow: another start.
        arena.lift_hold(job)
        return len(events(run, "save_failed")) > before

    try:
        with filler.open("wb") as file:
            wait_for("no checkpoint fails", failed)
    finally:
        filler.unlink(missing_ok=True)
    # The next fault is to meet a run that has saved again, or it costs the steps of two.
    now = step(run)
    wait_for("no checkpoint", lambda: arena.lift_hold(job) or saved_after(run, now))


def saved_after(run: RunDir, number: int) -> bool:
    """Return whether a run saved after a step."""
    return max((e["step"] for e in events(run, "saved")), default=0) > number


@dataclass(frozen=True)
class Fault:
    """How a fault that a run survives is made, and what must come of it."""

    strike: Callable[[Arena, RunDir, str], None]
    resumes: bool = True
    again: int = SAVE_EVERY + 1
    """Steps that may have to be made again, at most: checkpoints are written in the background."""


@dataclass(frozen=True)
class Flaw:
    """A fault that is part of the run (`train.fault`), and what must come of it."""

    fault: str
    state: str = "failed"
    message: str = ""


SURVIVED: dict[str, Fault] = {
    "timeout": Fault(timeout, again=0),
    "rank killed": Fault(rank_killed),
    "preemption": Fault(preempt, again=0),
    "agent killed": Fault(agent_killed),
    "slurmctld restarted": Fault(controller_restarted, again=0),
    "hang": Fault(hang),
    "disk full": Fault(disk_full, resumes=False),
    "head agent killed": Fault(head_agent_killed),
    "node cut off": Fault(cut_off),
    "node down": Fault(node_down),
}
ALONE: dict[str, Flaw] = {
    "rank raises": Flaw("raise@13", message="pretended at step 13"),
    "loss is NaN": Flaw("nan@13", message="the loss is nan at step"),
    "out of memory": Flaw("oom@13:500", state="finished"),
}
FAULTS = (*SURVIVED, *ALONE)


def play(
    place: Arena,
    kind: Kind,
    names: Sequence[str],
    gaps: Iterable[int],
    save_every: int = SAVE_EVERY,
) -> list[Outcome]:
    """Let faults meet one run, one after the other, and return what became of it.

    Args:
        place: the cluster.
        kind: engine and precision of the run.
        names: faults of `SURVIVED`.
        gaps: steps that the run makes before each of them, at least. A checkpoint must fall into
            each: a rank that is killed twice in one place is taken to be out of memory.
        save_every: steps between two checkpoints.
    """
    steps = STEPS * len(names)
    options = ["--save-every", str(save_every), "--set", "cluster.max_requeues=200"]
    options += ["--set", "engine.hang_timeout=10"]
    run, job = place.submit(f"run-{kind}", kind.engine, kind.precision, steps, *options)
    found: list[Outcome] = []
    at_step(run, 1)
    for name, gap in zip(names, gaps, strict=True):
        found.append(Outcome(name, kind.engine, kind.precision, kind.tracker))
        if not _meet(place, run, job, found[-1], gap):
            break
    place.attend(run, job)
    wait_for("the job lingers", lambda: not place.slurm("squeue", "-h", "-j", job), 60)
    state = run_state(snapshot(run), "gone")
    if state == "finished":
        differs = unlike(run, place.reference(kind.engine, kind.precision, steps))
        end = f"{', '.join(differs)} differ" if differs else SAME
    else:
        end = state
        print(said(run), file=sys.stderr)
    for outcome in found:
        outcome.end = end
        outcome.wrong += [] if end == SAME else [f"the run ended: {end}"]
    shutil.rmtree(run.path)
    return found


def _meet(place: Arena, run: RunDir, job: str, outcome: Outcome, gap: int) -> bool:
    """Let one fault meet a run; return whether it trains on."""
    fault = SURVIVED[outcome.fault]
    deadline = time.monotonic() + 600
    while True:
        at_step(run, step(run) + gap)
        before = len(run.attempt_numbers())
        begin = time.monotonic()
        try:
            fault.strike(place, run, job)
            break
        except AssertionError:
            print(place.slurm("squeue", "-a"), said(run), sep="\n", file=sys.stderr)
            raise
        except (ProcessLookupError, IndexError, FileNotFoundError):
            # The last fault still had something to follow: it is about to start again.
            assert time.monotonic() < deadline, "no ranks to be found"
            if not place.revive(run, job, before):
                break
    trains = place.revive(run, job, before if fault.resumes else before - 1)
    outcome.seconds = time.monotonic() - begin
    after = len(run.attempt_numbers())
    outcome.attempts = after - before
    resumed = [e for e in events(run, "resumed") if before <= e["attempt"] < after]
    outcome.resumed = [e["step"] for e in resumed]
    outcome.again = steps_again(run, range(before, after))
    outcome.state = "goes on" if trains else run_state(snapshot(run), "gone")
    saved = {e["step"]: e for e in events(run, "saved")}
    for event in resumed:
        unequal = [k for k in RESTORED if event[k] != saved.get(event["step"], {}).get(k)]
        outcome.wrong += [f"not restored: {', '.join(unequal)}"] if unequal else []
    if not trains:
        outcome.wrong.append("the run was over")
    if bool(outcome.resumed) != fault.resumes:
        outcome.wrong.append("it did not go on" if fault.resumes else "it started again")
    if outcome.again > fault.again:
        outcome.wrong.append(f"{outcome.again} steps again")
    return trains


def play_alone(place: Arena, kind: Kind, name: str) -> Outcome:
    """Let a fault that is part of the run meet it, and return what became of it."""
    flaw = ALONE[name]
    begin = time.monotonic()
    options = ("--set", f"train.fault={flaw.fault}")
    run, job = place.submit(f"run-{kind}", kind.engine, kind.precision, 30, *options)
    place.attend(run, job)
    outcome = Outcome(name, kind.engine, kind.precision, kind.tracker)
    outcome.seconds = time.monotonic() - begin
    outcome.state = run_state(snapshot(run), "gone")
    outcome.attempts = len(run.attempt_numbers()) - 1
    cause = first_cause(snapshot(run)) or {}
    outcome.end = f"{cause['host']}: {cause['message']}" if cause else "smaller micro-batches"
    if outcome.state != flaw.state:
        outcome.wrong.append(f"it should be {flaw.state}: {said(run)}")
    if flaw.message not in outcome.end:
        outcome.wrong.append(f"the cause is not {flaw.message!r}")
    if outcome.attempts:
        outcome.wrong.append("it was tried again")
    shutil.rmtree(run.path)
    return outcome


def steps_again(run: RunDir, attempts: Iterable[int]) -> int:
    """Return the most steps that one of some attempts had to make again."""
    lines = [line for line in json_lines(run.metrics) if line["kind"] == "train"]
    most = 0
    for number in attempts:
        before = max((e["step"] for e in lines if e["attempt"] < number), default=0)
        first = min((e["step"] for e in lines if e["attempt"] == number), default=before + 1)
        most = max(most, before + 1 - first)
    return most


def said(run: RunDir) -> str:
    """Return the end of what a run's jobs printed."""
    return "".join(p.read_text(errors="replace") for p in run.submitit.glob("*.out"))[-3000:]


def play_all(
    place: Arena, kind: Kind, turn: int = 0, faults: Sequence[str] = FAULTS
) -> Iterable[Outcome]:
    """Yield what becomes of a kind of run with every fault; `turn` rotates their order."""
    names = [name for name in SURVIVED if name in faults]
    turn %= len(names)
    names = names[turn:] + names[:turn]
    yield from play(place, kind, names, [SAVE_EVERY] * len(names))
    for name in (name for name in ALONE if name in faults):
        yield play_alone(place, kind, name)


@click.group()
def main() -> None:
    """Let faults meet runs on a virtual cluster."""


@main.command("full")
@click.option("--ledger", type=click.Path(path_type=Path), default="chaos-full.jsonl")
@click.option("--trackers", default=",".join(TRACKERS), show_default=True)
@click.option("--engines", default=",".join(ENGINES), show_default=True)
@click.option("--precisions", default=",".join(PRECISIONS), show_default=True)
def full(ledger: Path, trackers: str, engines: str, precisions: str) -> None:
    """Play every fault with every engine, precision and process tracker; print a table.

    What the ledger holds is not played again: the whole may be done in several sittings.
    """
    done = {_kind(line) for line in _read(ledger)}
    kinds = list(itertools.product(engines.split(","), precisions.split(","), trackers.split(",")))
    print(HEAD, flush=True)
    for tracker in trackers.split(","):
        wanted = [Kind(*k) for k in kinds if k[2] == tracker and Kind(*k) not in done]
        if not wanted:
            continue
        with arena(tracker) as place:
            for kind in wanted:
                found = []
                for outcome in play_all(
                    place, kind, turn=kinds.index(tuple(asdict(kind).values()))
                ):
                    print(outcome.row(), flush=True)
                    found.append(outcome)
                for outcome in found:
                    append_line(ledger, asdict(outcome))
    lines = _read(ledger)
    print(summary(lines))
    sys.exit(1 if any(line["wrong"] for line in lines) else 0)


@main.command("table")
@click.argument("ledger", type=click.Path(path_type=Path, exists=True))
@click.option("--rows", is_flag=True, help="A line for each fault of each run.")
def table(ledger: Path, rows: bool) -> None:
    """Print a line for each fault and engine of what a ledger holds."""
    lines = _read(ledger)
    print("\n".join([HEAD, *(Outcome(**line).row() for line in lines)]) if rows else summary(lines))


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Return a table of outcomes by fault and engine, over precisions and trackers."""
    head = "| fault | outcome | " + " | ".join(ENGINES) + " | seconds | steps again |"
    rows = [head, "|---" * (len(ENGINES) + 4) + "|"]
    for name in FAULTS:
        mine = [line for line in lines if line["fault"] == name]
        if not mine:
            continue
        cells = []
        for engine in ENGINES:
            here = [line for line in mine if line["engine"] == engine]
            cells.append(f"{sum(not line['wrong'] for line in here)} of {len(here)}")
        seconds = [line["seconds"] for line in mine]
        again = [line["again"] for line in mine]
        end = SAME if name in SURVIVED else "its cause named"
        state = f"{mine[0]['state']}, {end}" if name != "out of memory" else mine[0]["state"]
        rows.append(
            f"| {name} | {state} | {' | '.join(cells)} "
            f"| {min(seconds):.0f}-{max(seconds):.0f} | {min(again)}-{max(again)} |"
        )
    kinds = {_kind(line) for line in lines}
    good = sum(not line["wrong"] for line in lines)
    return "\n".join([*rows, "", f"{good} of {len(lines)} as they should be, {len(kinds)} runs"])


def _read(ledger: Path) -> list[dict[str, Any]]:
    return list(parse_lines(ledger.read_text(encoding="utf-8"))) if ledger.exists() else []


def _kind(line: dict[str, Any]) -> Kind:
    return Kind(line["engine"], line["precision"], line["tracker"])


@main.command("random")
@click.option("--faults", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--tracker", type=click.Choice(TRACKERS), default="linuxproc", show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="2", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
def many(faults: int, seed: int, tracker: str, engine: str, precision: str) -> None:
    """Let many faults meet one run at random steps; the weights must be as without them."""
    rng = random.Random(seed)
    names = rng.choices(list(SURVIVED), k=faults)
    gaps = [rng.randint(4, SAVE_EVERY + 4) for _ in names]
    begin = time.monotonic()
    with arena(tracker) as place:
        found = play(place, Kind(engine, precision, tracker), names, gaps, save_every=2)
    print("\n".join([HEAD, *(outcome.row() for outcome in found)]))
    same = len(found) == faults and all(outcome.end == SAME for outcome in found)
    print(
        f"{len(found)} faults, {sum(o.attempts for o in found) + 1} attempts; weights, metrics and "
        f"examples {'equal' if same else 'DIFFER FROM'} the uninterrupted run's "
        f"({time.monotonic() - begin:.0f} s)"
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
