"""The receipt of a reproduction: one JSON object with all that another cluster needs to repeat it.

`receipt.json` is the truth; the Markdown and the page are made of it (`receipt_text`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
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

from .collect import Judged, Line, Reproduction, manifests_of, rows_of
from .inputs import code_of, codes, inputs_of
from .official import unlike_published
from .receipt_text import code_words
from .stored import FORMAT


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
    manifests = {judged.task: manifests_of(judged.trials) for judged in found.tasks}
    glueline = _glueline(found, (m for of_task in manifests.values() for m in of_task.values()))
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
        "warnings": _warnings(found, glueline),
        "verdicts": [_verdict(judged) for judged in found.tasks],
        "average": _average(found.average),
        "published_average": _average(found.published_average),
        "cost": _cost(records),
        "hardware": _hardware(records),
        "glueline": glueline,
        "versions": _versions(records),
        "login_versions": versions(),
        "inputs": {task: inputs_of(of_task) for task, of_task in manifests.items()},
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
        "rows": _rows(judged),
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


def _glueline(found: Reproduction, manifests: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return which glueline trained the runs; under `several` all of them, if there are more."""
    trained = codes(manifests)
    if not trained:  # nobody began
        return code_of(mapping(read_json(found.sweep.manifest)))
    first = {k: v for k, v in trained[0].items() if k != "runs"}
    return {**first, "several": trained} if len(trained) > 1 else first


def _rows(judged: Judged) -> dict[str, int]:
    """Return the rows of each split, as the first run that knows them has them."""
    records = [t.record for t in judged.trials]
    plans = (mapping(r.plan.get("rows")) for r in records)
    found = {
        split: n for split, count in next(filter(None, plans), {}).items() if (n := whole(count))
    }
    for line in judged.lines:
        split = line.score.split
        if split not in found and (
            n := next(filter(None, (rows_of(r, split) for r in records)), 0)
        ):
            found[split] = n
    return found


def _unlike(judged: Judged) -> list[str]:
    """Return how a task's rows are not those of the published numbers."""
    configs = (_config(t.record) for t in judged.trials)
    config = next(filter(None, configs), None)
    splits = [line.score.split for line in judged.lines]
    return unlike_published(config.task, _rows(judged), splits, done=True) if config else []


def _warnings(found: Reproduction, glueline: dict[str, Any]) -> list[str]:
    """Return what makes the verdicts worth less, a sentence each."""
    told = []
    for judged in found.tasks:
        told += [f"{judged.task}: {text}" for text in (*judged.mixed, *_unlike(judged))]
    if several := glueline.get("several"):
        each = [f"{code_words(code)} ({code['runs']} runs)" for code in several]
        told.append(f"the runs are not of the same glueline: {', '.join(each)}")
    return told


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
