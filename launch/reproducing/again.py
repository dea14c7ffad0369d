"""A receipt and its repetition: what must be the same, and what came out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .receipt_text import points

FIRST = ("torch", "transformers", "tokenizers", "accelerate", "deepspeed", "numpy", "python")
"""Packages that change scores sooner than others."""


def by_run(receipt: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Return a receipt's runs by task and seed."""
    return {(str(r["task"]), int(r["seed"])): r for r in receipt["runs"] if r["seed"] is not None}


def other_recipes(
    receipt: Mapping[str, Any], digests: Mapping[tuple[str, int], str]
) -> list[tuple[str, int]]:
    """Return the runs, by task and seed, whose recipe would not be the receipt's."""
    return [
        key
        for key, run in by_run(receipt).items()
        if run["recipe"] is not None and digests.get(key) not in (None, run["recipe"])
    ]


def other_versions(receipt: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the packages that have another version here, those first that matter most."""
    found = [
        f"{name} {before} → {here[name]}"
        for name, before in receipt["versions"].items()
        if name in here and str(here[name]) != str(before)
    ]
    order = {name: place for place, name in enumerate(FIRST)}
    return sorted(found, key=lambda text: order.get(text.split()[0], len(order)))


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what a repetition shows, a line each: inputs, single runs, means, verdicts."""
    lines = []
    for task, before in old["inputs"].items():
        after = (new["inputs"].get(task) or {}) if task in new["inputs"] else {}
        for what in ("data", "weights"):
            one, two = before.get(what), after.get(what)
            if not one or not two:
                continue
            if several := [p for p in (before, after) if what in (p.get("several") or {})]:
                whose = "the receipt" if several[0] is before else "this repetition"
                lines.append(f"{task}: the {what} were not the same for all runs of {whose}")
                continue
            hashes, sizes = ([one[key], two[key]] for key in ("sha256", "bytes"))
            if sizes[0] != sizes[1] or (all(hashes) and hashes[0] != hashes[1]):
                told = hashes if all(hashes) else [f"{size:,} bytes" for size in sizes]
                lines.append(f"{task}: the {what} are other ones: {told[0]} → {told[1]}")
            elif not all(hashes):
                lines.append(
                    f"{task}: the {what} have the same sizes; whether they are the same is not "
                    "known: a file was too large to be read"
                )
    one, two = by_run(old), by_run(new)
    both = [key for key in one if key in two and one[key]["scores"] and two[key]["scores"]]
    same = [key for key in both if one[key]["scores"] == two[key]["scores"]]
    lines.append(f"{len(same)} of {len(both)} runs have exactly the scores of the receipt")
    before = {v["task"]: v for v in old["verdicts"]}
    for verdict in new["verdicts"]:
        known = before.get(verdict["task"])
        if known is None:
            continue
        told = f"{verdict['task']}: {known['outcome']} → {verdict['outcome']}"
        pairs = zip(known["scores"], verdict["scores"], strict=False)
        means = [
            f"{b['metric']} {points(a['ours']['mean'])} → {points(b['ours']['mean'])}"
            for a, b in pairs
        ]
        lines.append(f"{told} ({', '.join(means)})" if means else told)
    return lines
