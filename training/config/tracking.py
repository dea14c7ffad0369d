"""Who is told: the experiment tracker that mirrors `metrics.jsonl`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .schema import option


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Weights & Biases (offline without a key or a network), TensorBoard, or none."""

    tracker: Literal["wandb", "tensorboard", "none"] = option(
        "wandb", "--tracker", "wandb|tensorboard|none"
    )
    """What mirrors metrics.jsonl."""
    project: str = option("glueline", "--wandb-project", "NAME")
    """W&B project."""
    entity: str | None = option(None, "--wandb-entity", "NAME")
    """W&B entity; none is the key's own."""
    group: str | None = option(None, "--wandb-group", "NAME")
    """W&B group; none is TASK-MODEL."""
    tags: tuple[str, ...] = option((), "--wandb-tags", "A,B")
    """W&B tags."""
