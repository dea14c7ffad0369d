"""The receipt of a reproduction: one JSON object with all that another cluster needs to repeat it.

`receipt.json` is the truth; the Markdown and the page are made of it (`receipt_text`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from launch.judging.average import Average
from launch.manifest import versions
from launch.reference_file import NO_RECIPE, SECTIONS
from launch.reference_sets import Reference, missing
from launch.reporting.cells import Trial
from launch.reporting.plain import finite
from launch.reporting.records import Record, mapping, number, whole
from training.config import RunConfig, UsageError, load_config
from training.config.schema import get_dotted, leaves, to_plain
from training.rundir import RunDir, read_json

from .collect import Judged, Line, Reproduction

FORMAT = 1


def recipe_digest(config: RunConfig) -> str:
    """Return a hash of all that a score follows from, the same wherever it is computed.

    That is task, model, batch, optimizer, schedule, length and seed; not the number of ranks, the
    engine, the precision, the cluster, or where rows and weights lie.
    """
    plain = {
        key: to_plain(get_dotted(config, key))
        for key in leaves(RunConfig)
        if key.split(".")[0] in SECTIONS and key not in NO_RECIPE
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def make_receipt(found: Reproduction, now: float) -> dict[str, Any]:
    """Return the receipt of what is there, ready for JSON."""
    asked, reference = found.asked, found.reference
    records = [r for judged in found.tasks for r in judged.records]
    manifest = mapping(read_json(found.sweep.manifest))
    receipt = {
        "format": FORMAT,
        "kind": "receipt",
        "name": found.sweep.name,
        "time": now,
        "reference": {
            "name": reference.name,
            "model": reference.model,
            "source": reference.source,
            "url": reference.url,
            "checked": reference.checked,
        },
        "asked": asked.plain(),
        "verdicts": [_verdict(judged) for judged in found.tasks],
        "average": _average(found.average),
        "published_average": _average(found.published_average),
        "cost": _cost(records),
        "hardware": _hardware(records),
        "glueline": {
            "version": mapping(manifest.get("versions")).get("glueline"),
            "git": mapping(manifest.get("git")) or None,
            "code": manifest.get("code"),
        },
        "versions": _versions(records),
        "login_versions": versions(),
        "inputs": _inputs(found),
        "runs": [_run(judged, trial) for judged in found.tasks for trial in judged.trials],
        "notes": list(found.notes),
    }
    return finite(receipt)


def _verdict(judged: Judged) -> dict[str, Any]:
    records = judged.records
    speeds = [
        s for r in records if (s := number(r.throughput.get("examples_per_second"))) is not None
    ]
    seconds = [r.seconds for r in records if r.seconds]
    combined = judged.combined
    return {
        "task": judged.task,
        "reference": judged.reference.name,
        "outcome": combined.outcome,
        "why": combined.why,
        "changed": [dict(c) for c in judged.changed],
        "assumed": _assumed(judged.reference),
        "seeds": len(judged.trials),
        "stopped_after": judged.stopped,
        "collapsed": [t.record.run_id for t in judged.collapsed],
        "missing": [
            {"run_id": t.record.run_id, "state": t.record.state, "cause": t.record.cause}
            for t in judged.missing
        ],
        "not_counted": [t.record.run_id for t in judged.spare],
        "scores": [_score(line) for line in judged.lines],
        **_cost(records),
        "examples_per_second": fmean(speeds) if speeds else None,
        "seconds_a_run": fmean(seconds) if seconds else None,
        "extra": dict(judged.reference.extra),
    }


def _assumed(reference: Reference) -> dict[str, Any]:
    """Return what the source does not say of the recipe: what is taken instead, and why."""
    said = {key: {"value": a.value, "why": a.why} for key, a in reference.assumed.items()}
    for entry in missing(reference):
        if entry.key != "train.seed":
            said[entry.key] = {"value": to_plain(entry.value), "why": entry.origin}
    return said


def _score(line: Line) -> dict[str, Any]:
    verdict, score = line.verdict, line.score
    return {
        "name": line.name,
        "split": score.split,
        "metric": score.metric,
        "published": {"value": score.value, "sd": score.sd, "runs": score.runs},
        "ours": {
            "mean": verdict.mean,
            "sd": verdict.sd,
            "count": verdict.count,
            "values": list(line.values),
        },
        "difference": verdict.difference.plain() if verdict.difference else None,
        "confidence": 1 - 2 * verdict.alpha if verdict.alpha is not None else None,
        "margin": line.margin,
        "margin_words": line.margin_words,
        "outcome": verdict.outcome,
        "why": verdict.why,
        "needed": verdict.needed,
        "single_run_could": verdict.single,
        "single_run": verdict.prediction.plain() if verdict.prediction else None,
    }


def _average(average: Average | None) -> dict[str, Any] | None:
    if average is None:
        return None
    return {
        "name": average.name,
        **average.score.plain(),
        "tasks": {task: mean.plain() for task, mean in average.tasks.items()},
        "missing": dict(average.missing),
    }


def _cost(records: Iterable[Record]) -> dict[str, Any]:
    listed = list(records)
    hours = [r.hours for r in listed if r.hours]
    return {
        "hours": math.fsum(hours) if hours else None,
        "unit": next((r.unit for r in listed if r.hours), "core-hours"),
        "runs": sum(r.state == "finished" for r in listed),
    }


def _environments(records: Iterable[Record]) -> Iterable[dict[str, Any]]:
    for record in records:
        run = RunDir(record.path)
        numbers = run.attempt_numbers()
        if numbers:
            yield mapping(read_json(run.environment(max(numbers))))


def _hardware(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the kinds of rank that runs had, with how many runs had them."""
    kinds: dict[str, dict[str, Any]] = {}
    for environment in _environments(records):
        ranks = [r for r in environment.get("ranks") or () if isinstance(r, dict)]
        if not ranks:
            continue
        what = {
            "device": ranks[0].get("device"),
            "model": ranks[0].get("model"),
            "ranks": len(ranks),
            "nodes": len({r.get("host") for r in ranks}),
            "threads": ranks[0].get("threads"),
        }
        known = kinds.setdefault(json.dumps(what, sort_keys=True), {**what, "runs": 0})
        known["runs"] += 1
    return list(kinds.values())


def _versions(records: Iterable[Record]) -> dict[str, Any]:
    """Return package versions as the ranks saw them; several where runs differ."""
    seen: dict[str, list[str]] = {}
    for environment in _environments(records):
        for name, version in mapping(environment.get("versions")).items():
            known = seen.setdefault(name, [])
            if version is not None and str(version) not in known:
                known.append(str(version))
    return {name: ", ".join(values) for name, values in seen.items() if values}


def _inputs(found: Reproduction) -> dict[str, Any]:
    """Return the fingerprints of rows and weights by task."""
    inputs = {}
    for judged in found.tasks:
        run = next((t.record.path for t in judged.trials if t.record.path.is_dir()), None)
        manifest = mapping(read_json(RunDir(run).manifest)) if run else {}
        inputs[judged.task] = {
            "data": fingerprint(manifest.get("data")),
            "weights": fingerprint(manifest.get("weights")),
        }
    return inputs


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


def _run(judged: Judged, trial: Trial) -> dict[str, Any]:
    record = trial.record
    config = _config(record)
    text = config.dump() if config else None
    return {
        "run_id": record.run_id,
        "task": judged.task,
        "seed": whole(trial.axes.get("seed")),
        "state": record.state,
        "recipe": recipe_digest(config) if config else None,
        "config": hashlib.sha256(text.encode()).hexdigest()[:16] if text else None,
        "scores": mapping(record.results.get("metrics")),
        "steps": record.steps,
        "attempts": len(record.attempts),
        "world_size": record.ranks,
        "engine": record.results.get("engine"),
        "zero_stage": record.results.get("zero_stage"),
        "precision": record.results.get("precision"),
        "global_batch": record.global_batch,
        "command": trial.command,
    }


def _config(record: Record) -> RunConfig | None:
    try:
        return load_config(RunDir(record.path).config)
    except UsageError:
        return None


def read_receipt(path: Path) -> dict[str, Any]:
    """Return a receipt that was written before.

    Raises:
        UsageError: there is none, it is no receipt, or a newer glueline wrote it.
    """
    place = path / "receipt.json" if path.is_dir() else path
    if not place.is_file():
        raise UsageError(f"there is no receipt {place}")
    value = read_json(place)
    if not isinstance(value, dict) or value.get("kind") != "receipt":
        hint = ": give the receipt.json beside it" if place.suffix in (".md", ".html") else ""
        raise UsageError(f"{place} is no receipt{hint}")
    version = value.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise UsageError(
            f"{place} is of a newer glueline (format {version}, this one reads up to {FORMAT}): "
            "update this one"
        )
    for key in ("asked", "verdicts", "runs", "inputs", "versions"):
        if key not in value:
            raise UsageError(f"{place}: its content was altered: '{key}' is missing")
    return value
