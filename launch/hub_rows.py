"""How many rows the hub's data sets have: other rows do not compare with published scores. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from training.config import TaskConfig

GLUE_ROWS: dict[str, dict[str, int]] = {
    "cola": {"train": 8551, "validation": 1043, "test": 1063},
    "sst2": {"train": 67349, "validation": 872, "test": 1821},
    "mrpc": {"train": 3668, "validation": 408, "test": 1725},
    "stsb": {"train": 5749, "validation": 1500, "test": 1379},
    "qqp": {"train": 363846, "validation": 40430, "test": 390965},
    "mnli": {
        "train": 392702,
        "validation_matched": 9815,
        "validation_mismatched": 9832,
        "test_matched": 9796,
        "test_mismatched": 9847,
    },
    "qnli": {"train": 104743, "validation": 5463, "test": 5463},
    "rte": {"train": 2490, "validation": 277, "test": 3000},
    "wnli": {"train": 635, "validation": 71, "test": 146},
}
HUB_ROWS: dict[tuple[str, str | None], dict[str, int]] = {
    **{("nyu-mll/glue", name): rows for name, rows in GLUE_ROWS.items()},
    ("fancyzhx/ag_news", None): {"train": 120000, "test": 7600},
    ("stanfordnlp/imdb", "plain_text"): {"train": 25000, "test": 25000},
    ("dair-ai/emotion", "split"): {"train": 16000, "validation": 2000, "test": 2000},
}
"""Rows of the hub's data sets (`num_examples` of their cards): a folder with others is not them."""

ENGLISH = frozenset(hub for hub, _ in HUB_ROWS)
"""Data sets whose texts are English."""


def of_the_hub(task: TaskConfig) -> bool:
    """Return whether the rows are the hub's: files that are given take their place."""
    return bool(task.hub) and not task.files and not task.generated


def differing_rows(task: TaskConfig, rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the splits that have other numbers of rows than the hub's: (here, there).

    Of a data set that we do not know nothing is said, nor of training rows of which a fraction was
    asked for.

    Args:
        task: the task.
        rows: by split, as they are here.
    """
    known = HUB_ROWS.get((task.hub or "", task.subset))
    if known is None or not of_the_hub(task):
        return {}
    seen = dict(rows)
    if task.holdout > 0 and task.train in seen:
        seen[task.train] += seen.pop("validation", 0)
    if task.train_fraction < 1:
        seen.pop(task.train or "", None)
    return {
        split: (count, known[split])
        for split, count in seen.items()
        if split in known and known[split] != count
    }
