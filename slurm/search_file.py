"""`search.json`: what a search may try, and how values become a trial. Written by launch. Pure.

All that needs a plan was planned on the login node, for every combination of the axes that change
one; a worker only combines.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from training.config import RunConfig, UsageError
from training.config.schema import build
from training.rundir import read_json
from training.sweepdir import SweepDir, Trial

LIGHT = ("batch", "optim", "train")
"""Sections of the configuration of which nothing else follows; a base is made for all others."""
FRACTION = "task.train_fraction"
"""Axis that tells a trial on all rows from one on a part of them."""
SEED = "seed"
RANGES = ("model.dropout", "train.seed")
"""Keys outside `optim` from which no plan follows."""

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["none", "median", "successive-halving"]


@dataclass(frozen=True)
class Axis:
    """One thing that is searched: some choices, or a range."""

    name: str
    """As typed."""
    key: str
    """Of the configuration; `model` is its own."""
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether values are drawn by their logarithm."""
    whole: bool = False
    """Whether a range holds whole numbers only."""

    @property
    def light(self) -> bool:
        """Whether its values are set on a base, rather than being a part of it."""
        return self.key.split(".")[0] in LIGHT or self.key in RANGES

    @property
    def planned(self) -> bool:
        """Whether plans follow from it: from all but the optimizer's settings and the seed."""
        if self.key in RANGES:
            return False
        return not self.key.startswith("optim.") or self.key == "optim.name"

    @property
    def size(self) -> float:
        """How many values there are."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.whole else math.inf

    @property
    def ends(self) -> tuple[Any, ...]:
        """The choices, or both ends of the range."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def values(self) -> list[Any]:
        """Return all values of a finite axis."""
        return list(self.choices) or list(range(int(self.low), int(self.high) + 1))

    def draw(self, rng: random.Random) -> Any:
        """Return a value at random."""
        if self.choices:
            return rng.choice(self.choices)
        if self.whole:
            return rng.randint(int(self.low), int(self.high))
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class Option:
    """What runs share that agree in all that changes a plan."""

    when: Mapping[str, Any]
    """Values by axis."""
    base: str
    plan: str


@dataclass(frozen=True)
class Search:
    """What a search was asked to be."""

    trials: int
    axes: tuple[Axis, ...]
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    seed: int = 1
    fraction: float = 1.0
    """Of the training rows."""
    finish: int = 1
    """How many of the best are run on all rows."""
    finish_seeds: tuple[int, ...] = ()
    """Seeds of each of those; empty: the one of the search."""

    @property
    def size(self) -> float:
        """How many different configurations there are; infinite with a continuous axis."""
        return math.prod(axis.size for axis in self.axes)

    @property
    def target(self) -> int:
        """How many trials are asked for."""
        return int(min(self.trials, self.size))

    @property
    def last_runs(self) -> int:
        """How many runs on all rows follow."""
        if self.fraction == 1 and not self.finish_seeds:
            return 0  # they are the search's own
        return min(self.finish, self.target) * (len(self.finish_seeds) or 1)

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)

    def everything(self) -> Iterator[dict[str, Any]]:
        """Yield all configurations of a finite space."""
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.values() for axis in self.axes)):
            yield dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class SearchFile:
    """A search with all that its trials are made of."""

    search: Search
    metric: str
    maximize: bool
    parts: tuple[Option, ...]
    """For trials on the search's fraction of the rows."""
    whole: tuple[Option, ...]
    """For trials on all rows."""
    bases: Mapping[str, Mapping[str, Any]]
    """Configurations by digest as they were asked for: what run ids are taken from."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)

    def trial(
        self,
        number: int,
        values: Mapping[str, Any],
        best_of: int | None = None,
        seed: int | None = None,
    ) -> Trial:
        """Return the trial that some values make.

        Args:
            number: the trial's.
            values: by axis.
            best_of: the trial whose values are run on all rows.
            seed: of that run, if it has one of its own.

        Raises:
            UsageError: the values are none that was planned for, or contradict each other.
        """
        search = self.search
        option = self._option(values, self.parts if best_of is None else self.whole)
        axes = dict(values)
        settings = {axis.key: values[axis.name] for axis in search.axes if axis.light}
        if search.fraction < 1:
            axes[FRACTION] = search.fraction if best_of is None else 1.0
        if seed is not None:
            axes[SEED] = settings["train.seed"] = seed
        config = build(RunConfig, self.bases[option.base]).with_values(settings)
        config.check()
        # What is searched, and, of one of the best, what is kept of it.
        counts = [axis.key for axis in search.axes]
        run_id = config.run_id(also=counts if best_of is None else [*counts, "train.keep"])
        return Trial(number, run_id, axes, settings, option.base, option.plan, best_of)

    def _option(self, values: Mapping[str, Any], options: tuple[Option, ...]) -> Option:
        for option in options:
            if all(values[name] == value for name, value in option.when.items()):
                return option
        raise UsageError(f"search.json has no plan for {dict(values)}")


def read_search(sweep: SweepDir) -> SearchFile | None:
    """Return what a sweep searches, None if it is a grid.

    Raises:
        UsageError: the file is damaged.
    """
    if not sweep.search.exists():
        return None
    value = read_json(sweep.search)
    try:
        return _search_file(value)
    except (TypeError, KeyError, AttributeError):
        raise UsageError(f"{sweep.search} is damaged: type the sweep's line again") from None


def unasked(sweep: SweepDir, trials: Iterable[Trial]) -> int:
    """Return how many trials of a search nobody asked for yet; of a grid there are none."""
    try:
        found = read_search(sweep)
    except UsageError:
        return 0
    own = sum(trial.best_of is None for trial in trials)
    return max(0, found.search.target - own) if found else 0


def _search_file(value: Any) -> SearchFile:
    found = value["search"]
    axes = tuple(Axis(**{**axis, "choices": tuple(axis["choices"])}) for axis in found["axes"])
    seeds = tuple(found["finish_seeds"])
    return SearchFile(
        search=Search(**{**found, "axes": axes, "finish_seeds": seeds}),
        metric=value["metric"],
        maximize=value["maximize"],
        parts=tuple(Option(**option) for option in value["parts"]),
        whole=tuple(Option(**option) for option in value["whole"]),
        bases=value["bases"],
    )
