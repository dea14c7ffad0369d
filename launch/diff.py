"""`glueline diff`: what differs between two runs, and whether their scores do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option

if TYPE_CHECKING:
    from launch.comparing.differences import Difference
    from launch.comparing.facts import Facts
    from launch.comparing.scores import Scores

FORMAT = 1


@click.command("diff", cls=FlagCommand)
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="RUN_B")
@runs_option
@click.option("--all", "everything", is_flag=True, help="List cluster, paths and tracking too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(run_a: str, run_b: str, runs: str | None, everything: bool, as_json: bool) -> int:
    """Say what differs between two runs, the likeliest cause of a gap between their scores first.

    RUN_A and RUN_B are ids or paths. Rows and weights are compared by what they hold, not by where
    they lie. Where both runs stored predictions of the same rows, the difference of their scores
    comes with its paired interval and McNemar's test.
    """
    from launch.comparing.differences import find_differences
    from launch.comparing.facts import read_facts, unread_notes
    from launch.comparing.scores import compare_scores
    from launch.comparing.summary import summarise
    from launch.existing import need_run
    from launch.resolve import known_runs

    folder = known_runs(runs, run_a, run_b)
    first, second = need_run(folder, run_a), need_run(folder, run_b)
    a, b = read_facts(first), read_facts(second)
    scores = compare_scores(first, second, a, b)
    found = find_differences(a, b, scores.collapsed)
    said = summarise(found, scores, whole=not (a.notes or b.notes or unread_notes(a, b)))
    if as_json:
        print(json.dumps(plain(a, b, found, scores, said), ensure_ascii=False))
    else:
        show(a, b, found, scores, said, everything)
    return 0


def plain(a: Facts, b: Facts, found: list[Difference], scores: Scores, said: str) -> dict[str, Any]:
    """Return a comparison ready for JSON."""
    from launch.reporting.plain import finite

    told = {
        name: {"run_id": f.run_id, "path": str(f.path), "state": f.state}
        for name, f in (("a", a), ("b", b))
    }
    return finite(
        {
            "format": FORMAT,
            "kind": "diff",
            **told,
            "summary": said,
            "differences": [one.plain() for one in found],
            **scores.plain(),
            "notes": notes_of(a, b, scores),
        }
    )


def notes_of(a: Facts, b: Facts, scores: Scores) -> list[str]:
    """Return what is to be said of either run, and of why scores are not compared."""
    from launch.comparing.facts import label_warnings, unread_notes

    of_both = [*a.notes, *b.notes, *unread_notes(a, b), *scores.notes]
    return [*label_warnings(a), *label_warnings(b), *of_both]


def show(
    a: Facts,
    b: Facts,
    found: list[Difference],
    scores: Scores,
    said: str,
    everything: bool,
) -> None:
    """Print a comparison."""
    from launch.comparing.differences import by_group, shown
    from launch.comparing.ranking import FOLDED, TITLES
    from launch.comparing.summary import paired_words

    print(said)
    print()
    for name, facts in (("A", a), ("B", b)):
        print(f"{name}  {facts.run_id}  {facts.state}")
    for note in notes_of(a, b, scores):
        print(f"note: {note}")
    if scores.rows:
        paired = {(p.split, p.metric): paired_words(p) for p in scores.paired}
        rows = [["score", "", "A", "B", "B - A", ""]]
        for s in scores.rows:
            values = [f"{s.a:.4f}", f"{s.b:.4f}", f"{s.difference:+.4f}"]
            rows.append([s.split, s.metric, *values, paired.get((s.split, s.metric), "")])
        print()
        _print_rows(rows)
    rows = []
    for group, differences in by_group(found).items():
        if group == FOLDED and not everything:
            continue
        for one in differences:
            rows.append([TITLES[group], one.name, shown(one.a), shown(one.b), one.why])
    if rows:
        print()
        _print_rows([["differs", "", "A", "B", "why it matters or does not"], *rows])
    folded = [one for one in found if one.group == FOLDED]
    if folded and not everything:
        print(f"and {len(folded)} of {TITLES[FOLDED]}: --all")


def _print_rows(rows: list[list[str]]) -> None:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def main() -> None:
    """Run the command."""
    run_command(diff)


if __name__ == "__main__":
    main()
