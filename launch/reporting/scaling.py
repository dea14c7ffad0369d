"""How speed grows with ranks, and what takes the rest. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from .axes import BATCH, RANKS, SEED, axis_key, shown
from .cells import Trial
from .records import Record, number
from .stats import Interval, mean_ratio

PARTS = ("useful", "padding", "imbalance", "communication", "data")
"""What a rank's training time goes into; together all of it."""


@dataclass(frozen=True)
class Point:
    """Runs of one number of ranks."""

    ranks: int
    batch: int
    speed: float
    """Examples a second, mean over seeds."""
    efficiency: Interval
    """Speed of a rank over that of a rank in the smallest runs; these are 1 by definition."""
    shares: Mapping[str, float]
    """See `PARTS`; empty where the runs did not tell."""
    arithmetic: float | None
    """Useful tokens a second of the useful time and rank, over that in the smallest run."""


@dataclass(frozen=True)
class Series:
    """Runs that differ in their ranks: `strong` at one global batch, `weak` at one per rank."""

    kind: str
    name: str
    points: tuple[Point, ...]

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def loss_shares(throughput: Mapping[str, Any]) -> dict[str, float]:
    """Return what a rank's training time goes into; empty where the run did not tell.

    With d and m the shares of waiting for data and of communication, p the padding efficiency and
    r the modelled cost of the slowest rank over the mean (docs/exact-batches.md): a mean rank
    computes x = 1 - d - m, of which p is useful. It waits for the slowest x·(r - 1), which the
    measured m has in it, so communication proper is m - x·(r - 1), at least 0.
    """
    waits = number(throughput.get("data_wait_share")) or 0.0
    meets = number(throughput.get("communication_share"))
    padding = number(throughput.get("padding_efficiency"))
    slowest = number(throughput.get("rank_imbalance"))
    if meets is None or padding is None or slowest is None:
        return {}
    computes = max(0.0, 1.0 - waits - meets)
    imbalance = min(meets, computes * max(0.0, slowest - 1.0))
    return {
        "useful": computes * padding,
        "padding": computes * (1.0 - padding),
        "imbalance": imbalance,
        "communication": meets - imbalance,
        "data": waits,
    }


def make_series(trials: Sequence[Trial], tied: Collection[str] = ()) -> list[Series]:
    """Return every strong and weak series of trials of one task with two or more world sizes.

    Args:
        trials: they.
        tied: axes that follow the batch, see `axes.tied_axes`.
    """
    known = [
        t
        for t in trials
        if t.record.state == "finished"
        and t.record.ranks
        and t.record.global_batch
        and number(t.record.throughput.get("examples_per_second"))
    ]
    found = []
    for kind in ("strong", "weak"):
        groups: dict[str, list[Trial]] = {}
        for trial in known:
            groups.setdefault(_group(trial, kind, tied), []).append(trial)
        for group in groups.values():
            if len({t.record.ranks for t in group}) > 1:
                found.append(Series(kind, _name(group, kind, tied), tuple(_points(group))))
    return found


def _rest(trial: Trial, tied: Collection[str]) -> dict[str, Any]:
    apart = (SEED, BATCH, *RANKS)
    return {n: v for n, v in trial.axes.items() if axis_key(n) not in apart and n not in tied}


def _group(trial: Trial, kind: str, tied: Collection[str]) -> str:
    record = trial.record
    size = record.global_batch if kind == "strong" else _per_rank(record)
    kinds = [record.plan.get("device_kind"), record.results.get("precision")]
    return json.dumps([_rest(trial, tied), size, *kinds], sort_keys=True)


def _per_rank(record: Record) -> float:
    assert record.global_batch and record.ranks
    return record.global_batch / record.ranks


def _name(group: Sequence[Trial], kind: str, tied: Collection[str]) -> str:
    first = group[0].record
    size = f"batch {first.global_batch}" if kind == "strong" else f"{_per_rank(first):g} a rank"
    return ", ".join([size, *(f"{n}={shown(v)}" for n, v in _rest(group[0], tied).items())])


def _speed(record: Record) -> float:
    return number(record.throughput.get("examples_per_second")) or 0.0


def _points(group: Sequence[Trial]) -> Iterable[Point]:
    sizes = sorted({t.record.ranks for t in group if t.record.ranks})
    by_size = {n: [t.record for t in group if t.record.ranks == n] for n in sizes}
    base = by_size[sizes[0]]
    each = [_speed(r) / sizes[0] for r in base]
    base_work = _arithmetic(base, sizes[0])
    for size, records in by_size.items():
        ratio = Interval(1.0, None, None, len(base))
        if size != sizes[0]:
            ratio = mean_ratio([_speed(r) / size for r in records], each)
        work = _arithmetic(records, size)
        yield Point(
            ranks=size,
            batch=records[0].global_batch or 0,
            speed=fmean(_speed(r) for r in records),
            efficiency=ratio,
            shares=_mean_shares(records),
            arithmetic=work / base_work if work and base_work else None,
        )


def _mean_shares(records: Iterable[Record]) -> dict[str, float]:
    told = [s for r in records if (s := loss_shares(r.throughput))]
    return {part: fmean(s[part] for s in told) for part in PARTS} if told else {}


def _arithmetic(records: Sequence[Record], ranks: int) -> float | None:
    """Return examples a second of useful time and rank; None where the shares are not known."""
    rates = []
    for record in records:
        useful = loss_shares(record.throughput).get("useful")
        if useful:
            rates.append(_speed(record) / ranks / useful)
    return fmean(rates) if rates else None
