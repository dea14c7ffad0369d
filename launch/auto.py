"""What `auto` and "none" mean for this run: decided from what Slurm or this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm import container
from training.config import RunConfig, UsageError

from . import machine, presets
from .gpus import is_before_bf16, is_slice
from .nodes import Site, gpus_elsewhere, named_gpus, slurm_nodes, this_machine

CPU_TOKENS = 1024
GPU_TOKENS = 16384
NO_SLURM = (
    "sbatch is not on this machine, or Slurm does not answer (does sinfo?): use --executor local"
)


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
    named = named_gpus(cluster) if executor == "slurm" else None
    site = slurm_nodes(config) if executor == "slurm" else this_machine()
    procs, gpus = cluster.procs_per_node, cluster.gpus_per_node
    if gpus is None and named is not None:
        gpus = named.gpus
        yield "cluster.gpus_per_node", gpus, named.said

    device: str = engine.device
    if device == "auto":
        device = "cuda" if (site.gpus if gpus is None else gpus) > 0 else "cpu"
        yield "engine.device", device, f"auto: {_has(site, executor)}"
    slices = bool(site.types) and all(is_slice(t) for t in site.types)
    if procs is None and engine.peer != "none":
        procs = 1
        yield "cluster.procs_per_node", 1, f"--peer {engine.peer} is one rank"
    if device == "cuda":
        if gpus is None and procs is None and slices:
            gpus = 1
            yield "cluster.gpus_per_node", 1, "slices of GPUs: a process can use one"
        if site.gpus < (gpus or 1):
            _check_elsewhere(config, site, gpus)
            site = replace(site, kinds=())  # nodes of another partition
        if gpus is None:
            gpus = procs or site.gpus
            yield "cluster.gpus_per_node", gpus, "one a rank" if procs else f"all of {site.where}"
        if procs is None:
            procs = gpus
            yield "cluster.procs_per_node", procs, "one a GPU"
        if slices and procs > 1:
            raise UsageError(
                f"{site.where} has slices of GPUs, of which a node's processes see one: "
                "use --procs-per-node 1"
            )
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
    options = cluster.options
    each = options.get("cpus-per-gpu", "")
    if cluster.cpus_per_node is None and each.isdigit() and gpus:
        yield "cluster.cpus_per_node", int(each) * gpus, f"--sbatch cpus-per-gpu={each}"
    elif cluster.cpus_per_node is None:
        if share := site.cores(gpus or 0):
            yield "cluster.cpus_per_node", *share
    elif site.most_cores and cluster.cpus_per_node > site.most_cores:
        raise UsageError(
            f"--cpus-per-node {cluster.cpus_per_node}: {site.where} has {site.most_cores} cores a "
            "node"
        )
    said = cluster.mem is not None or options.keys() & {"mem", "mem-per-cpu", "mem-per-gpu"}
    if not said and (memory := site.memory(gpus or 0)):
        yield "cluster.mem", *memory
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
        yield "engine.precision", *_precision(device, executor, site.types)
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


def _has(site: Site, executor: str) -> str:
    """Return in words which GPUs there are."""
    if not site.gpus:
        return f"{site.where} has no GPUs"
    those = sum(k.nodes for k in site.kinds)
    if executor == "slurm" and those < site.total:
        return f"{site.where} has nodes with GPUs ({those} of {site.total})"
    return f"{site.where} has {site.gpus} GPUs a node"


def _check_elsewhere(config: RunConfig, site: Site, gpus: int | None) -> None:
    """Raise `UsageError` for more GPUs than there are, unless Slurm finds the partition itself."""
    typed = f"--gpus-per-node {gpus}" if gpus else "--device cuda"
    has = f"{site.gpus} a node" if site.gpus else "no GPUs"
    if config.cluster.executor == "local":
        raise UsageError(f"{typed}: {site.where} has {has}")
    names, routed = gpus_elsewhere(config, gpus or 1)
    if routed and gpus:
        return
    hint = f": use --partition {' or '.join(names)}" if names else ""
    raise UsageError(f"{typed}: {site.where} has {has}{hint}")


def _precision(device: str, executor: str, types: list[str]) -> tuple[str, str]:
    if device == "cpu":
        return "fp32", "auto: fp32 on CPUs"
    if executor == "local" and machine.gpu_has_bf16() is False:
        return "fp16", "auto: this GPU has no bf16"
    if executor == "slurm" and (old := [t for t in types if is_before_bf16(t)]):
        return "fp16", f"auto: {', '.join(old)} has no bf16"
    return "bf16", "auto: bf16 on GPUs"
