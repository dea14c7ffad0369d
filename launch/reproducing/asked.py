"""What a reproduction is to judge, and how: `reproduction.json` in its sweep's folder.

It is written before anything is trained: the number of seeds, the margin and the looks are no
choice of one who has seen scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.config import UsageError
from training.rundir import read_json, write_json
from training.sweepdir import SweepDir

FORMAT = 1
LEVEL = 0.05
"""How often a verdict may be wrong, unless another level is typed."""
HIGHEST = 0.2
"""Level that may be typed. Seeds that are added spend half of the one before each time, so all of
it stays below twice that, and a replay has it for its level."""
FEWEST = 3
"""Seeds of the first look."""


@dataclass(frozen=True)
class Stop:
    """How a task was decided that needs no more seeds."""

    after: int
    """Seeds that its verdict is of, from the first."""
    looks: tuple[int, ...]
    level: float
    """The plan by which it was decided: what comes later does not change it."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {"after": self.after, "looks": list(self.looks), "level": self.level}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be judged, and how."""

    reference: Mapping[str, Any]
    """The set of references, as its file holds it."""
    set_name: str
    tasks: tuple[str, ...]
    seeds: int
    """Of each task, from 1."""
    margin: float | None = None
    """How far from the published score still counts as the same, as a fraction; None: a point, or
    a standard error of the rows that are scored."""
    level: float = LEVEL
    looks: tuple[int, ...] = ()
    """Numbers of seeds after which a task may be decided, the last one all of them."""
    spent: float = 0.0
    """Of the error rate, by verdicts before seeds were added."""
    changed: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By task, what is not the recipe's."""
    overrides: tuple[tuple[str, str], ...] = ()
    """What was typed over the recipe, by key."""
    stopped: Mapping[str, Stop] = field(default_factory=dict)
    """Tasks that were decided before all seeds were run."""
    anew: bool = False
    """Whether it trains runs of its own, whatever was trained before: a replay."""
    line: tuple[str, ...] = ()
    """The words that were typed."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "format": FORMAT,
            "set": self.set_name,
            "reference": dict(self.reference),
            "tasks": list(self.tasks),
            "seeds": self.seeds,
            "margin": self.margin,
            "level": self.level,
            "looks": list(self.looks),
            "spent": self.spent,
            "changed": {k: list(v) for k, v in self.changed.items()},
            "overrides": [list(pair) for pair in self.overrides],
            "stopped": {task: stop.plain() for task, stop in self.stopped.items()},
            "anew": self.anew,
            "line": list(self.line),
        }

    def decided(self, tasks: Mapping[str, int]) -> Asked:
        """Return it with tasks that are decided now, each after so many seeds."""
        new = {task: Stop(after, self.looks, self.level) for task, after in tasks.items()}
        return replace(self, stopped={**self.stopped, **new})

    @property
    def total_error(self) -> float:
        """How often a verdict may be wrong, over all looks and added seeds."""
        return self.spent + self.level


def plan_looks(seeds: int, early: bool) -> tuple[int, ...]:
    """Return after how many seeds of a task its verdict may fall."""
    return tuple(range(min(FEWEST, seeds), seeds + 1)) if early else (seeds,)


def own_tasks(folder: Path) -> Path:
    """Return where a reproduction keeps the task files that are not this project's."""
    return folder / "tasks"


def file_of(sweep: SweepDir) -> Path:
    """Return where a sweep's reproduction is written down."""
    return sweep.path / "reproduction.json"


def read_asked(sweep: SweepDir) -> Asked | None:
    """Return what a sweep is to judge; None if it is an ordinary one.

    Raises:
        UsageError: the file is damaged or of a newer version.
    """
    path = file_of(sweep)
    if not path.is_file():
        return None
    return asked_of(read_json(path), str(path))


def asked_of(value: object, where: str) -> Asked:
    """Return what a JSON object asks for.

    Raises:
        UsageError: it is damaged or of a newer version.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{where}: its content was altered")
    version = value.get("format")
    if not isinstance(version, int) or version < 1:
        raise _altered(where, f"its format is {version!r}, not a number from 1 to {FORMAT}")
    if version > FORMAT:
        raise UsageError(f"{where} is of a newer glueline (format {version}): update this one")
    try:
        found = Asked(
            reference=dict(value["reference"]),
            set_name=str(value["set"]),
            tasks=tuple(map(str, value["tasks"])),
            seeds=int(value["seeds"]),
            margin=None if value["margin"] is None else float(value["margin"]),
            level=float(value["level"]),
            looks=tuple(map(int, value["looks"])),
            spent=float(value["spent"]),
            changed={str(k): list(v) for k, v in value["changed"].items()},
            overrides=tuple((str(k), str(v)) for k, v in value["overrides"]),
            stopped={
                str(task): Stop(
                    int(stop["after"]), tuple(map(int, stop["looks"])), float(stop["level"])
                )
                for task, stop in value["stopped"].items()
            },
            # What was written before replays had runs of their own does not say it.
            anew=bool(value.get("anew", False)),
            line=tuple(map(str, value["line"])),
        )
    except KeyError as error:
        raise _altered(where, f"{error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise _altered(where, str(error)) from None
    if problem := _out_of_range(found):
        raise _altered(where, problem)
    return found


def _out_of_range(asked: Asked) -> str | None:
    """Return what nobody can have asked for; None where all could be."""
    if not 0 < asked.level < 2 * HIGHEST:
        return f"the level {asked.level:g} is not between 0 and {2 * HIGHEST:g}"
    if not 0 <= asked.spent < 4 * HIGHEST:
        return f"{asked.spent:g} of the error rate is not spent by adding seeds"
    if asked.seeds < FEWEST:
        return f"{asked.seeds} seeds are fewer than {FEWEST}"
    if not asked.tasks:
        return "there are no tasks"
    if asked.margin is not None and not 0 < asked.margin < 1:
        return f"the margin {asked.margin:g} is not between 0 and 1"
    return None


def _altered(where: str, what: str) -> UsageError:
    return UsageError(f"{where}: its content was altered: {what}")


def write_asked(sweep: SweepDir, asked: Asked) -> None:
    """Write down what a sweep is to judge.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        sweep.path.mkdir(parents=True, exist_ok=True)
        write_json(file_of(sweep), asked.plain())
    except OSError as error:
        raise UsageError(f"cannot write to {sweep.path}: {error.strerror}") from None


def check_same(there: Asked, reference: Mapping[str, Any], margin: float | None) -> None:
    """Raise `UsageError` if a reproduction is asked for again with other numbers to judge."""
    for name, before, after in (
        ("the reference", there.reference, reference),
        ("the margin", there.margin, margin),
    ):
        if before != after:
            raise _other(there.set_name, name)


def _other(name: str, what: str) -> UsageError:
    return UsageError(
        f"reproduction {name} was asked for with another value of {what}: give this one another "
        "--name"
    )


def continued(there: Asked, now: Asked) -> Asked:
    """Return what is judged when a reproduction is asked for again.

    What was planned holds. With more seeds, the tasks that are open are looked at once more, at
    half the level of the time before: the chance of a wrong verdict grows by that, and is told.

    Args:
        there: with all tasks stopped that are decided.
        now: what is asked for.

    Raises:
        UsageError: something else is asked for under the same name.
    """
    check_same(there, now.reference, now.margin)
    if there.level != now.level and not there.spent:
        raise _other(now.set_name, "the level")
    both = set(there.tasks) & set(now.tasks)
    if any(there.changed.get(task) != now.changed.get(task) for task in both):
        raise _other(now.set_name, "what is changed")
    tasks = tuple(dict.fromkeys([*there.tasks, *now.tasks]))
    changed = {**there.changed, **now.changed}
    if now.seeds < there.seeds:
        raise UsageError(
            f"--seeds {now.seeds}: there are {there.seeds} already; the verdict is of all of them"
        )
    if now.seeds == there.seeds:
        return replace(there, tasks=tasks, changed=changed)
    return replace(
        there,
        tasks=tasks,
        changed=changed,
        seeds=now.seeds,
        level=there.level / 2,
        looks=(now.seeds,),
        spent=there.spent + there.level,
        line=now.line,
    )
