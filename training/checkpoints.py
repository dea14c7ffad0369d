"""Checkpoints as folders: which are there, which are whole, which may go. Standard library only.

`checkpoints/step-<n>/` is what a run resumes from, `checkpoints/best-<n>/` the best weights so
far. Either is written under a temporary name, flushed, sealed by a manifest of SHA-256 sums and
renamed: a folder without the right name or without a true manifest is no checkpoint.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .rundir import RunDir, file_problem, file_sha256, read_json, sync_path, write_json

FORMAT = 1
"""Version of the layout. A run directory of a newer one is refused, not guessed at."""
KEPT = 2
"""How many checkpoints to resume from are kept."""
MANIFEST = "manifest.json"
STATE = "state.json"

_NAME = re.compile(r"(step|best)-(\d+)")


def step_folder(run: RunDir, step: int) -> Path:
    """Return the folder of the checkpoint after `step` optimizer steps."""
    return run.checkpoints / f"step-{step}"


def best_folder(run: RunDir, step: int) -> Path:
    """Return the folder of the best weights, found after `step` optimizer steps."""
    return run.checkpoints / f"best-{step}"


def temporary_folder(final: Path) -> Path:
    """Return where a folder is written before it has its name."""
    return final.with_name(f".{final.name}.tmp")


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder."""
    match = _NAME.fullmatch(folder.name)
    assert match, folder
    return int(match[2])


def _folders(run: RunDir, kind: str) -> list[Path]:
    if not run.checkpoints.is_dir():
        return []
    found = [
        p for p in run.checkpoints.iterdir() if (m := _NAME.fullmatch(p.name)) and m[1] == kind
    ]
    return sorted(found, key=step_of, reverse=True)


def complete(run: RunDir) -> list[Path]:
    """Return the checkpoints that a run can resume from, newest first, by their manifests alone.

    What the manifests say of the files is not looked at: see `damage`.
    """
    return [p for p in _folders(run, "step") if isinstance(read_json(p / MANIFEST), dict)]


def last_step(run: RunDir) -> int | None:
    """Return the step of the newest checkpoint; None without one."""
    found = complete(run)
    return step_of(found[0]) if found else None


def format_of(folder: Path) -> int | None:
    """Return the version of a checkpoint's layout; None where its manifest does not say."""
    return _version(read_json(folder / MANIFEST))


def is_newer(folder: Path) -> bool:
    """Return whether a newer glueline wrote a checkpoint, by its manifest."""
    return (format_of(folder) or 0) > FORMAT


def resized(folder: Path) -> str | None:
    """Return which file of a checkpoint is missing or has another size, None if none has.

    Cheap, for the login node: contents are not read, see `damage`.
    """
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        return f"{folder.name}: no manifest"
    for name, entry in sorted(files.items()):
        if not _is_entry(entry):
            return f"{folder.name}/{MANIFEST}: its content was altered"
        if problem := file_problem(folder / name, entry["bytes"]):
            return f"{folder.name}/{name} {problem}"
    return None


def newest_sound(run: RunDir) -> tuple[int | None, list[str]]:
    """Return the step of the newest checkpoint whose files have their sizes, and what others lack.

    Returns:
        The step, None without one; a line for every newer checkpoint that is damaged.
    """
    damaged = []
    for folder in complete(run):
        problem = resized(folder)
        if problem is None:
            return step_of(folder), damaged
        damaged.append(problem)
    return None, damaged


def damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """Return what is wrong with a checkpoint's files, None if they are what was written.

    Args:
        folder: of the checkpoint.
        part: which share of the files to read, where `parts` ranks share the work.
        parts: how many ranks do.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return f"{folder.name}: no manifest"
    version, files = _version(manifest), manifest["files"]
    if version is None or not all(_is_entry(entry) for entry in files.values()):
        return f"{folder.name}/{MANIFEST}: its content was altered"
    if version > FORMAT:
        return f"{folder.name}: written by a newer glueline (format {version})"
    for place, (name, entry) in enumerate(sorted(files.items())):
        if place % parts != part:
            continue
        if problem := file_problem(folder / name, entry["bytes"], entry["sha256"]):
            return f"{folder.name}/{name} {problem}"
    return None


def _version(manifest: object) -> int | None:
    version = manifest.get("format") if isinstance(manifest, dict) else None
    return version if isinstance(version, int) else None


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and entry.keys() >= {"bytes", "sha256"}


def describe_file(path: Path) -> dict[str, Any]:
    """Flush a file to its disk and return its entry in a manifest: bytes and SHA-256.

    Raises:
        OSError: the disk is full or broken.
    """
    sync_path(path)
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def seal(final: Path, step: int, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a written folder its manifest and its name; one that is there already is replaced.

    Raises:
        OSError: the disk is full or broken; nothing of that name is there then.
    """
    temporary = temporary_folder(final)
    write_json(temporary / MANIFEST, {"format": FORMAT, "step": step, "files": dict(files)})
    sync_path(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync_path(final.parent)


def prune(run: RunDir, best: int | None, keep: int = KEPT) -> None:
    """Remove older checkpoints, and best weights that neither they nor this process know.

    A run that goes back to an older checkpoint must find the best weights of that time.

    Args:
        run: the run.
        best: step of the best weights now.
        keep: how many checkpoints stay.
    """
    found = complete(run)
    known = {best}
    for folder in found[:keep]:
        state = read_json(folder / STATE)
        known.add(state.get("progress", {}).get("best_step") if isinstance(state, dict) else None)
    old = [p for p in _folders(run, "step") if p not in found[:keep]]
    # This may run while training is ahead: newer best weights are not its to judge.
    limit = max(best or 0, step_of(found[0]) + 1 if found else 0)
    stale = [p for p in _folders(run, "best") if step_of(p) < limit and step_of(p) not in known]
    remove([*old, *stale])


def remove(folders: Iterable[Path]) -> None:
    """Remove folders; a manifest goes first, so that what is left of one is no checkpoint."""
    for folder in folders:
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
