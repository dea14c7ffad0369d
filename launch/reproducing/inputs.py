"""What the runs of a reproduction read, and by which code: whether it was the same for all.

A reproduction that is gone on with later may find other rows, weights or code in their place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.reporting.records import mapping
from training.rundir import RunDir, read_json

KINDS = ("data", "weights")


def manifest_of(run: Path) -> dict[str, Any]:
    """Return a run's manifest; empty where there is none."""
    return mapping(read_json(RunDir(run).manifest))


def fingerprint(files: object) -> dict[str, Any] | None:
    """Return one hash over the contents of files, in the order of their names; None of none.

    Where they lie does not count. The hash is None where a file was too large to be read at
    submission: equal sizes do not say that two are the same.
    """
    if not isinstance(files, list) or not files:
        return None
    entries = sorted(
        (Path(str(f.get("path"))).name, f.get("bytes"), f.get("sha256"))
        for f in files
        if isinstance(f, dict)
    )
    known = all(digest for *_, digest in entries)
    return {
        "sha256": hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16] if known else None,
        "files": len(entries),
        "bytes": sum(int(size or 0) for _, size, _ in entries),
    }


def fingerprints(manifests: Mapping[int, Mapping[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the fingerprints of rows or weights, each with the seeds that read it.

    Args:
        manifests: of the runs of one task, by seed.
        what: `data` or `weights`.
    """
    found: list[dict[str, Any]] = []
    for seed, manifest in manifests.items():
        print_ = fingerprint(manifest.get(what))
        if print_ is None:
            continue
        same = next((f for f in found if {k: f[k] for k in print_} == print_), None)
        if same is None:
            found.append({**print_, "seeds": [seed]})
        else:
            same["seeds"].append(seed)
    return found


def inputs_of(manifests: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fingerprints of a task's rows and weights; under `several` all that differ."""
    found: dict[str, Any] = {}
    several = {}
    for what in KINDS:
        prints = fingerprints(manifests, what)
        first = prints[0] if prints else None
        found[what] = {k: v for k, v in first.items() if k != "seeds"} if first else None
        if len(prints) > 1:
            several[what] = prints
    return {**found, "several": several} if several else found


def mixed(manifests: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return in words which inputs were not the same for all runs of a task."""
    found = []
    for what in KINDS:
        prints = fingerprints(manifests, what)
        if len(prints) > 1:
            told = [f"{print_words(p)} for {seeds_words(p['seeds'])}" for p in prints]
            found.append(f"the {what} are not the same for all seeds: {', '.join(told)}")
    return found


def print_words(print_: Mapping[str, Any]) -> str:
    """Return a fingerprint in words: its hash, or the size of what was too large to be read."""
    return f"sha256 {print_['sha256']}" if print_["sha256"] else f"{print_['bytes']:,} bytes"


def seeds_words(seeds: Sequence[int]) -> str:
    """Return seeds in words: `seed 4`, `seeds 1, 2`."""
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def code_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return which glueline a manifest says."""
    return {
        "version": mapping(manifest.get("versions")).get("glueline"),
        "git": mapping(manifest.get("git")) or None,
        "code": manifest.get("code"),
    }


def codes(manifests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the gluelines that trained runs, with how many each; that of most runs first."""
    found: dict[str, dict[str, Any]] = {}
    for manifest in manifests:
        if not manifest:
            continue
        code = code_of(manifest)
        git = code["git"] or {}
        # Commits may differ in what no job runs; where code is copied for jobs its digest decides.
        same = code["code"] or [code["version"], git.get("commit"), git.get("diff_sha256")]
        known = found.setdefault(json.dumps(same), {**code, "runs": 0})
        known["runs"] += 1
    return sorted(found.values(), key=lambda code: -code["runs"])
