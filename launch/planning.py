"""From a configuration to its plan: the rows, the model and the nodes are looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import RunConfig
from training.rundir import CACHE_FOLDER, RunDir

if TYPE_CHECKING:
    from .capacity import Capacity
    from .plan import Plan
    from .resolve import Resolved

SAMPLED_ROWS = 1000
"""Training rows that are tokenised for the histogram of lengths."""
AUTO = "auto: "
"""How the origin of a value begins that was decided here."""


@dataclass(frozen=True)
class Inputs:
    """What of a run's rows is on this machine."""

    rows: dict[str, int] | None = None
    lengths: Any = None
    """Tokens of sampled training rows, an array; None where they are not known."""
    lengths_from: str | None = None
    notes: tuple[str, ...] = ()


def look_at(config: RunConfig) -> Inputs:
    """Look at the rows and weights that are on this machine.

    Raises:
        UsageError: rows or weights are wrong, or inputs do not fit the model.
    """
    from . import checks

    source = checks.look_at_inputs(config)
    if source is None:
        return Inputs()
    from training.sources import sample_lengths

    notes = tuple(checks.head_notes(config, source))
    tokenizer, how = checks.tokenizer_json(config), None
    if tokenizer is None and not config.model.architecture:
        return Inputs(source.rows, None, "unknown: the tokenizer is not here yet", notes)
    if tokenizer is None:
        how = "words counted: the run trains its own vocabulary"
    lengths = sample_lengths(config.task, tokenizer, SAMPLED_ROWS)
    if len(lengths):
        checks.check_length(config, int(lengths.max()))
    return Inputs(source.rows, lengths, how, notes)


@dataclass(frozen=True)
class Seen:
    """What plans of one model, one task and one kind of node rest on."""

    inputs: Inputs
    known: Capacity
    past: list[dict[str, Any]]
    """Runs whose speed is known."""


def look_around(
    config: RunConfig, runs: Path, past: list[dict[str, Any]] | None = None, write: bool = False
) -> Seen:
    """Look at the rows and weights on this machine, at the nodes, and at past runs.

    Args:
        config: without `auto` values.
        runs: the runs folder, whose past runs tell the speed.
        past: these runs where they are known already.
        write: bring the ledger of past runs up to date.

    Raises:
        UsageError: rows or weights are wrong, or inputs do not fit the model.
    """
    from . import ledger
    from .capacity import look

    inputs = look_at(config)
    if past is None:
        past = ledger.gather(runs) if write else ledger.gathered(runs)
    return Seen(inputs, look(config, runs / CACHE_FOLDER), past)


def plan_of(config: RunConfig, seen: Seen) -> Plan:
    """Return the plan of a configuration that shares model, task and nodes with what was seen.

    Raises:
        UsageError: inputs do not fit the budget, or the run does not fit in memory.
    """
    from . import checks
    from .plan import make_plan
    from .space import disk_text

    rows = seen.inputs
    plan = make_plan(config, rows.rows, rows.lengths, rows.lengths_from, seen.known, seen.past)
    notes = (*plan.notes, *rows.notes, *checks.peer_notes(config))
    return replace(plan, disk=disk_text(config), notes=notes)


def plan_with_inputs(config: RunConfig, runs: Path, write: bool = False) -> Plan:
    """Return the plan, after looking at all that it rests on: see `look_around`, `plan_of`."""
    return plan_of(config, look_around(config, runs, write=write))


def fitted(resolved: Resolved, config: RunConfig, plan: Plan) -> tuple[Resolved, RunConfig, Plan]:
    """Return all three with the highest micro-batch budget that fits, where that was left open.

    What the budget is otherwise stays its upper bound: no larger one was seen to be faster. The
    run's id does not follow it: it is not part of what was asked for.
    """
    best = (plan.memory or {}).get("highest_micro_tokens")
    said = resolved.origins.get("batch.micro_tokens", "")
    if best is None or best >= plan.micro_tokens or not said.startswith(AUTO):
        return resolved, config, plan

    def lowered(whole: RunConfig) -> RunConfig:
        return replace(whole, batch=replace(whole.batch, micro_tokens=best))

    origins = {**resolved.origins, "batch.micro_tokens": f"{AUTO}the most that fits in memory"}
    config = lowered(config)
    resolved = replace(resolved, config=lowered(resolved.config), origins=origins)
    return resolved, config, plan_with_inputs(config, resolved.runs)


def with_its_budget(run: RunDir, resolved: Resolved) -> RunConfig:
    """Return what is asked for with the micro-batch budget of the run that is there already.

    Only where none was typed: what fits is told better once the model is here.
    """
    config = resolved.config
    if run.config.is_file() and resolved.origins.get("batch.micro_tokens", "").startswith(AUTO):
        from .resume import load_run

        there = load_run(run).batch.micro_tokens
        config = replace(config, batch=replace(config.batch, micro_tokens=there))
    return config
