"""How much a run writes, and whether the runs folder has room for it: asked before a queue slot."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

from training.checkpoints import KEPT
from training.config import ModelConfig, RunConfig, UsageError
from training.rundir import RunDir

from .capacity import model_description
from .memory import encoder, sizes_of
from .quota import narrowest

BYTES = 4
"""Of one value: checkpoints and weights are written in fp32."""
STATES = 3
"""Copies of the weights in one checkpoint: themselves and the optimizer's two moments."""
WEIGHTS = 2
"""Copies of the weights alone: the best so far, and the exported model."""

_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def check_space(config: RunConfig, runs: Path, run: RunDir | None = None) -> None:
    """Raise `UsageError` if the file system of the runs folder has no room for what a run writes.

    Both what is free and what a quota leaves, where one is known. Where the model's size is not
    known, nothing is said.

    Args:
        config: the run.
        runs: its runs folder; need not exist.
        run: the run directory, if it is there: what it holds already need not be written again.
    """
    needed = bytes_needed(parameters(config.model))
    if needed is None:
        return
    if run is not None:
        needed -= min(needed, bytes_below(run.checkpoints) + bytes_below(run.model))
    free, where = bytes_free(runs), f"the runs folder {runs} has"
    quota = narrowest(runs)
    if quota is not None and (free is None or quota.free < free):
        free, where = quota.free, f"on the runs folder {runs} the quota of {quota.whose} leaves"
    if free is not None and free < needed:
        has = f"{where} {size_text(free)}" + (" free" if where.endswith("has") else "")
        raise UsageError(
            f"{has}, and the run writes about "
            f"{size_text(needed)} (checkpoints and weights of model {config.model.name}): "
            "free some (glueline clean), or use --runs DIR on another file system"
        )


def bytes_kept(weights: int | None, keep: str) -> int | None:
    """Return what stays of a run that finished, in bytes, as `train.keep` says.

    Scores, predictions and logs are not counted: they are small beside weights.
    """
    if weights is None or keep == "results":
        return 0 if keep == "results" else None
    return BYTES * weights * (1 + (STATES * KEPT + 1 if keep == "all" else 0))


def disk_text(config: RunConfig) -> str:
    """Return in words what a run keeps and needs; empty where the model's size is not known."""
    weights = parameters(config.model)
    needs, keeps = bytes_needed(weights), bytes_kept(weights, config.train.keep)
    if needs is None or keeps is None:
        return ""
    what = {"results": "results alone", "model": "the weights", "all": "weights and checkpoints"}
    return (
        f"keeps {size_text(keeps)} ({what[config.train.keep]}), needs {size_text(needs)} while "
        "it runs"
    )


def bytes_needed(weights: int | None) -> int | None:
    """Return what a run with so many parameters writes at most, in bytes.

    A new checkpoint is complete before the oldest one goes.
    """
    return None if weights is None else BYTES * weights * (STATES * (KEPT + 1) + WEIGHTS)


def bytes_free(folder: Path) -> int | None:
    """Return the bytes that we may still write below a folder; None where that is not known."""
    for place in (folder, *folder.parents):
        try:
            seen = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        # /proc and its like have no blocks at all, and say nothing by it.
        return seen.f_bavail * seen.f_frsize if seen.f_blocks else None
    return None


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder in bytes; 0 if there is none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # it went while we looked
    return total


def parameters(model: ModelConfig) -> int | None:
    """Return how many parameters a model has, None where its files are not here.

    Counted in its safetensors, else estimated from its sizes.
    """
    if not model.architecture:
        from training.sources import model_folder

        folder = model_folder(model)
        if folder is None:
            return None
        if model.pretrained and (counted := _counted(folder, model.layers)):
            return counted
    sizes = sizes_of(model, model_description(model))
    return encoder(sizes, "cpu", "fp32").parameters if sizes else None


def _counted(folder: Path, layers: int | None) -> int:
    """Return the values in a folder's safetensors, without the layers that are left out."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        for name, shape in tensor_shapes(path).items():
            layer = _LAYER.search(f".{name}")
            if layers is None or layer is None or int(layer[1]) < layers:
                count = 1
                for size in shape:
                    count *= size
                total += count
    return total


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a safetensors file from its header; {} if it has none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100 << 20)))
        return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return {}


def size_text(count: int) -> str:
    """Return bytes for people."""
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1024:.0f} kB"
