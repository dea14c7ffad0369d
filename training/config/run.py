"""The whole of a run's configuration: what `config.yaml` holds, and all that `training` reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .cluster import ClusterConfig
from .engine import EngineConfig
from .model import ModelConfig
from .recipe import LAYERWISE, BatchConfig, OptimConfig, TrainConfig
from .schema import UsageError, build, coerce, leaves, nearest, to_plain
from .task import TaskConfig
from .tracking import TrackingConfig

DIGITS = 10
"""Of the digest in a run's id: enough for the trials of large sweeps to differ."""
SHAPE = frozenset(
    f"cluster.{name}" for name in ("nodes", "procs_per_node", "container", "container_python")
)
"""What a run computes follows from these keys of `cluster`."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.cluster.nodes * (self.cluster.procs_per_node or 1)

    def check(self) -> None:
        """Raise `UsageError` for values that are out of range or contradict each other.

        Only what follows from the configuration alone: data, devices and Slurm are asked by
        `launch`.
        """
        for section in (
            self.task,
            self.model,
            self.batch,
            self.optim,
            self.train,
            self.engine,
            self.cluster,
        ):
            section.check()
        self._check_noise()
        if self.engine.peer != "none":
            self._check_peer()
        if self.optim.name in LAYERWISE and self.engine.zero:
            raise UsageError(
                f"--optimizer {self.optim.name} needs the norms of whole tensors, and --zero "
                f"{self.engine.zero} gives each rank pieces: use --zero 0, or leave --zero out"
            )
        task = self.task
        if task.train is None:
            raise UsageError(
                f"task {task.name} has no training rows, it is only predicted: "
                f"glueline predict RUN --task {task.name}"
            )
        if task.label is None:
            raise UsageError(f"task {task.name} has no label column: use --label-column NAME")
        if not task.validation_splits and self.train.select == "best":
            raise UsageError(
                f"task {task.name} has no validation rows to select a checkpoint by: "
                "use --set task.holdout=0.05, or --select last"
            )

    def _check_noise(self) -> None:
        if not self.train.noise_every:
            return
        if self.batch.global_batch < 2:
            raise UsageError("train.noise_every compares rows of a step: use --global-batch 2")
        if self.engine.compile == "graphs":
            raise UsageError(
                "train.noise_every cuts some steps otherwise, and CUDA graphs are recorded for "
                "each shape: use --compile layers"
            )

    def _check_peer(self) -> None:
        """Refuse what the Trainer has not, or does otherwise: it would be another recipe."""
        where = f"--peer {self.engine.peer}"
        if self.world_size > 1:
            raise UsageError(
                f"{where} is one rank, {self.world_size} are asked for: "
                "use --nodes 1 --procs-per-node 1"
            )
        if self.optim.name != "adamw":
            raise UsageError(f"{where} knows AdamW alone: leave out --optimizer {self.optim.name}")
        if self.batch.pad_multiple > 1:
            raise UsageError(f"{where} pads as transformers does: leave out batch.pad_multiple")
        if self.train.noise_every:
            raise UsageError(f"{where} does not measure gradient noise: leave out noise_every")
        if self.train.save_every != "auto":
            raise UsageError(
                f"{where} writes no checkpoints, an interrupted run starts over: "
                "leave out --save-every"
            )
        if self.train.fault is not None and self.train.fault.startswith(("nan", "oom", "slow")):
            raise UsageError(f"{where}: train.fault may be raise, kill, hang or stop@STEP")

    def run_id(self, name: str | None = None, also: Iterable[str] = ()) -> str:
        """Return a readable id that is a function of the configuration: TASK-MODEL-b32-s42-HASH.

        It is taken before weights and rows are fetched: where they were put does not count. Nor do
        partition, time limit, memory, tracker and the like (`place_keys`): some of them follow from
        which nodes are up today, and another time limit is no other experiment.

        Args:
            name: the id, where a person gave one.
            also: keys that count here all the same: those that a sweep varies.
        """
        if name is not None:
            return name
        plain = self.experiment(also)
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:DIGITS]
        stem = f"{slug(self.task.name)}-{slug(self.model.name)}"
        return f"{stem}-b{self.batch.global_batch}-s{self.train.seed}-{digest}"

    def experiment(self, also: Iterable[str] = ()) -> dict[str, Any]:
        """Return what a run's id is taken from, ready for JSON: see `run_id`."""
        plain = to_plain(self)
        for key in place_keys().difference(also):
            section, name = key.split(".")
            del plain[section][name]
        return plain

    def with_paths(self, *, task: str | None = None, model: str | None = None) -> RunConfig:
        """Return a copy whose data and weights lie in these local folders."""
        return replace(
            self,
            task=replace(self.task, path=task or self.task.path),
            model=replace(self.model, path=model or self.model.path),
        )

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Return a copy with other values, checked by type.

        Args:
            values: by dotted key, `{"optim.lr": 1e-4}`; text is taken as its field's type.

        Raises:
            UsageError: there is no such key, or a value is of another type.
        """
        known = leaves(RunConfig)
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            if key not in known:
                raise UsageError(f"unknown key '{key}': {nearest(key, known)}")
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = coerce(value, known[key][1], key)
        return replace(self, **{k: replace(getattr(self, k), **v) for k, v in sections.items()})

    def dump(self) -> str:
        """Return the configuration as YAML, every value spelled out."""
        return yaml.safe_dump(to_plain(self), sort_keys=False, allow_unicode=True, width=100)


@cache
def place_keys() -> frozenset[str]:
    """Return the keys that say where and how long a run computes, and what is kept or told of it.

    Runs that differ in these alone are the same run.
    """
    sections = ("cluster.", "tracking.")
    found = {key for key in leaves(RunConfig) if key.startswith(sections)} - SHAPE
    return frozenset(found | {"train.keep"})


def slug(text: str) -> str:
    """Return text as a file name: lower case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:40] or "x"


def load_config(path: Path) -> RunConfig:
    """Read a run's `config.yaml`, strictly.

    Raises:
        UsageError: the file is missing, is not YAML, or holds an unknown key or a wrong value.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return build(RunConfig, values, "")
