"""Before training: does every rank have what the plan says, and is every node well?

Ranks tell rank 0 what they have (cores, threads, device, free memory), then all multiply matrices
and sum a vector at the same time. Rank 0 compares them with the plan and with each other. A few
tenths of a second; a job that goes wrong here has lost no more than its start.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .config import RunConfig, UsageError
from .distributed import World
from .faults import parse_fault, spent, strike
from .rundir import RunDir, read_json

SLOW = 0.4
"""A rank below this share of its peers' median speed is sick. CPU nodes that others use too, and
GPUs of one type, differ by less."""
LOOK_SECONDS, SECOND_LOOK_SECONDS = 0.12, 1.0
"""How long a rank multiplies matrices; and again, where one seemed slow."""
LEAST_FREE = 0.5
"""Share of a GPU's memory that must be free at the start: less is somebody else's process."""
LEAST_FREE_MB = 256
"""The same for a CPU rank, in MiB."""
REDUCED = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Elements of the vector that is summed over all ranks (fp32)."""


class SickNode(RuntimeError):
    """A node does not do what its peers do; the run is to go on without it."""

    def __init__(self, message: str, blame: str, secondary: bool) -> None:
        super().__init__(message)
        self.blame = blame
        """The host."""
        self.secondary = secondary
        """Rank 0 tells the story, the others only end."""


@dataclass(frozen=True)
class RankFacts:
    """What one rank has, and how fast it is."""

    rank: int
    host: str
    node: int
    cores: tuple[int, ...]
    """Numbers of the cores that it may use."""
    machine_cores: int
    threads: int
    """Threads of torch."""
    device: str
    """Name of the GPU, or `cpu`."""
    model: str
    """What ranks must share to be compared: the GPU's name, or the CPU's."""
    identity: str = ""
    """Identity of the GPU; empty on CPUs."""
    free_mb: float | None = None
    total_mb: float | None = None
    """Memory of the GPU, or of the machine, in MiB."""
    matrix_flops: float | None = None
    """Floating point operations a second of a matrix product (the fastest one)."""
    reduce_seconds: float | None = None
    reduced_right: bool = True
    limits: Mapping[str, str] | None = None
    """Variables that say how many threads libraries may have."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON, the cores as their number."""
        return asdict(self) | {"cores": len(self.cores)}


@dataclass(frozen=True)
class Sick:
    """A node that is to be left out, and why."""

    host: str
    why: str


def check_health(
    run: RunDir, attempt: int, config: RunConfig, world: World, device: torch.device
) -> list[dict[str, Any]]:
    """Compare all ranks with the plan and with each other. Collective.

    Returns:
        What every rank has, ready for JSON, on rank 0; an empty list on others.

    Raises:
        UsageError: a rank does not have what the plan says.
        SickNode: a node is to blame, and the run is to go on without it.
    """
    own = facts(world, device)
    ranks = world.gather(own)
    plan = read_json(run.plan)
    wrong = sick = None
    if world.is_main:
        wrong = plan_problem(ranks, plan if isinstance(plan, dict) else {}, config)
        sick = unfit(ranks) if config.cluster.health_check else None
    _conclude(world, wrong, sick)
    if not config.cluster.health_check or world.size == 1:
        return [r.plain() for r in ranks]
    slowed = _rehearsed(run, attempt, config, world)
    for seconds in (LOOK_SECONDS, SECOND_LOOK_SECONDS):
        told = world.gather(_measured(own, device, seconds, slowed))
        ranks = told or ranks
        sick = slow_node(ranks) or wrong_sum(ranks)
        # Once slow may be chance: a core that did something else. Twice is not.
        if not world.broadcast(sick is not None):
            break
    _conclude(world, None, sick)
    return [r.plain() for r in ranks]


def _conclude(world: World, wrong: str | None, sick: Sick | None) -> None:
    """Raise on every rank what rank 0 found."""
    wrong, sick = world.broadcast((wrong, sick))
    if wrong:
        raise UsageError(wrong)
    if sick:
        raise SickNode(f"{sick.host} is sick: {sick.why}", sick.host, not world.is_main)


def facts(world: World, device: torch.device) -> RankFacts:
    """Return what this rank has."""
    common: dict[str, Any] = {
        "rank": world.rank,
        # Slurm's name of the node, which is the one that can be excluded.
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "node": world.node,
        "cores": tuple(sorted(os.sched_getaffinity(0))),
        "machine_cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "limits": {k: v for k in THREAD_VARIABLES if (v := os.environ.get(k))},
    }
    if device.type != "cuda":
        free, total = _machine_memory()
        return RankFacts(device="cpu", model=_cpu_name(), free_mb=free, total_mb=total, **common)
    free, total = (value / 2**20 for value in torch.cuda.mem_get_info(device))
    about = torch.cuda.get_device_properties(device)
    return RankFacts(
        device=about.name,
        model=about.name,
        identity=str(getattr(about, "uuid", "")),
        free_mb=free,
        total_mb=total,
        **common,
    )


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")


def usable_cores(rank: RankFacts, ranks: Sequence[RankFacts]) -> int:
    """Return a rank's share of the cores that it may use: peers of its node may share them."""
    own = set(rank.cores)
    sharing = sum(1 for r in ranks if r.node == rank.node and own & set(r.cores))
    return max(1, len(own) // max(1, sharing))


def plan_problem(
    ranks: Sequence[RankFacts], plan: Mapping[str, Any], config: RunConfig
) -> str | None:
    """Return one line that says which rank lacks what the plan says; None if all is well.

    A machine that has fewer cores than Slurm says it has is the site's affair; a rank that may
    not use those that are there is ours.
    """
    planned = int(plan.get("cores_per_rank") or 0)
    procs = config.cluster.procs_per_node or 1
    for r in ranks if planned else ():
        there = max(1, min(planned, r.machine_cores // procs))
        cores = usable_cores(r, ranks)
        if cores < there:
            return (
                f"rank {r.rank} on {r.host} may use {_count(cores, 'core')}, the plan says "
                f"{planned}: something binds it (srun's --cpu-bind or SLURM_CPU_BIND, a task "
                "plugin, taskset); have the binding removed, or plan with what there is: "
                f"--cpus-per-node {cores * procs}"
            )
        env = config.cluster.env
        if r.threads < there and not any(name in env for name in THREAD_VARIABLES):
            said = ", ".join(f"{k}={v}" for k, v in (r.limits or {}).items() if v != str(there))
            return (
                f"rank {r.rank} on {r.host} computes with {_count(r.threads, 'thread')}, the plan "
                f"says {planned}" + (f": {said} is set" if said else "") + "; unset it before "
                "submitting, or set it on purpose in cluster.env"
            )
    device = plan.get("device")
    for r in ranks:
        if device == "cuda" and r.device == "cpu":
            return f"rank {r.rank} on {r.host} computes on the CPU, the plan says a GPU"
    taken: dict[tuple[int, str], RankFacts] = {}
    for r in ranks:
        other = taken.setdefault((r.node, r.identity), r) if r.identity else r
        if other is not r:
            return (
                f"ranks {other.rank} and {r.rank} on {r.host} have the same GPU ({r.device}): "
                "ask for as many GPUs as ranks (--gpus-per-node), and leave "
                "CUDA_VISIBLE_DEVICES to Slurm"
            )
    return None


def unfit(ranks: Sequence[RankFacts]) -> Sick | None:
    """Return the node whose memory somebody else holds; None if there is none."""
    for r in ranks:
        if r.free_mb is None or not r.total_mb:
            continue
        if r.identity and r.free_mb < LEAST_FREE * r.total_mb:
            return Sick(
                r.host,
                f"the GPU of rank {r.rank} has {r.free_mb / 1024:.1f} of "
                f"{r.total_mb / 1024:.1f} GiB free: another process holds the rest",
            )
        if not r.identity and r.free_mb < LEAST_FREE_MB:
            return Sick(r.host, f"{r.free_mb:.0f} MiB of memory are free")
    return None


def slow_node(ranks: Sequence[RankFacts]) -> Sick | None:
    """Return the node of the slowest rank if it is far slower than its peers' median."""
    groups: dict[str, list[RankFacts]] = {}
    for r in ranks:
        if r.matrix_flops:
            groups.setdefault(r.model, []).append(r)
    for peers in groups.values():
        speeds = [r.matrix_flops or 0.0 for r in peers]
        # The higher of two: with one peer it is the peer.
        median = statistics.median_high(speeds)
        worst = min(peers, key=lambda r: r.matrix_flops or 0.0)
        speed = worst.matrix_flops or 0.0
        if speed < SLOW * median:
            return Sick(
                worst.host,
                f"rank {worst.rank} multiplies matrices at {speed / 1e9:,.0f} GFLOP/s, its peers "
                f"at {median / 1e9:,.0f} (median; the same {worst.model})",
            )
    return None


def wrong_sum(ranks: Sequence[RankFacts]) -> Sick | None:
    """Return the node whose part of an all-reduce came out wrong; None if there is none."""
    wrong = [r for r in ranks if not r.reduced_right]
    if not wrong or len(wrong) == len(ranks):
        return None  # all of them: nobody can tell whose fault it is, and the loss will
    return Sick(wrong[0].host, f"rank {wrong[0].rank} got a wrong sum from an all-reduce")


def matrix_flops(device: torch.device, seconds: float, work: int = 1) -> float:
    """Return the floating point operations a second of a matrix product, by the fastest one.

    The fastest of many short ones is what a rank can do; the mean would tell what else ran on
    its cores meanwhile. For the same reason a CPU multiplies with one thread: several wait for
    each other, and so for whatever else runs on any of their cores.

    Args:
        device: where to compute.
        seconds: how long to try.
        work: products that are made where one is counted: a rehearsed fault.
    """
    size = 2048 if device.type == "cuda" else 256
    a = torch.rand(size, size, device=device)
    b = torch.rand(size, size, device=device)
    threads = torch.get_num_threads()
    if device.type != "cuda":
        torch.set_num_threads(1)
    try:
        torch.mm(a, b)
        _settle(device)
        best, end = float("inf"), time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or best == float("inf"):
            for _ in range(work):
                torch.mm(a, b)
            _settle(device)
            best = min(best, time.perf_counter() - start)
    finally:
        if device.type != "cuda":
            torch.set_num_threads(threads)
    return 2.0 * size**3 / best


def reduce_once(device: torch.device, elements: int) -> tuple[float, bool]:
    """Sum a vector over all ranks; return the seconds it took and whether the sum is right."""
    rank, size = dist.get_rank(), dist.get_world_size()
    vector = torch.full((elements,), float(rank + 1), device=device)
    _settle(device)
    start = time.perf_counter()
    dist.all_reduce(vector)
    _settle(device)
    seconds = time.perf_counter() - start
    return seconds, bool((vector == size * (size + 1) / 2).all())


def _measured(own: RankFacts, device: torch.device, seconds: float, slowed: bool) -> RankFacts:
    flops = matrix_flops(device, seconds, work=10 if slowed else 1)
    reduce_once(device, 1)  # NCCL builds its channels at the first one
    took, right = reduce_once(device, REDUCED[device.type])
    values = asdict(own) | {
        "matrix_flops": flops,
        "reduce_seconds": took,
        "reduced_right": right,
    }
    return RankFacts(**values)


def _rehearsed(run: RunDir, attempt: int, config: RunConfig, world: World) -> bool:
    """Return whether `train.fault` makes this rank slow (`slow@0:RANK`), once a run."""
    fault = parse_fault(config.train.fault) if config.train.fault else None
    if fault is None or fault.kind != "slow":
        return False
    due = world.broadcast(not spent(run))
    if not due or fault.rank(world.size) != world.rank:
        return False
    strike(fault, run, attempt, world.rank)
    return True


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine_memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[float | None, float | None]:
    """Return free and whole memory of the machine in MiB."""
    try:
        lines = [line.split() for line in meminfo.read_text().splitlines()]
    except OSError:
        return None, None
    found = {words[0].rstrip(":"): float(words[1]) / 1024 for words in lines if len(words) > 1}
    return found.get("MemAvailable"), found.get("MemTotal")


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "CPU"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "CPU")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
