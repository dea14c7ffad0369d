"""What finished runs asked for and what they used; what to ask for next time. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from training.config import ClusterConfig

from .records import Record, mapping, number, whole
from .sacct import Used

GIB = float(1 << 30)
ROOM = 1.25
"""What is asked for over what was used: another seed, a slower node."""
LEAST_MINUTES = 10
BESIDE = 1.0 * GIB
"""Memory of a node beside the ranks: the node agent, torchrun, file system buffers."""


@dataclass(frozen=True)
class Efficiency:
    """One run; None is not known."""

    run_id: str
    source: str
    """accounting, or run directory."""
    cores: int | None
    cpu_seconds: float | None
    core_share: float | None
    """CPU time over the time of all cores that were held."""
    requested_bytes: float | None
    """Of a node."""
    peak_bytes: float | None
    """Of a node."""
    gpus: int | None
    gpu_peak_bytes: float | None
    """Of the rank with most."""
    gpu_bytes: float | None
    """Of one GPU."""
    mfu: float | None
    """Share of the devices' measured peak that training reached on real tokens."""
    seconds: float | None
    """Of the longest start."""
    limit_seconds: float | None
    ask: tuple[str, ...]
    """What to type next time."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**asdict(self), "ask": list(self.ask)}


def efficiency(record: Record, used: Mapping[str, Used]) -> Efficiency | None:
    """Return what a finished run used; None of one that did not finish.

    Args:
        record: the run.
        used: what accounting says, by job id.
    """
    if record.state != "finished":
        return None
    said = None if record.worker else used.get(record.job)
    config = record.config
    nodes = whole(config.get("cluster.nodes")) or 1
    cuda = record.unit == "GPU-hours"
    peak = number(record.results.get("peak_memory_bytes"))
    longest = max((a.seconds for a in record.attempts), default=record.seconds or 0.0) or None
    cores = (said.cores if said else 0) or next(
        (a.cores for a in reversed(record.attempts) if a.cores), None
    )
    cpu = said.cpu_seconds if said else None
    share = cpu / (cores * said.seconds) if said and cpu and cores and said.seconds else None
    ranks = (record.ranks or 1) / nodes
    node_peak = said.peak_bytes if said and said.peak_bytes else None
    if node_peak is None and peak and not cuda:
        node_peak = peak * ranks
    limit = said.limit_seconds if said else None
    if limit is None and config.get("cluster.executor") == "slurm":
        limit = 60.0 * minutes if (minutes := _minutes(config.get("cluster.time"))) else None
    found = Efficiency(
        run_id=record.run_id,
        source="accounting" if said else "run directory",
        cores=cores,
        cpu_seconds=cpu,
        core_share=share,
        requested_bytes=said.requested_bytes if said else _asked(config.get("cluster.mem")),
        peak_bytes=node_peak,
        gpus=(said.gpus if said else 0) or (record.ranks if cuda else None),
        gpu_peak_bytes=peak if cuda else None,
        gpu_bytes=number(mapping(record.plan.get("memory")).get("limit_bytes")) if cuda else None,
        mfu=number(record.throughput.get("mfu")),
        seconds=longest,
        limit_seconds=limit,
        ask=(),
    )
    measured = bool(said and said.peak_bytes)
    lanes = max((a.lanes for a in record.attempts), default=1)
    return replace(found, ask=tuple(_ask(found, nodes, ranks, measured, lanes)))


def efficiencies(records: Sequence[Record], used: Mapping[str, Used]) -> list[Efficiency]:
    """Return what finished runs used, and before them the workers of a sweep as accounting says.

    Accounting knows jobs: of a worker it tells what all its trials used together.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.state == "finished" and record.worker and record.job in used:
            groups.setdefault(record.job, []).append(record)
    found = [_worker(used[job], group) for job, group in groups.items()]
    return [*found, *(e for r in records if (e := efficiency(r, used)))]


def _worker(said: Used, records: Sequence[Record]) -> Efficiency:
    nodes = said.nodes
    ranks = max(r.ranks or 1 for r in records) / nodes
    share = None
    if said.cpu_seconds and said.cores and said.seconds:
        share = said.cpu_seconds / (said.cores * said.seconds)
    found = Efficiency(
        run_id=f"job {said.job}, finished trials: {len(records)}",
        source="accounting",
        cores=said.cores,
        cpu_seconds=said.cpu_seconds,
        core_share=share,
        requested_bytes=said.requested_bytes,
        peak_bytes=said.peak_bytes,
        gpus=said.gpus or None,
        gpu_peak_bytes=None,
        gpu_bytes=None,
        mfu=None,
        seconds=said.seconds,
        limit_seconds=said.limit_seconds,
        ask=(),
    )
    # Its time is that of as many trials as it took: the trials' own tell what one takes.
    flags = [f for f in _ask(found, nodes, ranks, True) if not f.startswith("--time")]
    return replace(found, ask=tuple(flags))


def _ask(found: Efficiency, nodes: int, ranks: float, measured: bool, lanes: int = 1) -> list[str]:
    """Return the flags for a run like it.

    Args:
        found: what it used.
        nodes: of its own.
        ranks: on a node.
        measured: whether its peak is all that was used of the node's memory.
        lanes: runs that share the node.
    """
    flags = []
    if found.peak_bytes:
        needed = found.peak_bytes if measured else lanes * (found.peak_bytes + BESIDE)
        flags.append(f"--mem {math.ceil(needed * ROOM / GIB)}G")
    if found.seconds:
        minutes = max(LEAST_MINUTES, 5 * math.ceil(found.seconds * ROOM / 300))
        flags.append(f"--time {minutes // 60:02d}:{minutes % 60:02d}:00")
    if found.core_share and found.cores:
        # Every rank computes on a core of its own, whatever the mean says.
        busy = math.ceil(found.core_share * found.cores / nodes * 1.1)
        flags.append(f"--cpus-per-node {min(found.cores // nodes, max(math.ceil(ranks), busy))}")
    return flags


def _minutes(text: Any) -> int | None:
    try:
        return ClusterConfig(time=str(text)).time_minutes
    except ValueError:
        return None


def _asked(text: Any) -> float | None:
    """Return the bytes of `--mem` as Slurm writes it, whose unit is MB where none is given."""
    from .sacct import parse_memory

    if not text:
        return None
    plain = str(text).upper().removesuffix("B")
    return parse_memory(plain if plain[-1:].isalpha() else f"{plain}M")
