"""Weights on disk: checkpoints of the best weights, and the `model/` folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from . import checkpoints
from .rundir import RunDir, sync_path


def save_best(run: RunDir, step: int, weights: dict[str, torch.Tensor]) -> Path:
    """Write `checkpoints/best-N/` with the weights and drop those not needed. Rank 0 only.

    The folder is complete or absent.

    Raises:
        OSError: the disk is full or broken.
    """
    from safetensors.torch import save_file

    final = checkpoints.best_folder(run, step)
    temporary = checkpoints.temporary_folder(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    file = temporary / "model.safetensors"
    try:
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
        checkpoints.seal(final, step, {file.name: checkpoints.describe_file(file)})
    except BaseException:  # what was written keeps a full disk full
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    checkpoints.prune(run, step)
    return final


def load_best(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint whose manifest is true of it.

    Raises:
        RuntimeError: the file is missing or was altered.
    """
    from safetensors.torch import load_file

    problem = checkpoints.damage(folder)
    if problem is not None:
        raise RuntimeError(f"the best weights are damaged: {problem}")
    return load_file(folder / "model.safetensors")


class BestWeights:
    """The best weights: in memory until they are on the disk. Rank 0 only."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._held: tuple[int, dict[str, torch.Tensor]] | None = None
        """Their step and themselves, while they are not on the disk."""

    def hold(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Take the weights after `step` optimizer steps for the best ones."""
        self._held = (step, weights)

    def write(self) -> None:
        """Put them on the disk, if they are not there yet.

        A full disk does not cost them: they stay in memory until there is room.

        Raises:
            OSError: the disk is full or broken.
        """
        if self._held is not None:
            save_best(self._run, *self._held)
            self._held = None

    def load(self, step: int) -> dict[str, torch.Tensor]:
        """Return them; `step` is theirs.

        Raises:
            RuntimeError: those on the disk are damaged.
        """
        if self._held is not None:
            return self._held[1]
        return load_best(checkpoints.best_folder(self._run, step))


def export_model(
    run: RunDir, config: Any, weights: dict[str, torch.Tensor], tokenizer: Any
) -> None:
    """Write `model/`: weights, configuration with label names, tokenizer. Rank 0 only.

    It goes through `save_pretrained`, so that names and shared weights are those that
    `from_pretrained` expects.
    """
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, p in model.named_parameters() if p.is_meta]
    if left:
        raise RuntimeError(f"no weights for {', '.join(left[:5])}: cannot export the model")
    temporary = run.path / ".model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for file in temporary.iterdir():
        sync_path(file)
    shutil.rmtree(run.model, ignore_errors=True)
    temporary.rename(run.model)
