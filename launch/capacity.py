"""What the plan's estimates rest on: the model's sizes, and what the nodes have."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import ModelConfig, RunConfig
from training.config.schema import to_plain
from training.prepared import digest
from training.rundir import read_json, write_json

from . import gpus, machine
from .child import ask_module
from .memory import GIB, MIB, Anatomy, Sizes, encoder, measured, sizes_of
from .node_kinds import NodeKind
from .nodes import suitable

LIKE_BERT = frozenset(("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"))
"""Families whose layers are what `memory.encoder` counts."""
ANATOMIES = "anatomy"
"""Folder below the cache."""
COUNT_SECONDS = 300.0
"""How long counting on the model itself may take."""


@dataclass(frozen=True)
class Limit:
    """The memory of a node or of a GPU."""

    bytes: float
    where: str
    """For people: whose it is."""


@dataclass(frozen=True)
class Capacity:
    """What is known of a run's model and of where it will run; None is unknown."""

    sizes: Sizes | None = None
    anatomy: Anatomy | None = None
    usual: bool = True
    """Whether the anatomy was measured, or the family is one that the formula is made for."""
    node: Limit | None = None
    gpu: Limit | None = None
    device_kind: str = ""
    """The kind of device, the same for runs whose speeds compare."""
    cpu_rate: float | None = None
    """Operations a second of one core, see `core_rate`."""


def look(config: RunConfig, cache: Path | None = None) -> Capacity:
    """Return what is known of a resolved configuration's model, and of its nodes.

    Args:
        config: without `auto` values.
        cache: the runs folder's, where `prepare` leaves what it counted on the model itself.
    """
    described = model_description(config.model)
    sizes = sizes_of(config.model, described)
    engine, frozen = config.engine, config.model.freeze_encoder
    anatomy, usual = None, True
    if cache is not None and engine.device == "cpu":
        found = read_json(anatomy_file(config.model, cache))
        anatomy = measured(found, engine.precision, frozen) if isinstance(found, dict) else None
    if anatomy is None and sizes is not None:
        anatomy = encoder(sizes, engine.device, engine.precision, frozen)
        family = described.get("model_type") or config.model.architecture
        usual = family in LIKE_BERT
    return Capacity(
        sizes=sizes,
        anatomy=anatomy,
        usual=usual,
        node=node_memory(config),
        gpu=gpu_memory(config) if engine.device == "cuda" else None,
        device_kind=device_kind(config),
        cpu_rate=core_rate() if engine.device == "cpu" else None,
    )


def model_description(model: ModelConfig) -> dict[str, Any]:
    """Return a model's `config.json`; empty where it has none, or is not here."""
    if model.architecture:
        return {}
    from training.sources import model_folder

    folder = model_folder(model)
    read = read_json(folder / "config.json") if folder else None
    return read if isinstance(read, dict) else {}


def node_memory(config: RunConfig) -> Limit | None:
    """Return the memory of a node that the run may use."""
    cluster = config.cluster
    said = cluster.mem or cluster.sbatch.get("mem")
    if said is not None and cluster.executor == "slurm" and (size := parse_memory(said)):
        return Limit(size, f"--mem {said}")
    if cluster.executor != "slurm":
        total = machine.memory_bytes()
        return Limit(total, "this machine") if total else None
    least = min((k.memory_mb for k in _kinds(config) if k.memory_mb), default=None)
    if least is None:
        return None
    names = ",".join(p.name for p in _partitions(config))
    return Limit(least * MIB, f"a node of partition {names}")


def gpu_memory(config: RunConfig) -> Limit | None:
    """Return the memory of the GPUs that the run gets; of several kinds, the smallest."""
    cluster = config.cluster
    if cluster.gpu_memory_gb is not None:
        return Limit(cluster.gpu_memory_gb * GIB, "cluster.gpu_memory_gb")
    if cluster.executor != "slurm":
        total = machine.gpu_memory_bytes()
        return Limit(total, "this machine's GPU") if total else None
    found = gpus.memory_gb(_gpu_names(config))
    return Limit(found[0] * GIB, f"its name, {found[1]}") if found else None


def _gpu_names(config: RunConfig) -> list[str]:
    """Return what names the GPUs: the request if it does, else the partition's types."""
    cluster = config.cluster
    asked = [v for k, v in cluster.sbatch.items() if k in ("gres", "gpus", "gpus-per-node")]
    asked += [cluster.constraint] if cluster.constraint else []
    if gpus.memory_gb(asked):
        return asked
    return sorted({t for k in _kinds(config) for t in k.gpus if t})


def _partitions(config: RunConfig) -> list[Any]:
    """Return the partitions that the run may go to."""
    from . import slurm_site

    wanted = config.cluster.partition
    names = wanted.split(",") if wanted else None
    return [p for p in slurm_site.partitions() if (p.name in names if names else p.default)]


def _kinds(config: RunConfig) -> list[NodeKind]:
    """Return the kinds of node that the run may get."""
    return suitable(config, [k for p in _partitions(config) for k in p.kinds])


def device_kind(config: RunConfig) -> str:
    """Return the kind of device, the same for runs whose speeds compare."""
    cluster, device = config.cluster, config.engine.device
    if cluster.executor != "slurm":
        if device == "cpu":
            return f"cpu: {machine.cpu_name()}"
        return f"gpu: {machine.gpu_name() or 'unknown'}"
    names = ",".join(dict.fromkeys(_gpu_names(config))) if device == "cuda" else ""
    where = ",".join(p.name for p in _partitions(config))
    return f"{'gpu' if device == 'cuda' else 'cpu'}: {names + ' in ' if names else ''}{where}"


_UNITS = {"": MIB, "K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB}


def parse_memory(text: str) -> int | None:
    """Return a memory size as Slurm writes it (`32G`, `4096`: megabytes) in bytes, else None.

    0 is all of the node: None too.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0
    return int(size) or None


CORE_RATES = {"avx512f": 80e9, "avx2": 40e9, "asimd": 20e9}
"""Operations a second of an fp32 matrix product on one core, by the vectors that it has: cores of
about 2.5 GHz that start one product of 512, 256 or 128 bits a cycle."""


def core_rate(cpuinfo: str | None = None) -> float:
    """Return the operations a second of an fp32 matrix product on one core of this machine's kind.

    Not measured: a plan is the same each time it is made.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            cpuinfo = ""
    flags = set(cpuinfo.split())
    return next((rate for flag, rate in CORE_RATES.items() if flag in flags), 10e9)


def anatomy_file(model: ModelConfig, cache: Path) -> Path:
    """Return where the anatomy of a model is kept: by its configuration and by versions."""
    from importlib.metadata import PackageNotFoundError, version

    versions = []
    for name in ("torch", "transformers"):
        try:
            versions.append(version(name))
        except PackageNotFoundError:
            versions.append("")
    return cache / ANATOMIES / f"{digest([to_plain(model), versions])[:16]}.json"


def needs_counting(model: ModelConfig) -> bool:
    """Return whether a model that is here is of a family that the formula is not made for."""
    if model.architecture:
        return model.architecture not in LIKE_BERT
    family = model_description(model).get("model_type")
    return family is not None and family not in LIKE_BERT


def count_anatomy(config: RunConfig, cache: Path) -> Mapping[str, Any] | None:
    """Count on the model itself what it keeps, in a process of its own, and keep the answer.

    Some seconds: torch is imported. None where it cannot be counted.
    """
    file = anatomy_file(config.model, cache)
    if isinstance(found := read_json(file), dict):
        return found
    try:
        answer = ask_module("training.anatomy", to_plain(config), COUNT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = answer.value if answer.code == 0 else None
    if isinstance(found, dict):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        return found
    return None
