"""Going on from a checkpoint: the newest whole one, whatever number of ranks wrote it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from . import checkpoints
from .config import UsageError
from .distributed import World
from .engine import Engine
from .fragments import WEIGHT, checksum, set_state, split_key
from .rundir import RunDir, read_json


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["progress"]["step"])


def check_steps(checkpoint: Checkpoint, total: int) -> None:
    """Raise `UsageError` if a checkpoint is of a run of another number of steps than `total`."""
    there = checkpoint.state["progress"]["total"]
    if there != total:
        raise UsageError(
            f"{checkpoint.folder} is of a run of {there} steps, this one has {total}: its rows or "
            "its length were changed"
        )


def find_checkpoint(run: RunDir, world: World) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose files are what was written, and what is wrong with newer.

    Collective: the ranks share the reading.

    Raises:
        UsageError: the newest one was written by a newer glueline.
    """
    notices: list[str] = []
    # Rank 0 says for all, so that they refuse, or go on, together.
    found = [(p.name, checkpoints.is_newer(p)) for p in checkpoints.complete(run)]
    for name, newer in world.broadcast(found):
        folder = run.checkpoints / name
        if newer:
            raise UsageError(
                f"{folder} was written by a newer glueline (format "
                f"{checkpoints.format_of(folder)}): resume the run with that one"
            )
        damage = world.gather_all(checkpoints.damage(folder, world.rank, world.size))
        problem = next((text for text in damage if text), None)
        state = read_json(folder / checkpoints.STATE)
        if problem is None and isinstance(state, dict):
            return Checkpoint(folder, state), notices
        notices.append(problem or f"{name}: no {checkpoints.STATE}")
    return None, notices


class Shards:
    """The numbers of a checkpoint, by parameter, kind and place."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[tuple[str, str], list[tuple[int, Path, str]]] = defaultdict(list)
        self._open: dict[Path, Any] = {}
        for path in sorted(folder.glob("shard-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no dictionary)
                    name, what, start = split_key(key)
                    self._where[name, what].append((start, path, key))
        for places in self._where.values():
            places.sort()

    def kinds(self) -> list[str]:
        """Return the optimizer's keys."""
        return sorted({what for _, what in self._where if what != WEIGHT})

    def read(self, name: str, what: str, start: int, numel: int) -> torch.Tensor:
        """Return numbers `start` to `start + numel` of a flattened parameter or its moments.

        Raises:
            RuntimeError: some of them are in no file.
        """
        result: torch.Tensor | None = None
        filled = 0
        for begin, path, key in self._where.get((name, what), ()):
            if begin >= start + numel:
                break
            values = self._file(path).get_slice(key)
            length = values.get_shape()[0]
            first, last = max(start, begin), min(start + numel, begin + length)
            if first >= last:
                continue
            piece = values[first - begin : last - begin]
            if last - first == numel:
                return piece
            if result is None:
                result = torch.empty(numel, dtype=piece.dtype)
            result[first - start : last - start] = piece
            filled += last - first
        if result is None or filled != numel:
            raise RuntimeError(f"the checkpoint has no {what} of {name} [{start}:{start + numel}]")
        return result

    def has(self, name: str, what: str) -> bool:
        """Return whether there are such numbers."""
        return (name, what) in self._where

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt").__enter__()
        return self._open[path]

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.__exit__(None, None, None)
        self._open.clear()


def load_weights(model: nn.Module, checkpoint: Checkpoint, shards: Shards) -> None:
    """Put a checkpoint's weights into a model that no engine has prepared yet.

    Raises:
        UsageError: its parameters are not the model's.
    """
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    saved = checkpoint.state["shapes"]
    for name in sorted(shapes.keys() | saved.keys()):
        if shapes.get(name) != saved.get(name):
            raise UsageError(
                f"{checkpoint.folder} is of another model: {name} is {saved.get(name, 'absent')} "
                f"there, {shapes.get(name, 'absent')} here"
            )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = shards.read(name, WEIGHT, 0, parameter.numel())
            parameter.copy_(values.view(parameter.shape))


def load_optimizer(engine: Engine, checkpoint: Checkpoint, shards: Shards) -> tuple[int, int]:
    """Put a checkpoint's moments into the optimizer of a prepared engine.

    Returns:
        this rank's part of the checksums of weights and optimizer, of what the engine now holds.
    """
    optimizer = engine.plain_optimizer
    fragments = engine.fragments()
    owners: dict[int, torch.Tensor] = {}
    kinds: dict[int, list[str]] = defaultdict(list)
    for fragment in fragments:
        if fragment.owner is not None:
            owners[id(fragment.owner)] = fragment.owner
            known = [k for k in shards.kinds() if shards.has(fragment.name, k)]
            kinds[id(fragment.owner)] = sorted({*kinds[id(fragment.owner)], *known})
    single = checkpoint.state["scalars"]
    with torch.no_grad():
        for place, owner in owners.items():
            if kinds[place] or single:
                set_state(optimizer, owner, kinds[place], single)
        for fragment in fragments:
            for what, target in fragment.moments(optimizer).items():
                if shards.has(fragment.name, what):
                    target.copy_(shards.read(fragment.name, what, fragment.start, fragment.numel))
    engine.set_scaler_state(checkpoint.state.get("scaler") or {})
    weights = moments = 0
    for fragment in engine.own_fragments():
        weights += checksum(fragment.key(WEIGHT), fragment.start, fragment.weight.cpu())
        for what, values in fragment.moments(optimizer).items():
            moments += checksum(fragment.key(what), fragment.start, values.cpu())
    return weights, moments
