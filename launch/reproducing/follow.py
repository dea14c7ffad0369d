"""Following a reproduction: its counts as they change, and tasks that are decided early."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from launch.sweep_view import SweepView, looks_at_sweep
from launch.sweeping import ask_to_stop, count_text
from training.rundir import write_atomic
from training.sweepdir import SweepDir, Trial, read_trials

from .asked import Asked
from .collect import ENDED, ended_in_a_row

SECONDS = 5.0
"""Between two looks: many files on a shared disk."""


def seeds_ended(seen: SweepView, task: str) -> int:
    """Return how many of a task's seeds have ended, see `ended_in_a_row`."""
    return ended_in_a_row([seen.states[t.number] for t in _seeds(seen, task)])


def _seeds(seen: SweepView, task: str) -> list[Trial]:
    own = [t for t in seen.trials if t.axes.get("task") == task]
    return sorted(own, key=lambda t: int(t.axes["seed"]))


def due(asked: Asked, ended: int, looked: int) -> int | None:
    """Return the planned look that is to be taken now; None where there is none.

    Args:
        asked: with its looks.
        ended: seeds of a task that have ended.
        looked: at the last look.
    """
    planned = [n for n in asked.looks if looked < n <= ended]
    return max(planned) if planned else None


def drop(sweep: SweepDir, numbers: Iterable[int]) -> None:
    """Take trials out of a sweep; those that run end at their next step."""
    gone = set(numbers)
    trials = read_trials(sweep)
    kept = [t for t in trials if t.number not in gone]
    lines = (json.dumps(t.plain(), ensure_ascii=False) for t in kept)
    write_atomic(sweep.trials, "".join(f"{line}\n" for line in lines))
    ask_to_stop(sweep, [t for t in trials if t.number in gone and sweep.run(t).path.is_dir()])


def unfinished(seen: SweepView, task: str, after: int) -> list[Trial]:
    """Return a task's trials after the first so many seeds, but for those that have ended."""
    return [t for t in _seeds(seen, task)[after:] if seen.states[t.number] not in ENDED]


def looks_taken(asked: Asked) -> dict[str, int]:
    """Return after how many seeds tasks were looked at last: never those that are open."""
    return {task: asked.seeds if task in asked.stopped else 0 for task in asked.tasks}


def take_looks(
    sweep: SweepDir,
    asked: Asked,
    seen: SweepView,
    looked: dict[str, int],
    decided: Callable[[str, int], str | None],
    stop: Callable[[str, int], None],
    say: Callable[[str], None],
) -> None:
    """Take the planned looks that are due; tasks that are decided by them lose their other seeds.

    Args:
        sweep: the sweep.
        asked: what is judged.
        seen: how it stands.
        looked: after how many seeds each task was looked at last; brought up to date.
        decided: what a task's first so many seeds say: the verdict in words, None if undecided.
        stop: notes that a task needs no more than so many seeds.
        say: tells a person.
    """
    for task, last in looked.items():
        count = due(asked, seeds_ended(seen, task), last)
        if count is None or count >= asked.seeds:
            continue
        looked[task] = count
        verdict = decided(task, count)
        if verdict is None:
            continue
        looked[task] = asked.seeds
        stop(task, count)
        drop(sweep, (t.number for t in unfinished(seen, task, count)))
        say(f"{time.strftime('%H:%M:%S')}  {task}: {verdict} after {count} seeds")


def follow(
    sweep: SweepDir,
    asked: Asked,
    decided: Callable[[str, int], str | None],
    stop: Callable[[str, int], None],
    say: Callable[[str], None],
) -> bool:
    """Follow a sweep to its end; return whether all of it ended, False if a person left.

    Args:
        sweep: the sweep.
        asked: what is judged.
        decided: what a task's first so many seeds say: the verdict in words, None if undecided.
        stop: notes that a task needs no more than so many seeds.
        say: tells a person.
    """
    told, looked = "", looks_taken(asked)

    def say_when(text: str) -> None:
        say(f"{time.strftime('%H:%M:%S')}  {text}")

    try:
        for seen in looks_at_sweep(sweep, SECONDS, say_when):
            text = f"{len(seen.trials)} runs: {count_text(seen.states)}"
            if text != told:
                say_when(text)
                told = text
                take_looks(sweep, asked, seen, looked, decided, stop, say)
    except KeyboardInterrupt:
        return False
    return True
