"""The rows with shuffled labels, and a line of the table."""

import click
import pytest

from benchmarks.reproduction import (
    SHARE,
    broken_rows,
    changed_share,
    row,
    shuffled_labels,
)


def make(folder, task, count, label=lambda n: n % 3):
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / "glue" / task
    place.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        table = pa.table(
            {"text": [f"{n}" for n in range(count)], "label": list(map(label, range(count)))}
        )
        pq.write_table(table, place / f"{split}-00000-of-00001.parquet")
    return folder


def test_labels_are_dealt_among_a_share_of_the_rows():
    labels = [n % 2 for n in range(1000)]
    after = shuffled_labels(labels, 0.1, 7)
    changed = sum(a != b for a, b in zip(labels, after, strict=True))
    assert sorted(after) == sorted(labels) and 0 < changed <= 100
    assert shuffled_labels(labels, 0.1, 7) == after != shuffled_labels(labels, 0.1, 8)


def test_rows_of_other_data_are_not_taken_for_these(tmp_path):
    import pyarrow.parquet as pq

    one, two = make(tmp_path / "a", "rte", 400), make(tmp_path / "b", "rte", 500)
    first, changed = broken_rows(one, ["rte"], tmp_path)
    second, _ = broken_rows(two, ["rte"], tmp_path)
    assert first != second
    assert 0 < changed["rte"] <= SHARE and changed["rte"] == changed_share(one, first, "rte")
    kept = "glue/rte/validation-00000-of-00001.parquet"
    assert pq.read_table(first / kept) == pq.read_table(one / kept)
    # Another task is added beside it, and rows that changed in their place are made anew.
    make(one, "cola", 300)
    assert broken_rows(one, ["cola"], tmp_path)[0] == first
    before = (first / "glue" / "rte" / "train-00000-of-00001.parquet").stat().st_mtime_ns
    assert broken_rows(one, ["rte", "cola"], tmp_path)[1].keys() == {"rte", "cola"}
    assert (first / "glue" / "rte" / "train-00000-of-00001.parquet").stat().st_mtime_ns == before
    make(one, "rte", 420)
    broken_rows(one, ["rte"], tmp_path)
    assert pq.read_table(first / "glue" / "rte" / "train-00000-of-00001.parquet").num_rows == 420
    with pytest.raises(click.ClickException, match=r"no train-\*\.parquet"):
        broken_rows(one, ["mrpc"], tmp_path)


def test_a_metric_of_two_says_its_own_outcome_and_the_tasks():
    score = {
        "metric": "f1",
        "ours": {"mean": 0.9, "sd": 0.01, "count": 5},
        "published": {"value": 0.9, "sd": 0.01},
        "difference": None,
        "margin": 0.01,
        "outcome": "undecided",
    }
    verdict = {"collapsed": [], "outcome": "not reproduced", "scores": [score]}
    assert row(verdict, score).endswith("| not reproduced")
    both = {**verdict, "scores": [score, score]}
    assert row(both, score).endswith("| undecided (task: not reproduced)")
