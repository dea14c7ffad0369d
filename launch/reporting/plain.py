"""A report as report.json holds it. Pure."""

from __future__ import annotations

import math
from typing import Any

from .gather import RunReport, SweepReport
from .parts import Part
from .records import Record
from .scaling import loss_shares
from .sweep_page import collapse_rule, rule_words

FORMAT = 1


def plain_sweep(report: SweepReport, now: float) -> dict[str, Any]:
    """Return a sweep's report."""
    found = {
        "format": FORMAT,
        "kind": "sweep",
        "name": report.name,
        "path": str(report.path),
        "time": now,
        "states": dict(report.states),
        "notes": list(report.notes),
        "tasks": [_part(part) for part in report.parts],
    }
    return finite(found)


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no infinity: None in their place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _part(part: Part) -> dict[str, Any]:
    advice = part.advice
    return {
        "task": part.task,
        "metric": part.metric,
        "split": part.split,
        "higher_is_better": part.higher,
        "baseline": part.baseline,
        "collapse_rule": collapse_rule(part),
        "target": part.target,
        "target_from": part.target_from,
        "varied": list(part.varied),
        "cells": [c.plain() for c in part.cells],
        "trials": [
            {
                "number": t.number,
                "axes": dict(t.axes),
                "command": t.command or None,
                **plain_record(t.record),
            }
            for t in part.trials
        ],
        "scaling": [s.plain() for s in part.scaling],
        "critical_batch": [
            {
                "runs": c.name,
                "measured": c.measured.plain(),
                "predicted": c.predicted.plain() if c.predicted else None,
            }
            for c in part.critical
        ],
        "pareto_front": [dict(c.axes) for c in part.front],
        "recommended": {
            "global_batch": advice.cell.batch,
            "axes": dict(advice.cell.axes),
            "best": dict(advice.best.axes),
            "margin": advice.margin,
            "rule": rule_words(part),
        }
        if advice
        else None,
        "efficiency": [e.plain() for e in part.efficiency],
    }


def plain_run(report: RunReport, now: float) -> dict[str, Any]:
    """Return a run's report."""
    record = report.record
    found = {
        "format": FORMAT,
        "kind": "run",
        "time": now,
        "notes": list(report.notes),
        **plain_record(record),
        "command": report.command or None,
        "metrics": record.results.get("metrics"),
        "attempts": [{**vars(a), "hosts": list(a.hosts)} for a in record.attempts],
        "time_shares": loss_shares(record.throughput) or None,
        "efficiency": report.efficiency.plain() if report.efficiency else None,
        "lines": list(report.lines),
    }
    return finite(found)


def plain_record(record: Record) -> dict[str, Any]:
    """Return a run's state and numbers."""
    names = (
        "run_id task model state global_batch seed ranks metric split score steps total_steps "
        "examples seconds hours unit diverged job"
    ).split()
    found: dict[str, Any] = {name: getattr(record, name) for name in names}
    return found | {
        "path": str(record.path),
        "cause": record.cause or None,
        "log": record.log or None,
        "throughput": dict(record.throughput) or None,
        "noise": dict(record.noise) or None,
        "evaluations": [vars(e) for e in record.evaluations],
    }
