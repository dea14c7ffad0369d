"""A receipt as Markdown, as a page, and for the terminal. Pure functions of `receipt.json`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from launch.reporting import page
from launch.reporting.tables import Column, Table, words

from .inputs import KINDS, seeds_words
from .interval_plot import interval_plot

HOW = (
    "Reproduced: the interval of the difference lies within the margin. Not reproduced: it lies "
    "outside. Undecided: neither, and more seeds may tell."
)


def points(value: Any, sign: bool = False) -> str:
    """Return a fraction in points: `56.5`, or `+0.3` with its sign."""
    if value is None:
        return "-"
    return f"{value * 100:+.2f}" if sign else f"{value * 100:.2f}"


def title(receipt: Mapping[str, Any]) -> str:
    """Return what the receipt is of, in one line."""
    reference = receipt["reference"]
    return f"Reproduction of {reference['name']} ({reference['model']})"


def summary(receipt: Mapping[str, Any]) -> str:
    """Return the verdicts in one line: `3 of 4 tasks reproduced, 1 undecided`."""
    outcomes = [v["outcome"] for v in receipt["verdicts"]]
    parts = [
        f"{outcomes.count(kind)} {kind}"
        for kind in ("reproduced", "not reproduced", "undecided")
        if kind in outcomes
    ]
    changed = any(v["changed"] for v in receipt["verdicts"])
    told = f"{len(outcomes)} task{'s' * (len(outcomes) != 1)}: {', '.join(parts)}"
    return f"{told}. The recipe was changed" if changed else told


def rows(receipt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the verdict table: a row a score."""
    found = []
    for verdict in receipt["verdicts"]:
        for score in verdict["scores"] or [{}]:
            published, ours = score.get("published") or {}, score.get("ours") or {}
            spread = f" ± {points(published['sd'])}" if published.get("sd") is not None else ""
            own = f" ± {points(ours['sd'])}" if ours.get("sd") is not None else ""
            several = len(verdict["scores"]) > 1
            found.append(
                {
                    "task": verdict["task"],
                    "metric": score.get("name", "-"),
                    "published": f"{points(published.get('value'))}{spread}",
                    "ours": f"{points(ours.get('mean'))}{own}",
                    "seeds": ours.get("count", 0),
                    "difference": _interval(score.get("difference")),
                    "margin": f"±{points(score.get('margin'))}" if score else "-",
                    "verdict": score.get("outcome", verdict["outcome"]),
                    "task_verdict": verdict["outcome"] if several else "",
                }
            )
    return found


def _interval(difference: Mapping[str, Any] | None) -> str:
    if not difference:
        return "-"
    if difference["low"] is None:
        return points(difference["value"], sign=True)
    low, high = (points(difference[end], sign=True) for end in ("low", "high"))
    return f"{points(difference['value'], sign=True)} ({low} to {high})"


COLUMNS = (
    ("task", "task"),
    ("metric", "metric"),
    ("published", "published"),
    ("ours", "ours, mean ± sd"),
    ("seeds", "seeds"),
    ("difference", "difference (interval)"),
    ("margin", "margin"),
    ("verdict", "verdict"),
)


RUN = ("run", "task", "seed", "recipe", "config", "score", "steps")
SPEED = ("task", "runs", "cost", "examples a second", "seconds a run", "rows")


def warnings(receipt: Mapping[str, Any]) -> list[str]:
    """Return what makes the verdicts worth less, a line each."""
    return [f"Warning: {text}." for text in receipt.get("warnings") or ()]


def speed_rows(receipt: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return cost and speed, a row a task, by the names of `SPEED`."""
    found = []
    for verdict in receipt["verdicts"]:
        hours, speed = verdict.get("hours"), verdict.get("examples_per_second")
        seconds, counted = verdict.get("seconds_a_run"), verdict.get("rows") or {}
        cells = (
            verdict["task"],
            str(verdict.get("runs", "-")),
            f"{hours:.3g} {verdict['unit']}" if hours else "-",
            f"{speed:,.0f}" if speed else "-",
            f"{seconds:,.0f}" if seconds else "-",
            ", ".join(f"{split} {count:,}" for split, count in counted.items()) or "-",
        )
        found.append(dict(zip(SPEED, cells, strict=True)))
    return found


def sentences(receipt: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of each task beside the table, a line each."""
    found = []
    for verdict in receipt["verdicts"]:
        task, told = verdict["task"], [verdict["why"]]
        if verdict["changed"]:
            told.append(f"not the published recipe: {', '.join(map(change, verdict['changed']))}")
        if verdict["stopped_after"]:
            told.append(f"stopped after {verdict['stopped_after']} seeds: that was enough")
        if verdict["missing"]:
            told.append(f"without a score: {'; '.join(map(_missing, verdict['missing']))}")
        margins = {s["margin_words"] for s in verdict["scores"]} - {"1 point", "as asked"}
        told += [f"the margin is {text}" for text in sorted(margins)]
        found += [f"{task}: {text}." for text in told]
    return found


def _missing(entry: Mapping[str, Any]) -> str:
    cause = f" ({entry['cause']})" if entry["cause"] else ""
    return f"{entry['run_id']} {entry['state']}{cause}"


def assumptions(receipt: Mapping[str, Any]) -> list[str]:
    """Return what the source does not say of the recipe, a line each: value, reason, tasks."""
    found: dict[str, list[str]] = {}
    for verdict in receipt["verdicts"]:
        for key, entry in verdict["assumed"].items():
            found.setdefault(f"{key} {entry['value']}: {entry['why']}", []).append(verdict["task"])
    count = len(receipt["verdicts"])
    return [
        text if len(tasks) == count else f"{text} ({', '.join(tasks)})"
        for text, tasks in found.items()
    ]


def change(entry: Mapping[str, Any]) -> str:
    """Return one change of the recipe in words."""
    before = str(entry["published"]) if entry.get("said", True) else "not in the recipe"
    why = f" ({entry['why']})" if entry.get("why") else ""
    ours = "none" if entry["ours"] is None else entry["ours"]
    return f"{entry['key']} {before} → {ours}{why}"


def error_words(receipt: Mapping[str, Any]) -> str:
    """Return how often a verdict may be wrong."""
    asked = receipt["asked"]
    total, looks = asked["spent"] + asked["level"], asked["looks"]
    how = f" over the looks after {', '.join(map(str, looks))} seeds" if len(looks) > 1 else ""
    more = ", seeds having been added after a verdict" if asked["spent"] else ""
    return (
        f"Each task's verdict is wrong in at most {total:.1%} of such experiments{how}{more}. {HOW}"
    )


def average_words(receipt: Mapping[str, Any]) -> str:
    """Return the suite's average beside the published one; empty where there is none."""
    ours, theirs = receipt.get("average"), receipt.get("published_average")
    if not ours:
        return ""
    told = f"{ours['name']}: {points(ours['value'])}"
    if ours.get("low") is not None:
        told += f" ({points(ours['low'])} to {points(ours['high'])})"
    return told + (f", published {points(theirs['value'])}" if theirs else "") + "."


def cost_words(receipt: Mapping[str, Any]) -> str:
    """Return what it cost and on what it ran."""
    cost = receipt["cost"]
    told = f"{cost['runs']} runs"
    if cost["hours"]:
        told += f", {cost['hours']:.2f} {cost['unit']}"
    kinds = [
        f"{h['runs']} runs on {h['ranks']} rank{'s' * (h['ranks'] != 1)} of "
        f"{h['nodes']} node{'s' * (h['nodes'] != 1)}: {h['model'] or h['device']}"
        for h in receipt["hardware"]
    ]
    return ". ".join([told, *kinds]) + "."


def source_words(receipt: Mapping[str, Any]) -> str:
    """Return where the published numbers are from."""
    reference = receipt["reference"]
    more = [str(reference["url"])] if reference.get("url") else []
    more += [f"checked {reference['checked']}"] if reference.get("checked") else []
    where = f" ({', '.join(more)})" if more else ""
    return f"Published: {reference['source']}{where}."


def command(receipt: Mapping[str, Any]) -> str:
    """Return the line that repeats it."""
    return "glueline replay receipt.json"


def markdown(receipt: Mapping[str, Any]) -> str:
    """Return the receipt as Markdown."""
    made = time.strftime("%Y-%m-%d", time.localtime(receipt["time"]))
    head = [name for _, name in COLUMNS]
    lines = [f"# {title(receipt)}", "", f"{summary(receipt)}. {made}.", ""]
    lines += [line for text in warnings(receipt) for line in (f"**{text}**", "")]
    lines += [_row(head)]
    lines.append("|" + "---|" * len(head))
    lines += [_row([row[key] for key, _ in COLUMNS]) for row in rows(receipt)]
    lines += ["", "Scores and differences in points of 100."]
    if told := average_words(receipt):
        lines += ["", told]
    lines += ["", *(f"- {s}" for s in sentences(receipt))]
    lines += ["", error_words(receipt), "", source_words(receipt), "", cost_words(receipt), ""]
    lines += ["## Cost and speed", "", _row(SPEED), "|" + "---|" * len(SPEED)]
    lines += [_row(row.values()) for row in speed_rows(receipt)]
    lines += [""]
    if assumed := assumptions(receipt):
        lines += ["## What the source does not say", "", *(f"- {a}" for a in assumed), ""]
    lines += ["## To repeat it", "", f"    {command(receipt)}", "", "## What it was made with", ""]
    lines += [f"- {name}: {value}" for name, value in _made_with(receipt)]
    lines += ["", _row(RUN), "|" + "---|" * len(RUN)]
    lines += [_row(_run_cells(receipt, run)) for run in receipt["runs"]]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(c) for c in cells)} |"


def _run_cells(receipt: Mapping[str, Any], run: Mapping[str, Any]) -> list[Any]:
    verdict = next(v for v in receipt["verdicts"] if v["task"] == run["task"])
    scores = [
        f"{s['name']} {points(value)}"
        for s in verdict["scores"]
        if (value := (run["scores"].get(s["split"]) or {}).get(s["metric"])) is not None
    ]
    return [
        run["run_id"],
        run["task"],
        run["seed"],
        run["recipe"] or "-",
        run.get("config") or "-",
        ", ".join(scores) or run["state"],
        words(run["steps"]),
    ]


def _made_with(receipt: Mapping[str, Any]) -> list[tuple[str, str]]:
    code = receipt["glueline"]
    found = [
        ("glueline", f"{code_words(c)}, {c['runs']} runs") for c in code.get("several") or ()
    ] or [("glueline", code_words(code))]
    found.append(("versions", ", ".join(f"{k} {v}" for k, v in receipt["versions"].items()) or "-"))
    for task, inputs in receipt["inputs"].items():
        for what in KINDS:
            one = inputs.get(what)
            for print_ in (inputs.get("several") or {}).get(what) or [one] if one else ():
                hashed = print_["sha256"]
                told = f"sha256 {hashed}" if hashed else f"not hashed, {print_['bytes']:,} bytes"
                told += f" over {print_['files']} files"
                told += f", {seeds_words(print_['seeds'])}" if "seeds" in print_ else ""
                found.append((f"{task}, {what}", told))
    return found


def code_words(code: Mapping[str, Any]) -> str:
    """Return which glueline trained runs."""
    git = code.get("git") or {}
    commit = str(git.get("commit") or "unknown")[:12]
    digest = f", code {code['code']}" if code.get("code") else ""
    changed = " with changes" if git.get("dirty") else ""
    return f"{code.get('version') or 'a clone'}, commit {commit}{changed}{digest}"


def table_of(receipt: Mapping[str, Any]) -> Table:
    """Return the verdict table for the page and for CSV."""
    texts = ("task", "metric", "verdict")
    columns = tuple(Column(key, head, words, key not in texts) for key, head in COLUMNS)
    return Table("verdicts", columns, tuple(rows(receipt)))


def html(receipt: Mapping[str, Any]) -> str:
    """Return the receipt as one self-contained page."""
    good = [i for i, row in enumerate(rows(receipt)) if row["verdict"] == "reproduced"]
    runs = Table(
        "runs",
        tuple(Column(key, key, words, key in ("seed", "steps")) for key in RUN),
        tuple(dict(zip(RUN, _run_cells(receipt, r), strict=True)) for r in receipt["runs"]),
    )
    speeds = Table(
        "speed",
        tuple(Column(key, key, words, key not in ("task", "cost", "rows")) for key in SPEED),
        tuple(speed_rows(receipt)),
    )
    body = [
        page.heading(title(receipt), 1),
        page.paragraph(f"{summary(receipt)}.", "lead"),
        *(page.paragraph(text) for text in warnings(receipt)),
        page.table(table_of(receipt), good),
        page.paragraph("Scores and differences in points of 100.", "said"),
        page.plots(
            [
                (
                    "Differences with their intervals; within the grey band is within the margin",
                    interval_plot(receipt["verdicts"]),
                )
            ]
        ),
        page.paragraph(average_words(receipt)) if average_words(receipt) else "",
        *(page.paragraph(s) for s in sentences(receipt)),
        page.paragraph(error_words(receipt), "said"),
        page.paragraph(source_words(receipt)),
        page.heading("Cost and speed"),
        page.paragraph(cost_words(receipt)),
        page.table(speeds),
        page.heading("What the source does not say") if assumptions(receipt) else "",
        *(page.paragraph(a) for a in assumptions(receipt)),
        page.heading("To repeat it"),
        page.code(command(receipt)),
        page.heading("What it was made with"),
        *(page.paragraph(f"{name}: {value}") for name, value in _made_with(receipt)),
        page.details(f"{len(receipt['runs'])} runs", page.table(runs)),
    ]
    return page.page(title(receipt), body, receipt["time"], "receipt.json")
