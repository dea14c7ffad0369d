"""What `auto` and "none" mean for this run: decided from what Slurm or this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm import container
from training.config import RunConfig, UsageError, nearest

from . import machine, presets
from .limits import check_limits, clock, read_limits

CPU_TOKENS = 1024
GPU_TOKENS = 16384
NO_SLURM = (
    "sbatch is not on this machine, or Slurm does not answer (does sinfo?): use --executor local"
)


@dataclass(frozen=True)
class Site:
    """The kind of node that the run will get."""

    where: str
    """For people: `partition gpu`, `this machine`."""
    gpus: int
    cpus: int | None
    memory_mb: int | None = None
    """Of the smallest node; None where it is not known."""


def decide(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, value, reason) for everything that was left open.

    Raises:
        UsageError: there is no Slurm, no such partition, or it cannot hold the run.
    """
    cluster, engine = config.cluster, config.engine
    executor: str = cluster.executor
    if executor in ("auto", "slurm"):
        from . import slurm_site

        if not slurm_site.sbatch_available():
            raise UsageError(NO_SLURM)
        if executor == "auto":
            executor = "slurm"
            yield "cluster.executor", executor, "auto: sbatch answers"
    if executor == "local" and cluster.nodes > 1:
        raise UsageError("--executor local has one node: use --procs-per-node")
    site = (
        slurm_nodes(config)
        if executor == "slurm"
        else Site("this machine", machine.local_gpus(), machine.cores())
    )

    device: str = engine.device
    if device == "auto":
        asked = cluster.gpus_per_node
        device = "cuda" if (site.gpus if asked is None else asked) > 0 else "cpu"
        has = f"{site.gpus} GPUs a node" if site.gpus else "no GPUs"
        yield "engine.device", device, f"auto: {site.where} has {has}"
    procs, gpus = cluster.procs_per_node, cluster.gpus_per_node
    if procs is None and engine.peer != "none":
        procs = 1
        yield "cluster.procs_per_node", 1, f"--peer {engine.peer} is one rank"
    if device == "cuda":
        if site.gpus == 0:
            typed = f"--gpus-per-node {gpus}" if engine.device == "auto" else "--device cuda"
            raise UsageError(f"{typed}: {site.where} has no GPUs")
        if gpus is None:
            gpus = procs or site.gpus
            yield "cluster.gpus_per_node", gpus, "one a rank" if procs else f"all of {site.where}"
        if procs is None:
            procs = gpus
            yield "cluster.procs_per_node", procs, "one a GPU"
        if gpus > site.gpus:
            raise UsageError(f"{gpus} GPUs a node asked for, {site.where} has {site.gpus}")
        if procs > gpus:
            raise UsageError(f"--procs-per-node {procs} needs as many GPUs, a node gets {gpus}")
    else:
        if gpus:
            raise UsageError(f"--gpus-per-node {gpus} contradicts --device cpu")
        if gpus is None:
            yield "cluster.gpus_per_node", 0, "the device is the CPU"
        if procs is None:
            procs = 1
            yield "cluster.procs_per_node", 1, "one on a CPU node"
    if cluster.cpus_per_node is None and site.cpus:
        cores, why = _share_of_cores(site, device, gpus or 0)
        yield "cluster.cpus_per_node", cores, why
    elif cluster.cpus_per_node and site.cpus and cluster.cpus_per_node > site.cpus:
        raise UsageError(
            f"--cpus-per-node {cluster.cpus_per_node}: {site.where} has {site.cpus} cores a node"
        )
    said = cluster.mem is not None or cluster.sbatch.keys() & {"mem", "mem-per-cpu", "mem-per-gpu"}
    if not said and (share := _share_of_memory(site, gpus or 0)):
        yield "cluster.mem", *share
    if (image := cluster.container) is not None and container.is_file(image):
        path = Path(image).expanduser().absolute()
        if not path.exists():
            raise UsageError(
                f"cluster.container {image}: there is no such image file (one of a registry is "
                "written docker://NAME:TAG)"
            )
        if str(path) != image:
            yield "cluster.container", str(path), "as seen from here"
    if engine.zero_config is not None and not engine.zero_settings:
        settings = presets.zero_settings(engine.zero_config)
        yield "engine.zero_settings", settings, f"zero_config {engine.zero_config}"
    if engine.precision == "auto":
        yield "engine.precision", *_precision(device, executor)
    if engine.compile == "graphs" and device == "cpu":
        raise UsageError(f"--compile graphs needs a GPU, {site.where} has none: --compile layers")
    if engine.compile == "graphs" and config.batch.pad_multiple == 1:
        yield "batch.pad_multiple", 16, "--compile graphs: few shapes"
    if config.batch.micro_tokens == "auto":
        base = GPU_TOKENS if device == "cuda" else CPU_TOKENS
        longest = config.task.max_length
        why = f"auto: {base} on a {'GPU' if device == 'cuda' else 'CPU'}"
        if longest > base:
            why = "auto: the longest input"
        yield "batch.micro_tokens", max(base, longest), why


def _share_of_cores(site: Site, device: str, gpus: int) -> tuple[int, str]:
    assert site.cpus is not None
    if device == "cuda" and 0 < gpus < site.gpus:
        return max(1, site.cpus * gpus // site.gpus), f"the share of {gpus} of {site.gpus} GPUs"
    return site.cpus, f"all of {site.where}"


def _share_of_memory(site: Site, gpus: int) -> tuple[str, str] | None:
    """Return the memory that goes with some of a GPU node's GPUs; None: Slurm's default."""
    if not site.memory_mb or not 0 < gpus <= site.gpus:
        return None
    if gpus == site.gpus:
        return "0", f"all of {site.where}"
    share = max(1, site.memory_mb * gpus // site.gpus)
    return f"{share}M", f"the share of {gpus} of {site.gpus} GPUs"


def _precision(device: str, executor: str) -> tuple[str, str]:
    if device == "cpu":
        return "fp32", "auto: fp32 on CPUs"
    if executor == "local" and machine.gpu_has_bf16() is False:
        return "fp16", "auto: this GPU has no bf16"
    return "bf16", "auto: bf16 on GPUs"


def slurm_nodes(config: RunConfig) -> Site:
    """Return what a node of the asked partition has, after checking that it can hold the run.

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
    usable = [p for p in chosen if p.up]
    if not usable:
        raise UsageError(f"partition {names} is down")
    if cluster.nodes > max(p.nodes for p in usable):
        most = max(p.nodes for p in usable)
        raise UsageError(f"--nodes {cluster.nodes}: partition {names} has {most} nodes")
    limits = [p.time_limit_minutes for p in usable]
    if None not in limits and cluster.time_minutes > max(m for m in limits if m is not None):
        most = max(m for m in limits if m is not None)
        raise UsageError(f"--time {cluster.time}: partition {names} allows {clock(most)}")
    check_limits(cluster, {p.name: read_limits(cluster, p.name) for p in usable})
    # Of several partitions any may be chosen: the run must fit the smallest node.
    return Site(
        f"partition {names}",
        min(p.gpus_per_node for p in usable),
        min((p.cpus_per_node for p in usable if p.cpus_per_node), default=None),
        min((p.memory_mb for p in usable if p.memory_mb), default=None),
    )
