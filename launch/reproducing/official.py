"""Whether rows are those that the published numbers are of, by their number. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from launch.hub_rows import differing_rows
from training.config import TaskConfig


def unlike_published(
    task: TaskConfig, rows: Mapping[str, int], scored: Iterable[str], done: bool
) -> list[str]:
    """Return how the rows are not the published ones, a sentence each; none where nothing is known.

    Args:
        task: the task.
        rows: by split, as they are here.
        scored: the splits that are judged.
        done: whether they were trained on already.
    """
    differ = differing_rows(task, rows)
    found = []
    for split in dict.fromkeys(scored):
        if split in differ:
            here, there = differ[split]
            ours = "these runs were scored on" if done else "these runs are scored on"
            found.append(f"the published number is of {there:,} {split} rows, {ours} {here:,}")
    if task.train in differ:
        here, there = differ[task.train]
        ours = "these runs were trained on" if done else "these runs train on"
        found.append(f"the published recipe trains on {there:,} rows, {ours} {here:,}")
    return found
