"""What can be removed below a runs folder, and what must not: decided here, done by `clean`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training import checkpoints, prepared
from training.config import UsageError, load_config
from training.rundir import CACHE_FOLDER, RunDir, Snapshot, State, read_json
from training.sweepdir import SweepDir, list_sweeps

from .leftovers import leftovers
from .space import bytes_below

FRESH_SECONDS = 3600.0
"""What nobody refers to may belong to a submission that is not written yet."""


@dataclass(frozen=True)
class Item:
    """One file or folder that can go."""

    path: str
    kind: str
    """checkpoint, best weights, model, code, tokens, tokenizer, prepared, hub or temporary."""
    why: str
    bytes: int
    run_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What a person wants to have removed, beyond what nobody can miss."""

    checkpoints: bool = False
    """The last checkpoint of runs that did not finish, too."""
    models: bool = False
    cache: bool = False
    failed: bool = False
    """Only runs that failed or were interrupted."""
    older_than: float | None = None
    """Only runs that nothing was written to for so many seconds."""


def size_of(path: Path) -> int:
    """Return the bytes of a file or of all files below a folder."""
    try:
        return bytes_below(path) if path.is_dir() else path.lstat().st_size
    except OSError:
        return 0


def of_run(run: RunDir, state: State, asked: Asked, now: float) -> Iterator[Item]:
    """Yield what of a run can go.

    Nothing of a run that is queued or running, or whose state is not known. What a run would go
    on from stays: its newest whole checkpoint with the best weights that this one knows.
    """
    if state in ("queued", "running", "damaged", "created"):
        return
    if asked.failed and state not in ("failed", "interrupted"):
        return
    if asked.older_than is not None and now - last_change(run) < asked.older_than:
        return

    def item(path: Path, kind: str, why: str) -> Item:
        return Item(str(path), kind, why, size_of(path), run.run_id)

    keep, known = _policy(run)
    needed: set[Path] = set()
    if state != "finished" and not asked.checkpoints:
        needed = _needed(run)
    policy_keeps = not known or (state == "finished" and keep == "all")
    if not policy_keeps or asked.checkpoints:
        for path in sorted(_folders(run.checkpoints)):
            if path in needed:
                continue
            kind = "best weights" if path.name.startswith("best-") else "checkpoint"
            why = f"the run is {state}"
            if state != "finished":
                why = "a newer one is whole" if needed else f"asked for; the run is {state}"
            yield item(path, kind, why)
    if state == "finished" and run.model.is_dir() and (asked.models or keep == "results"):
        yield item(run.model, "model", "asked for" if asked.models else "train.keep is results")
    for path in (run.path / ".model.tmp", *_temporaries(run.checkpoints)):
        if path.exists():
            yield item(path, "temporary", f"left over; the run is {state}")


def _policy(run: RunDir) -> tuple[str, bool]:
    """Return what the run's configuration keeps, and whether it can be read."""
    try:
        return load_config(run.config).train.keep, True
    except UsageError:
        return "all", False


def _needed(run: RunDir) -> set[Path]:
    """Return what a run that is resumed would read: a whole checkpoint, and its best weights."""
    for folder in checkpoints.complete(run):
        if checkpoints.resized(folder) is not None:
            continue
        state = read_json(folder / checkpoints.STATE)
        progress = state.get("progress") if isinstance(state, dict) else None
        best = progress.get("best_step") if isinstance(progress, dict) else None
        return {folder} | ({checkpoints.best_folder(run, best)} if isinstance(best, int) else set())
    # None is whole: a person, or a later glueline, may still make something of them.
    return set(_folders(run.checkpoints))


def _folders(place: Path) -> list[Path]:
    try:
        return [p for p in place.iterdir() if p.name[0] != "."]
    except OSError:
        return []


def _temporaries(place: Path) -> list[Path]:
    try:
        return [p for p in place.iterdir() if p.name[0] == "." and p.name.endswith(".tmp")]
    except OSError:
        return []


def last_change(run: RunDir) -> float:
    """Return when something was last written to a run, in epoch seconds."""
    found = [0.0]
    for path in (run.path, run.progress, run.metrics, run.results, run.jobs, run.checkpoints):
        try:
            found.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(found)


def of_cache(
    cache: Path, files: Mapping[str, Snapshot], runs: Iterable[RunDir], busy: bool, now: float
) -> Iterator[Item]:
    """Yield what of the cache no run refers to.

    Args:
        cache: of the runs folder.
        files: what the runs' files say, by run id.
        runs: all runs of the folder.
        busy: a run that was not prepared is queued or running: it may read any tokens.
        now: epoch seconds.
    """
    runs = list(runs)
    codes, entries, paths = _references(cache, files, runs)
    for sweep in list_sweeps(cache.parent):
        of_sweep = _references_of(sweep, cache)
        codes |= of_sweep[0]
        entries |= of_sweep[1]
        paths |= of_sweep[2]

    def unused(place: Path, kind: str, used: set[Path]) -> Iterator[Item]:
        for path in sorted(_folders(place)):
            if path not in used and now - _changed(path) > FRESH_SECONDS:
                yield Item(str(path), kind, "no run refers to it", size_of(path))

    yield from unused(cache / "code", "code", {cache / "code" / name for name in codes})
    kept = {prepared.entry_path(cache, name) for name in entries}
    young = set()
    for path in prepared.folder(cache).glob("*.json"):
        if now - _changed(path) <= FRESH_SECONDS:
            young.add(path)
    extra = {prepared.folder(cache) / "sums.json", prepared.folder(cache) / "jobs"}
    yield from unused(prepared.folder(cache), "prepared", kept | young | extra)
    jobs = {prepared.folder(cache) / "jobs" / path.stem for path in kept | young}
    yield from unused(prepared.folder(cache) / "jobs", "prepared", jobs)
    for path in kept | young:
        entry = prepared.read_entry(cache, path.stem)
        if entry is not None:
            paths |= {entry.tokens, entry.tokenizer}
            paths |= {prepared.located(cache, f["path"]).parent for f in entry.files}
    if not busy:
        yield from unused(cache / "tokens", "tokens", paths)
        yield from unused(cache / "tokenizers", "tokenizer", paths)
    for kind in ("models", "datasets"):
        yield from unused(cache / "hub" / kind, "hub", paths)


def _references(
    cache: Path, files: Mapping[str, Snapshot], runs: list[RunDir]
) -> tuple[set[str], set[str], set[Path]]:
    """Return the digests of code, the names of entries and the folders that runs refer to."""
    codes: set[str] = set()
    entries: set[str] = set()
    paths: set[Path] = set()
    for run in runs:
        manifest = read_json(run.manifest)
        if isinstance(manifest, dict) and manifest.get("code"):
            codes.add(str(manifest["code"]))
        seen = files.get(run.run_id)
        codes |= {str(job["code"]) for job in (seen.jobs if seen else []) if job.get("code")}
        # What the batch script itself says holds also where a file is damaged.
        codes |= _named_in(run.submission, cache / "code") | _named_in(run.command, cache / "code")
        note = read_json(run.prepared)
        if isinstance(note, dict) and note.get("entry"):
            entries.add(str(note["entry"]))
        try:
            config = load_config(run.config)
        except UsageError:
            continue
        paths |= {Path(p) for p in (config.task.path, config.model.path) if p}
    return codes, entries, paths


def _references_of(sweep: SweepDir, cache: Path) -> tuple[set[str], set[str], set[Path]]:
    """Return the same of a sweep, whose trials have no run directory before a worker takes them."""
    codes, entries, paths = set[str](), set[str](), set[Path]()
    manifest = read_json(sweep.manifest)
    if isinstance(manifest, dict) and manifest.get("code"):
        codes.add(str(manifest["code"]))
    for script in sweep.submitit.glob("*.sh"):
        codes |= _named_in(script, cache / "code")
    for note in map(read_json, sweep.path.glob("prepared-*.json")):
        if isinstance(note, dict) and note.get("entry"):
            entries.add(str(note["entry"]))
    for base in sweep.path.glob("base-*.yaml"):
        with contextlib.suppress(UsageError):
            config = load_config(base)
            paths |= {Path(p) for p in (config.task.path, config.model.path) if p}
    return codes, entries, paths


def _named_in(script: Path, folder: Path) -> set[str]:
    try:
        text = script.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {path.name for path in _folders(folder) if path.name in text}


def _changed(path: Path) -> float:
    try:
        seen = path.stat()
    except OSError:
        return time.time()
    return max(seen.st_mtime, seen.st_ctime)


def of_folder(runs: Path, now: float) -> Iterator[Item]:
    """Yield what dead processes left beside the runs and in the cache."""
    for path in leftovers(runs / CACHE_FOLDER, now):
        yield Item(str(path), "temporary", "its process is gone", size_of(path))
