from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import TaskConfig, UsageError
from training.fraction import with_fraction
from training.sources import check_source
from training.tokens import TokenData, TokenSplit

TASK = TaskConfig(name="t", generated="demo", text=("first_note", "second_note"), label="label")


def data_of(labels: np.ndarray | None, lengths: list[int], types: bool) -> TokenData:
    """Return rows whose tokens tell which row they are of."""
    offsets = np.cumsum([0, *lengths])
    ids = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    split = TokenSplit("train", ids, offsets, ids.astype(np.int8) if types else None, labels)
    return TokenData(Path("x"), {}, {"train": split, "validation": split})


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 5), min_size=20, max_size=120),
    st.integers(1, 4),
    st.floats(0.05, 0.95),
    st.booleans(),
)
def test_every_class_keeps_its_share_and_every_row_its_tokens(
    lengths: list[int], classes: int, fraction: float, types: bool
) -> None:
    labels = np.arange(len(lengths)) % classes
    data = data_of(labels, lengths, types)
    found = with_fraction(data, replace(TASK, train_fraction=fraction))
    assert found.splits["validation"] is data.splits["validation"]
    split = found.splits["train"]
    assert split.labels is not None and abs(len(split) - fraction * len(lengths)) <= classes
    for value in range(classes):
        share = int((labels == value).sum()) * fraction
        assert abs(int((split.labels == value).sum()) - share) <= 1
    rows = [split.input_ids[a:b] for a, b in zip(split.offsets, split.offsets[1:], strict=False)]
    names = [int(row[0]) for row in rows]
    assert names == sorted(set(names))
    for name, row, label in zip(names, rows, split.labels, strict=True):
        assert len(row) == lengths[name] and set(row) == {name} and label == labels[name]
    if types:
        assert split.token_type_ids is not None
        assert np.array_equal(split.token_type_ids, split.input_ids)
    again = with_fraction(data, replace(TASK, train_fraction=fraction)).splits["train"]
    assert np.array_equal(again.input_ids, split.input_ids)


def test_all_rows_are_the_same_rows() -> None:
    data = data_of(None, [1, 2], False)
    assert with_fraction(data, TASK) is data


def test_the_login_node_counts_the_rows_that_are_trained_on() -> None:
    whole = check_source(TASK).rows
    part = check_source(replace(TASK, train_fraction=0.25, holdout=0.1)).rows
    held = part["validation"]
    assert held == round(whole["train"] * 0.1)
    left = np.arange(whole["train"] - held) % 3
    data = data_of(left, [1] * len(left), False)
    kept = with_fraction(data, replace(TASK, train_fraction=0.25)).splits["train"]
    assert part["train"] == len(kept) == round(0.25 * len(left))


@pytest.mark.parametrize("wrong", [0.0, -0.5, 1.01])
def test_no_other_fraction(wrong: float) -> None:
    with pytest.raises(UsageError, match="train_fraction must be above 0 and at most 1"):
        replace(TASK, train_fraction=wrong).check()
