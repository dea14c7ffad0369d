"""The nodes that a run will get: what Slurm says, or what this machine has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slurm.scontrol import Refused, Silent, ask, job_fields
from training.config import ClusterConfig, RunConfig, UsageError, nearest

from . import machine
from .doctor_login import parse_config
from .limits import check_limits, clock, read_limits
from .node_kinds import NodeKind, fitting

SECONDS = 5.0
"""How long Slurm may take to describe a node."""


@dataclass(frozen=True)
class Site:
    """The kinds of node that the run may get."""

    where: str
    """For people: `partition gpu`, `this machine`."""
    kinds: tuple[NodeKind, ...]
    total: int = 1
    """All nodes there, also of other kinds."""
    most_cpus: int | None = None
    """Cores of a node that one job gets at most, where that is limited."""

    @property
    def gpus(self) -> int:
        """GPUs of the node that has fewest."""
        return min((k.gpu_count for k in self.kinds), default=0)

    @property
    def types(self) -> list[str]:
        """Names of the GPUs, where Slurm knows them."""
        return sorted({t for k in self.kinds for t in k.gpus if t})

    @property
    def most_cores(self) -> int | None:
        """Cores of the node that has most; None where it is not known."""
        most = max((k.cpus for k in self.kinds), default=0)
        return min(filter(None, (most, self.most_cpus)), default=None)

    def cores(self, gpus: int) -> tuple[int, str] | None:
        """Return the cores that go with some of a node's GPUs (0: all cores), and why."""
        shares = [_share(k.cpus, gpus, k.gpu_count) for k in self.kinds if k.cpus]
        if not shares:
            return None
        if self.most_cpus is not None and self.most_cpus < min(shares):
            return self.most_cpus, f"as many as {self.where} gives a job on a node"
        part = any(0 < gpus < k.gpu_count for k in self.kinds)
        return min(shares), self._why(gpus) if part else f"all of {self.where}"

    def memory(self, gpus: int) -> tuple[str, str] | None:
        """Return the memory that goes with some of a node's GPUs; None: Slurm's default."""
        if (
            not gpus
            or not self.kinds
            or not all(k.memory_mb and k.gpu_count >= gpus for k in self.kinds)
        ):
            return None
        if all(k.gpu_count == gpus for k in self.kinds):
            return "0", f"all of {self.where}"
        least = min(_share(k.memory_mb, gpus, k.gpu_count) for k in self.kinds)
        return f"{least}M", self._why(gpus)

    def _why(self, gpus: int) -> str:
        counts = sorted({k.gpu_count for k in self.kinds})
        return f"the share of {gpus} of {' or '.join(map(str, counts))} GPUs"


def _share(whole: int, gpus: int, of: int) -> int:
    return max(1, whole * gpus // of) if 0 < gpus < of else whole


def this_machine() -> Site:
    """Return what this machine has."""
    count = machine.local_gpus()
    kind = NodeKind(1, machine.cores(), 0, {"": count} if count else {})
    return Site("this machine", (kind,))


@dataclass(frozen=True)
class Wanted:
    """GPUs that a request names."""

    gpus: int
    """A node."""
    types: tuple[str, ...] = ()
    said: str = ""
    """As it was typed."""


def named_gpus(cluster: ClusterConfig) -> Wanted | None:
    """Return the GPUs of a node that options of sbatch ask for; None where they name none.

    Raises:
        UsageError: a number for the whole job is no multiple of the nodes, or contradicts
            `--gpus-per-node`.
    """
    from .slurm_site import parse_gpus

    options = cluster.options
    for key in ("gres", "gpus-per-node", "gpus-per-task", "gpus"):
        value = options.get(key, "")
        text = value if key == "gres" else ",".join(f"gpu:{p}" for p in value.split(",") if p)
        found = parse_gpus(text)
        if not found:
            continue
        count, said = sum(found.values()), f"--sbatch {key}={value}"
        if key == "gpus":
            if count % cluster.nodes:
                raise UsageError(f"{said}: no multiple of --nodes {cluster.nodes}")
            count //= cluster.nodes
        if cluster.gpus_per_node not in (None, count):
            raise UsageError(f"--gpus-per-node {cluster.gpus_per_node} contradicts {said}")
        return Wanted(count, tuple(sorted(t for t in found if t)), said)
    return None


def slurm_nodes(config: RunConfig) -> Site:
    """Return the nodes of the asked partitions that the run can get, after checking their limits.

    Raises:
        UsageError: the partition is unknown, down, too small, or its time limit is shorter.
    """
    from . import slurm_site

    cluster = config.cluster
    found = slurm_site.partitions()
    by_name = {p.name: p for p in found}
    if cluster.partition is None:
        chosen = [p for p in found if p.default]
        if not chosen:
            hint = ", ".join(sorted(by_name)) or "Slurm reports none"
            raise UsageError(f"Slurm has no default partition: use --partition NAME ({hint})")
    else:
        wanted = cluster.partition.split(",")
        for name in wanted:
            if name not in by_name:
                raise UsageError(f"unknown partition '{name}': {nearest(name, by_name)}")
        chosen = [by_name[name] for name in wanted]
    names = ",".join(p.name for p in chosen)
    up = [p for p in chosen if p.up]
    if not up:
        raise UsageError(f"partition {names} is down")
    limits = {p.name: read_limits(cluster, p.name) for p in up}
    where = f"partition {names}"
    # Of several partitions any may be chosen: the run must fit whatever it gets.
    kinds = suitable(config, [k for p in up for k in p.kinds])
    caps = [limit.cpus for limit in limits.values()]
    cap = min((c for c in caps if c), default=None)
    site = Site(where, tuple(kinds), max(sum(k.nodes for k in p.kinds) for p in up), cap)
    # One that is down now may be up when the job starts.
    every = [[replace(k, usable=True) for k in p.kinds] for p in up]
    most = max(sum(k.nodes for k in suitable(config, some)) for some in every)
    if cluster.nodes > site.total:
        raise UsageError(f"--nodes {cluster.nodes}: {where} has {site.total} nodes")
    if cluster.nodes > most:
        kind = "with GPUs" if site.gpus and not cluster.constraint else "that fit the request"
        raise UsageError(f"--nodes {cluster.nodes}: {where} has {most} nodes {kind}")
    minutes = [p.time_limit_minutes for p in up]
    known = [m for m in minutes if m is not None]
    beyond = len(known) == len(minutes) and cluster.time_minutes > max(known)
    # A QOS may lift the partition's limit; Slurm is asked before anything is worked for.
    if beyond and cluster.qos is None:
        raise UsageError(f"--time {cluster.time}: {where} allows {clock(max(known))}")
    check_limits(cluster, limits)
    return site if cluster.cpus_per_node else replace(site, kinds=tuple(_effective(kinds)))


def suitable(config: RunConfig, kinds: list[NodeKind]) -> list[NodeKind]:
    """Return the kinds of node that a run may get: as asked for, and with GPUs where it uses any.

    Where nothing is said and some nodes have GPUs, those are meant.
    """
    cluster, device = config.cluster, config.engine.device
    named = named_gpus(cluster)
    gpus = named.gpus if named else cluster.gpus_per_node
    if gpus is None and device != "cpu":
        gpus = 1
    types = named.types if named else ()
    return fitting(kinds, cluster.constraint, 0 if device == "cpu" else gpus, types)


def _effective(kinds: list[NodeKind]) -> list[NodeKind]:
    """Return kinds with the cores that jobs may have: some nodes keep cores for the system."""
    names = ",".join(k.first for k in kinds if k.first and k.usable)
    if not names:
        return kinds
    try:
        text = ask("scontrol", "show", "node", "-o", names, seconds=SECONDS)
    except (Refused, Silent):
        return kinds
    told = {fields.get("NodeName"): fields for fields in map(job_fields, text.splitlines())}
    return [replace(k, cpus=effective_cpus(told.get(k.first, {}), k.cpus)) for k in kinds]


def effective_cpus(fields: Mapping[str, str], cpus: int) -> int:
    """Return the CPUs that jobs may have of a node, by `scontrol show node`."""
    try:
        if "CPUEfctv" in fields:
            return min(cpus, int(fields["CPUEfctv"])) or cpus
        kept = int(fields.get("CoreSpecCount", 0)) * int(fields.get("ThreadsPerCore", 1))
    except ValueError:
        return cpus
    return max(1, cpus - kept)


def gpus_elsewhere(config: RunConfig, gpus: int) -> tuple[list[str], bool]:
    """Return the partitions that have so many GPUs a node, and whether Slurm may choose one.

    Some sites have a plugin that finds the partition by what a job asks for.
    """
    from . import slurm_site

    names = [
        p.name
        for p in slurm_site.partitions()
        if p.up and any(k.gpu_count >= max(1, gpus) for k in p.kinds)
    ]
    if config.cluster.partition is not None or not names:
        return names, False
    try:
        told = parse_config(ask("scontrol", "show", "config", seconds=SECONDS))
    except (Refused, Silent):
        return names, False
    return names, "lua" in told.get("JobSubmitPlugins", "")
