"""A receipt that was written before, read strictly: what it is compared by must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import UsageError

FORMAT = 1

Kind = type | tuple[type, ...]
COUNT = (int, type(None))
OBJECT = (dict, type(None))
NUMBER = (int, float, type(None))
PARTS: Mapping[str, Kind] = {
    "asked": dict,
    "verdicts": list,
    "runs": list,
    "inputs": dict,
    "versions": dict,
    "name": str,
}
RUN: Mapping[str, Kind] = {
    "task": str,
    "seed": COUNT,
    "recipe": (str, type(None)),
    "scores": dict,
}
VERDICT: Mapping[str, Kind] = {"task": str, "outcome": str, "scores": list}
SCORE: Mapping[str, Kind] = {"metric": str, "ours": dict}
PRINT: Mapping[str, Kind] = {"sha256": (str, type(None)), "bytes": int}
NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "keys and values",
    type(None): "null",
}


def read_receipt(path: Path) -> dict[str, Any]:
    """Return a receipt that was written before.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        UsageError: there is none, it is no receipt, a newer glueline wrote it, or its content was
            altered; what is wrong is named.
    """
    place = path / "receipt.json" if path.is_dir() else path
    if not place.is_file():
        raise UsageError(f"there is no receipt {place}")
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict) or value.get("kind") != "receipt":
        hint = ": give the receipt.json beside it" if place.suffix in (".md", ".html") else ""
        raise UsageError(f"{place} is no receipt{hint}")
    version = value.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _altered(place, f"'format' is {version!r}, not a number from 1 to {FORMAT}")
    if version > FORMAT:
        raise UsageError(
            f"{place} is of a newer glueline (format {version}, this one reads up to {FORMAT}): "
            "update this one"
        )
    check(value, place)
    return value


def check(value: Mapping[str, Any], place: Path) -> None:
    """Raise `UsageError` where a receipt lacks what a repetition needs of it."""

    def has(part: object, kinds: Mapping[str, Kind], where: str) -> Mapping[str, Any]:
        if not isinstance(part, dict):
            raise _altered(place, f"{where} is not keys and values")
        for key, kind in kinds.items():
            what = f"{where}: '{key}'" if where else f"'{key}'"
            if key not in part:
                raise _altered(place, f"{what} is missing")
            if not isinstance(part[key], kind) or isinstance(part[key], bool):
                raise _altered(place, f"{what} is not {_names(kind)}")
        return part

    has(value, PARTS, "")
    for number, run in enumerate(value["runs"], 1):
        has(run, RUN, f"run {number}")
    for number, verdict in enumerate(value["verdicts"], 1):
        where = f"verdict {number}"
        for score in has(verdict, VERDICT, where)["scores"]:
            has(has(score, SCORE, f"{where}: score")["ours"], {"mean": NUMBER}, f"{where}: ours")
    for task, inputs in value["inputs"].items():
        for what in ("data", "weights"):
            kinds = {what: OBJECT}
            if (print_ := has(inputs, kinds, f"inputs of {task}")[what]) is not None:
                has(print_, PRINT, f"inputs of {task}: {what}")


def _names(kind: Kind) -> str:
    return " or ".join(NAMES[k] for k in (kind if isinstance(kind, tuple) else (kind,)))


def _altered(place: Path, what: str) -> UsageError:
    return UsageError(f"{place}: its content was altered: {what}")
