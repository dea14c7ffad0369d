"""The published numbers that there are: `configs/references/` and files of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import RunConfig, UsageError, nearest
from training.config.schema import get_dotted

from . import presets
from .reference_file import Assumption, Reference, ReferenceSet, Score, set_of

__all__ = [
    "Assumption",
    "Missing",
    "Reference",
    "ReferenceSet",
    "Score",
    "all_sets",
    "find_reference",
    "find_set",
    "missing",
    "same_model",
    "set_of",
    "sets_of",
]

ENDINGS = (".yaml", ".yml")
COMPLETE = (
    ("batch.global_batch",),
    ("optim.lr",),
    ("train.epochs", "train.max_steps"),
    ("task.max_length",),
    ("optim.schedule",),
    ("optim.warmup_ratio", "optim.warmup_steps"),
    ("optim.weight_decay",),
    ("optim.name",),
    ("optim.beta1",),
    ("optim.beta2",),
    ("optim.eps",),
    ("optim.clip",),
    ("train.select",),
    ("train.seed",),
)
"""What a recipe must say to be complete: one key of each."""


@dataclass(frozen=True)
class Missing:
    """A key that a reference neither says nor assumes."""

    key: str
    value: Any
    """What a run takes instead."""
    origin: str
    """Who says that: `default`, or a preset."""


def all_sets() -> list[ReferenceSet]:
    """Return the sets of `configs/references/`, by name.

    Raises:
        UsageError: a file is wrong.
    """
    return [find_set(name) for name in presets.names("references")]


def find_set(text: str) -> ReferenceSet:
    """Return the set that a name in `configs/references/` or a YAML file means.

    Raises:
        UsageError: there is none, or the file is wrong.
    """
    if text.endswith(ENDINGS):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UsageError(f"reference file {text} does not exist")
        path = path.absolute()
        return set_of(presets.read_yaml(path), text, path.stem, path.parent, path)
    known = presets.names("references")
    if text not in known:
        head = text.partition("/")[0]
        hint = f"it is '{head}'" if head in known else nearest(text, known)
        raise UsageError(f"unknown set of references '{text}': {hint} (see glueline references)")
    path = presets.folder("references") / f"{text}.yaml"
    return set_of(presets.read_yaml(path), str(path), text, path.parent, path)


def find_reference(text: str, task: str | None = None) -> Reference:
    """Return the reference that `SET/TASK` means; the set may be a YAML file.

    Args:
        text: as typed; `SET` alone where the set has one task.
        task: as for `--task`; which of a set's tasks is meant, if `text` does not say.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    alone = text.endswith(ENDINGS) or "/" not in text
    name, _, short = (text, "", task) if alone else text.rpartition("/")
    found = find_set(name)
    known = [r.short for r in found.references.values()]
    if short is None:
        if len(known) == 1:
            return next(iter(found.references.values()))
        raise UsageError(f"{name} has several tasks: write {name}/TASK ({', '.join(known)})")
    reference = found.of_task(short)
    if reference is None and short.endswith(ENDINGS):
        # A set names task files of one's own by where they lie.
        reference = found.of_task(str(Path(short).expanduser().absolute()))
    if reference is None:
        hint = nearest(short, known)
        if alone:
            one = known[0] if len(known) == 1 else "TASK"
            hint += f" (its recipe on other rows: --reference {name}/{one} --task {short})"
        raise UsageError(f"{name} has no task '{short}': {hint}")
    return reference


def sets_of(model: str, tasks: Iterable[str] = ()) -> list[ReferenceSet]:
    """Return the sets of a model that know some of these tasks, those that know most first.

    Args:
        model: as for `--model`; a preset and its hub id are the same.
        tasks: names; none: any task.

    Raises:
        UsageError: there is no such model.
    """
    wanted, identity = set(tasks), _identity(model)
    found = []
    for candidate in all_sets():
        if _identity(candidate.model) == identity:
            known = sum(candidate.of_task(task) is not None for task in wanted)
            if known or not wanted:
                found.append((-known, candidate.name, candidate))
    return [candidate for *_, candidate in sorted(found, key=lambda entry: entry[:2])]


def same_model(one: str, other: str) -> bool:
    """Return whether two words for `--model` mean the same weights: a preset, or its hub id.

    Raises:
        UsageError: one of them is no model.
    """
    return one == other or _identity(one) == _identity(other)


def _identity(model: str) -> str:
    values = presets.model_preset(model).values
    return str(
        next((v for k in ("hub", "package", "path") if (v := values.get(f"model.{k}"))), model)
    )


def missing(reference: Reference) -> list[Missing]:
    """Return what a recipe would have to say, and neither says nor assumes.

    Each with the value that a run takes instead: a preset's of the model or the task, or the
    default.
    """
    told = reference.values
    if reference.seeds:
        told["train.seed"] = reference.seeds[0]
    here = {
        key: (value, preset.origin)
        for preset in (presets.model_preset(reference.model), presets.task_preset(reference.task))
        for key, value in preset.values.items()
    }
    found = []
    for keys in COMPLETE:
        if not any(key in told for key in keys):
            default = (get_dotted(RunConfig(), keys[0]), "default")
            found.append(Missing(keys[0], *here.get(keys[0], default)))
    return found
