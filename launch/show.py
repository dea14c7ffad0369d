"""What `submit --dry-run` prints: configuration with origins, plan, batch script, command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.config.schema import to_plain
from training.rundir import RunDir

from .duration import words
from .memory import gib
from .plan import Plan
from .resolve import Resolved, as_rows


def show_plan(console: Console, plan: Plan) -> None:
    """Print the plan as a table; what is unknown is said to be."""
    table = Table(title="plan", title_justify="left", box=None, show_header=False, padding=(0, 2))
    for name, value in _plan_rows(plan):
        table.add_row(name, value)
    console.print(table)
    for note in plan.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def _known(value: Any, form: str = "{}", unknown: str = "unknown") -> str:
    return unknown if value is None else form.format(value)


def _plan_rows(plan: Plan) -> list[tuple[str, str]]:
    shape = f"{plan.nodes} nodes × {plan.procs_per_node} = {plan.world_size}"
    threads = _known(plan.cores_per_rank, "{} cores a rank")
    micro = _known(plan.micro_batches, "{:.1f} on average")
    if plan.micro_batches_max is not None:
        micro += f", {plan.micro_batches_max} at most"
    lengths = plan.lengths_from
    if plan.longest is not None:
        lengths += f": mean {plan.mean_length:.0f} tokens, longest {plan.longest}"
    rows = "unknown" if plan.rows is None else ", ".join(f"{k} {v}" for k, v in plan.rows.items())
    return [
        ("ranks", shape),
        ("device", f"{plan.device}, {plan.gpus_per_node} GPUs a node, {threads}"),
        ("engine", plan.engine + (f", offload {plan.offload}" if plan.offload != "none" else "")),
        ("precision", plan.precision),
        ("rows", rows),
        ("lengths", lengths),
        ("global batch", str(plan.global_batch)),
        ("micro-batch", f"at most {plan.micro_tokens} padded tokens"),
        ("micro-batches a rank and step", micro),
        ("padding efficiency", _known(plan.padding_efficiency, "{:.0%}")),
        ("slowest rank over mean", _known(plan.rank_imbalance, "{:.2f}")),
        ("empty micro-batches", _known(plan.empty_share, "{:.0%}")),
        ("steps an epoch", _known(plan.steps_per_epoch)),
        ("optimizer steps", _known(plan.steps)),
        ("warm-up steps", _known(plan.warmup_steps)),
        ("peak learning rate", f"{plan.lr:.3g}"),
        *_memory_rows(plan),
        *_time_rows(plan),
        ("before the time limit", plan.lead),
        ("disk", plan.disk or "unknown: the model is not here yet"),
    ]


def _memory_rows(plan: Plan) -> list[tuple[str, str]]:
    found = plan.memory
    if found is None:
        return [("memory a rank", plan.unknown)] if plan.unknown else []
    text = f"about {gib(found['rank_bytes'])} ±{found['error']:.0%}"
    if found["limit_bytes"]:
        text += f", {found['share']:.0%} of {gib(found['limit_bytes'])} ({found['limit_of']})"
    else:
        text += ", of an unknown memory" + (
            ": say --set cluster.gpu_memory_gb=N" if plan.device == "cuda" else ""
        )
    base = "CUDA" if plan.device == "cuda" else "imports"
    parts = {**found["parts"], base: found["baseline_bytes"]}
    shown = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
    rows = [("memory a rank", text), ("", shown)]
    if best := found["highest_micro_tokens"]:
        rows.append(("micro-batch that fits", f"at most {best} padded tokens, surely"))
    return rows


def _time_rows(plan: Plan) -> list[tuple[str, str]]:
    found = plan.time
    if found is None:
        return [("time", "unknown")] if plan.memory else []
    parts = (
        f"{found['step_seconds']:.2g} s a step, evaluation {words(found['evaluation_seconds'])}, "
        f"start and end {words(found['start_seconds'])}"
    )
    return [
        ("time", f"{found['words']}: {parts}"),
        ("cost", f"{found['hours']:.3g} {found['unit']}"),
    ]


def show_dry_run(
    resolved: Resolved, run: RunDir, plan: Plan, notes: list[str], script: str, command: str
) -> None:
    """Print everything that a submission would do. Scripts are printed as they are."""
    console = Console(highlight=False)
    console.print(Text(f"run {run.run_id}", style="bold"))
    console.print(Text(str(run.path)), soft_wrap=True)
    table = Table(title="\nconfiguration (what is not a default)", title_justify="left", box=None)
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    rows = as_rows(resolved.config, resolved.origins)
    for key, value, origin in rows:
        if origin != "default":
            table.add_row(Text(key), Text(_value(value)), Text(origin))
    console.print(table)
    left = sum(origin == "default" for _, _, origin in rows)
    console.print(Text(f"and {left} defaults\n", style="dim"))
    show_plan(console, plan)
    _show_scripts(console, notes, script, command)


def show_resume(
    run: RunDir,
    plan: Plan,
    changed: Mapping[str, Sequence[Any]],
    origins: Mapping[str, str],
    where: str,
    notes: Iterable[str],
    script: str,
    command: str,
) -> None:
    """Print what continuing a run would do: from which step, what changes, the new plan.

    Args:
        run: the run.
        plan: the new plan.
        changed: old and new value by dotted key.
        origins: where each new value comes from.
        where: in words, the step that it goes on from.
        notes: what a person should know.
        script: the batch script.
        command: the command of one node.
    """
    console = Console(highlight=False)
    console.print(Text(f"run {run.run_id} {where}", style="bold"), soft_wrap=True)
    console.print(Text(str(run.path)), soft_wrap=True)
    if changed:
        table = Table(title="\nwhat changes", title_justify="left", box=None)
        for column in ("key", "before", "now", "from"):
            table.add_column(column, overflow="fold")
        for key, (old, new) in changed.items():
            table.add_row(
                Text(key), Text(_value(old)), Text(_value(new)), Text(origins.get(key, ""))
            )
        console.print(table)
    else:
        console.print(Text("nothing changes", style="dim"))
    console.print()
    show_plan(console, plan)
    _show_scripts(console, notes, script, command)


def changes_text(changed: Mapping[str, Sequence[Any]]) -> str:
    """Return a line for every value that changes, to stand below what was submitted."""
    return "".join(
        f"\n  change  {key}: {_value(old)} → {_value(new)}" for key, (old, new) in changed.items()
    )


def _show_scripts(console: Console, notes: Iterable[str], script: str, command: str) -> None:
    for note in notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    for title, text in (("batch script", script), ("command of one node", command)):
        if not text:
            continue
        console.print(Text(f"\n{title}", style="italic"))
        console.print(Text(text.rstrip("\n")), soft_wrap=True)


def _value(value: Any) -> str:
    plain = to_plain(value)
    if isinstance(plain, list):
        return ", ".join(map(str, plain)) or "none"
    if isinstance(plain, dict):
        return ", ".join(f"{k}={v}" for k, v in plain.items()) or "none"
    return "none" if plain is None else str(plain)
