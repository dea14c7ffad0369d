"""Weights on disk: checkpoints of the best weights, and the `model/` folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from .rundir import RunDir, file_sha256, read_json, sync_path, write_json


def save_best(run: RunDir, step: int, weights: dict[str, torch.Tensor]) -> Path:
    """Write `checkpoints/step-N/` with the weights and drop the earlier ones. Rank 0 only.

    The folder is written under a temporary name and renamed, so it is complete or absent.
    """
    from safetensors.torch import save_file

    run.checkpoints.mkdir(exist_ok=True)
    final = run.checkpoints / f"step-{step}"
    temporary = run.checkpoints / f".step-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    file = temporary / "model.safetensors"
    save_file({k: v.contiguous() for k, v in weights.items()}, file)
    sync_path(file)
    manifest = {"step": step, "files": {file.name: {"sha256": file_sha256(file)}}}
    write_json(temporary / "manifest.json", manifest)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for other in run.checkpoints.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    return final


def load_best(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint whose manifest is true of it.

    Raises:
        RuntimeError: the file is missing or was altered.
    """
    from safetensors.torch import load_file

    manifest = read_json(folder / "manifest.json")
    file = folder / "model.safetensors"
    if not manifest or file_sha256(file) != manifest["files"][file.name]["sha256"]:
        raise RuntimeError(f"checkpoint {folder} is damaged")
    return load_file(file)


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
