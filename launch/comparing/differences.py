"""In what two runs differ: one line a thing, the likeliest cause of a gap first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .facts import PLAIN, Facts, same_commit
from .ranking import QUIET, rule_of, sort_key, version_rank

SHOWN = 60
"""Characters of a value in a line."""

_ROWS_BY_NAME = ("task.name", "task.hub", "task.revision", "task.subset", "task.generated")
_WEIGHTS_BY_NAME = ("model.name", "model.hub", "model.revision", "model.package")
_BY_PLACE = {"task.path": "data folder", "task.files": "data files", "model.path": "model folder"}
"""What rows and weights go by where neither content nor name tells them apart, for people."""
_OPTIMIZERS = {
    "optim.beta1": ("adamw", "adam", "lamb"),
    "optim.beta2": ("adamw", "adam", "lamb"),
    "optim.eps": ("adamw", "adam", "lamb", "adagrad"),
    "optim.momentum": ("sgd", "lars"),
    "optim.trust_coefficient": ("lars",),
    "optim.weight_decay": ("adamw", "lamb", "lars", "adam", "sgd", "adagrad"),
}
"""Which optimizers use a setting; all use the others."""
_PACKAGES = {
    "torch": "kernels and their rounding change between releases",
    "transformers": "models, their defaults and how they are loaded change between releases",
    "tokenizers": "inputs may be cut into other tokens",
}
"""Why a package's version may matter; the others do not."""
_RULED = ("optim.lr_rule", "optim.base_batch", "optim.warmup_ratio", "optim.warmup_steps")
"""Told by what they come to."""


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ."""

    group: str
    """One of `ranking.GROUPS`."""
    key: str
    """The key of the configuration, or the name of what was compared."""
    name: str
    """For people."""
    a: Any
    b: Any
    why: str
    """Why it matters or does not."""
    matters: bool
    """Whether it may move a score beyond rounding."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**vars(self)}

    def words(self) -> str:
        """Return what it is and both values: `learning rate 2e-05 → 0.0006`."""
        return f"{self.name} {shown(self.a)} → {shown(self.b)}"


def find_differences(
    a: Facts, b: Facts, collapsed: tuple[str | None, str | None] = (None, None)
) -> list[Difference]:
    """Return in what two runs differ, the likeliest cause of a gap between their scores first.

    What only one of them tells is no difference: `Facts.notes` says what is missing.

    Args:
        a: one run.
        b: the other one.
        collapsed: the one class that a run answers to every row; None where it answers more.
    """
    found = [
        *_rows(a, b),
        *_weights(a, b),
        *_labels(a, b),
        *_configured(a, b),
        *_in_force(a, b),
        *_history(a, b, collapsed),
        *_code(a, b),
        *_versions(a, b),
        *_hardware(a, b),
    ]
    return sorted(found, key=_order)


def shown(value: Any) -> str:
    """Return a value as a line shows it."""
    if value is None or value == "" or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(shown, value))
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _order(found: Difference) -> tuple[Any, ...]:
    if found.group == "versions":
        key = sort_key(found.group, "", True)
        return (*key[:3], f"{version_rank(found.key):02d} {found.key}")
    return sort_key(found.group, found.key, found.matters)


def _told(key: str, a: Any, b: Any, why: str | None = None, **other: Any) -> Difference:
    rule = rule_of(key)
    group = other.pop("group", rule.group)
    loud = group not in QUIET if rule.loud is None else rule.loud
    values = {"name": rule.name, "matters": loud} | other
    return Difference(group=group, key=key, a=a, b=b, why=why or rule.why, **values)


def _rows(a: Facts, b: Facts) -> Iterator[Difference]:
    for split in sorted(a.tokens.keys() & b.tokens.keys(), key=_split_order):
        if a.tokens[split].same(b.tokens[split]) is False:
            left, right = a.tokens[split].files, b.tokens[split].files
            why = "the model reads other inputs: other rows, texts, tokenizer, cleaning or length"
            if left.get("labels") is not None and left["labels"] == right.get("labels"):
                why += "; the labels are the same"
            changed = sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))
            ours, theirs = (
                [f"{k} {files[k][:8]}" if k in files else f"no {k}" for k in changed]
                for files in (left, right)
            )
            name = f"prepared rows of {split}"
            yield Difference("rows", f"tokens.{split}", name, ours, theirs, why, True)
    same_files = a.data.same(b.data)
    if same_files is False:
        ours, theirs = a.data.unlike(b.data), b.data.unlike(a.data)
        tokens = _same_rows(a, b)
        why = "the files that hold the rows are not the same, byte for byte"
        if tokens:
            why = "other files, but the prepared rows are the same, number for number"
        yield Difference(
            group="place" if tokens else "rows",
            key="data",
            name="data files",
            a=ours or f"{len(a.data)} files",
            b=theirs or f"{len(b.data)} files",
            why=why,
            matters=not tokens,
        )
    for split in sorted(a.rows.keys() & b.rows.keys(), key=_split_order):
        if a.rows[split] != b.rows[split]:
            yield Difference(
                "rows",
                f"rows.{split}",
                f"rows of {split}",
                a.rows[split],
                b.rows[split],
                "less or more to learn from" if split == "train" else "other rows are scored",
                True,
            )


def _split_order(split: str) -> tuple[bool, str]:
    return split != "train", split


def _same_rows(a: Facts, b: Facts) -> bool | None:
    """Return whether both runs read the same rows; None where nothing tells.

    Prepared arrays tell more than files, in which other splits may have changed too.
    """
    known = [a.tokens[s].same(b.tokens[s]) for s in a.tokens.keys() & b.tokens.keys()]
    if not known:
        return a.data.same(b.data)
    return None if None in known and False not in known else all(known)


def _weights(a: Facts, b: Facts) -> Iterator[Difference]:
    for key, name, ours, theirs, why in (
        ("weights", "weight files", a.weights, b.weights, "training starts from other numbers"),
        (
            "tokenizer",
            "tokenizer files",
            a.tokenizer,
            b.tokenizer,
            "inputs may be cut into other tokens",
        ),
    ):
        if ours.same(theirs) is False:
            yield Difference("weights", key, name, ours.brief(), theirs.brief(), why, True)


def _labels(a: Facts, b: Facts) -> Iterator[Difference]:
    ours, theirs = (f.model_labels or f.data_labels for f in (a, b))
    if ours and theirs and ours != theirs:
        if sorted(ours) == sorted(theirs):
            why = "the same classes under other numbers: compare by name, never by number"
            yield Difference("labels", "labels", "label order", ours, theirs, why, True)
        else:
            why = "other classes are told apart"
            yield Difference("rows", "labels", "labels", ours, theirs, why, True)
    wrong = [bool(f.model_labels and f.data_labels) and _mixed(f) for f in (a, b)]
    if any(wrong):
        left, right = (
            f"model {shown(f.model_labels)}; data {shown(f.data_labels)}" if bad else "as the data"
            for f, bad in zip((a, b), wrong, strict=True)
        )
        why = "a model that names its classes in another order than the data scores wrong by name"
        yield Difference("labels", "model_labels", "labels of model/", left, right, why, True)
    left, right = _head(a), _head(b)
    if left and right and left != right:
        yield Difference(
            "labels",
            "head",
            "head of the pretrained model",
            left,
            right,
            "a trained head whose rows stand for other classes than the data's starts from wrong "
            "answers",
            True,
        )


def _mixed(facts: Facts) -> bool:
    return facts.model_labels != facts.data_labels


def _head(facts: Facts) -> str:
    """Return how a head stood to the data's labels, in words; empty where nothing is known."""
    if facts.head == PLAIN:
        return "new, or in the data's order"
    if facts.head == "reordered":
        return "put into the data's order" if facts.head_handled else "left in another order"
    return {"unnamed": "labels without names", "other": "other labels"}.get(facts.head, facts.head)


def _configured(a: Facts, b: Facts) -> Iterator[Difference]:
    rows, weights = _same_rows(a, b), a.weights.same(b.weights)
    for key in a.config.keys() & b.config.keys():
        left, right = a.config[key], b.config[key]
        if left == right or key in a.in_force or key in _RULED:
            continue
        if rows and key in _ROWS_BY_NAME:
            yield _told(key, left, right, "the rows are the same", group="place", matters=False)
        elif key == "engine.peer":
            yield _told(key, *("glueline" if v == "none" else v for v in (left, right)))
        elif weights and key in _WEIGHTS_BY_NAME:
            yield _told(key, left, right, "the weights are the same", group="place", matters=False)
        elif key in _BY_PLACE and _only_sizes(a, b, key) and not same_commit(left, right):
            group = "rows" if key.startswith("task.") else "weights"
            why = "of files this large only the sizes are known, and these are the same"
            name = _BY_PLACE[key]
            yield _told(key, left, right, why, group=group, name=name, matters=True)
        else:
            yield _told(key, left, right)


def _only_sizes(a: Facts, b: Facts, key: str) -> bool:
    """Return whether of what lies at two places nothing but equal sizes is known."""
    if key == "model.path":
        return bool(a.weights.unread) and a.weights.same(b.weights) is None
    return bool(a.data.unread) and _same_rows(a, b) is None


def _in_force(a: Facts, b: Facts) -> Iterator[Difference]:
    """Yield what the learning-rate rule and the length of the run come to."""
    ours, theirs = a.in_force, b.in_force
    used = {str(f.get("optim.name")) for f in (ours, theirs)}
    for key in ours.keys() & theirs.keys():
        if ours[key] == theirs[key] or key in _RULED:
            continue
        if not used & set(_OPTIMIZERS.get(key, used)):
            why = f"{' and '.join(sorted(used))} does not use it"
            yield _told(key, ours[key], theirs[key], why, group="place", matters=False)
        elif ours[key] is not None and theirs[key] is not None:
            yield _told(key, ours[key], theirs[key])
    if not ours or not theirs:
        return
    if None in (ours["warmup"], theirs["warmup"]):
        key = "optim.warmup_ratio"
        if ours[key] != theirs[key]:
            yield _told(key, ours[key], theirs[key])
    for key in ("optim.lr", "optim.lr_rule", "optim.base_batch"):
        left, right = a.config.get(key), b.config.get(key)
        if left != right and ours["optim.lr"] == theirs["optim.lr"]:
            why = "the learning rate at the global batch is the same"
            yield _told(key, left, right, why, group="place", name=key, matters=False)


def _history(a: Facts, b: Facts, collapsed: tuple[str | None, str | None]) -> Iterator[Difference]:
    if collapsed[0] != collapsed[1]:
        left, right = (f"{one} to every row" if one else "several classes" for one in collapsed)
        yield _told("collapsed", left, right)
    for key in a.history.keys() & b.history.keys():
        if a.history[key] != b.history[key]:
            yield _told(key, a.history[key], b.history[key])
    if a.results and b.results:
        left, right = (bool(f.results.get("stopped_early")) for f in (a, b))
        if left != right:
            yield _told("stopped_early", left, right)


def _code(a: Facts, b: Facts) -> Iterator[Difference]:
    for key in ("commit", "diff", "digest"):
        left, right = a.code.get(key), b.code.get(key)
        either = left is not None or right is not None
        known = key == "diff" and a.code.get("commit") and b.code.get("commit")
        if left != right and either and (known or (left is not None and right is not None)):
            yield _told(key, _short(left), _short(right))


def _short(value: Any) -> str | None:
    return str(value)[:12] if value else None


def _versions(a: Facts, b: Facts) -> Iterator[Difference]:
    if not a.versions or not b.versions:
        return
    for package in a.versions.keys() | b.versions.keys():
        left, right = a.versions.get(package), b.versions.get(package)
        if left == right:
            continue
        why = _PACKAGES.get(package, "it computes little of the training")
        yield Difference("versions", package, package, left, right, why, package in _PACKAGES)


def _hardware(a: Facts, b: Facts) -> Iterator[Difference]:
    for key in ("world_size", "device", "hosts"):
        left, right = a.hardware.get(key), b.hardware.get(key)
        if left != right and left is not None and right is not None:
            yield _told(key, left, right)


def by_group(found: list[Difference]) -> Mapping[str, list[Difference]]:
    """Return differences by group, in their order."""
    groups: dict[str, list[Difference]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one)
    return groups
