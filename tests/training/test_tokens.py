import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.tokens import TokenSplit, collate, length_histogram, open_tokens, write_tokens


def make_split(rows, *, types=True, labels=None, side="right", pad=7):
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    flat = np.array([t for row in rows for t in row], dtype=np.int32)
    return TokenSplit(
        name="train",
        input_ids=flat,
        offsets=offsets,
        token_type_ids=(flat % 2).astype(np.int8) if types else None,
        labels=labels,
        pad_token_id=pad,
        padding_side=side,
    )


rows_strategy = st.lists(
    st.lists(st.integers(10, 1000), min_size=1, max_size=12), min_size=1, max_size=8
)


@given(rows=rows_strategy, side=st.sampled_from(["left", "right"]), data=st.data())
def test_collate_pads_and_masks(rows, side, data):
    split = make_split(rows, side=side, labels=np.arange(len(rows)))
    ids = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9)))
    longest = max(len(rows[i]) for i in ids)
    pad_to = data.draw(st.sampled_from([None, longest, longest + 3]))
    batch = collate(split, ids, pad_to)
    width = pad_to or longest
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name].shape == (len(ids), width)
        assert batch[name].dtype == np.int64
    for place, i in enumerate(ids):
        fill = [7] * (width - len(rows[i]))
        expected = rows[i] + fill if side == "right" else fill + rows[i]
        assert batch["input_ids"][place].tolist() == expected
        mask = batch["attention_mask"][place].astype(bool)
        assert mask.sum() == len(rows[i])
        assert batch["input_ids"][place][mask].tolist() == rows[i]
        assert batch["token_type_ids"][place][mask].tolist() == [t % 2 for t in rows[i]]
        assert not batch["token_type_ids"][place][~mask].any()
    assert batch["labels"].tolist() == ids.tolist()


def test_collate_refuses():
    split = make_split([[11, 12], [13]])
    with pytest.raises(ValueError, match="empty"):
        collate(split, np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="pad_to=1"):
        collate(split, np.array([0]), pad_to=1)
    for wrong in (2, -1):
        with pytest.raises(IndexError):
            collate(split, np.array([wrong]))


def test_collate_without_types_and_labels():
    assert set(collate(make_split([[11]], types=False), np.array([0]))) == {
        "input_ids",
        "attention_mask",
    }


@pytest.mark.parametrize(
    "labels",
    [None, np.array([1, -1, 0]), np.array([0.5, np.nan, 2], dtype=np.float32)],
    ids=["none", "classes", "numbers"],
)
def test_write_and_open(tmp_path, labels):
    split = make_split([[11, 12], [13], [14, 15, 16]], labels=labels, side="left")
    manifest = {"label_names": ["x", "y"], "splits": {"train": {"truncated": 1}}}
    write_tokens(tmp_path / "t", manifest, {"train": split})
    data = open_tokens(tmp_path / "t")
    assert data.label_names == ("x", "y")
    assert data.manifest["splits"] == {
        "train": {"truncated": 1, "rows": 3, "tokens": 6, "longest": 3}
    }
    own = data.splits["train"]
    assert len(own) == 3
    assert isinstance(own.input_ids, np.memmap)
    assert own.input_ids.dtype == np.int32
    assert own.lengths.tolist() == [2, 1, 3]
    assert own.lengths.dtype == np.int32
    assert not own.labelled
    if labels is None:
        assert own.labels is None
    else:
        np.testing.assert_array_equal(own.labels, labels)
        assert own.labels is not None
        assert own.labels.dtype == labels.dtype
    everything = np.arange(3)
    for name, array in collate(split, everything).items():
        np.testing.assert_array_equal(collate(own, everything)[name], array)


def test_labelled():
    assert make_split([[1]], labels=np.array([0])).labelled
    assert make_split([[1]], labels=np.array([0.5], dtype=np.float32)).labelled


def test_open_refuses_another_format(tmp_path):
    write_tokens(tmp_path / "t", {}, {"train": make_split([[11]])})
    file = tmp_path / "t" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        open_tokens(tmp_path / "t")
    with pytest.raises(OSError):
        open_tokens(tmp_path / "absent")


@given(st.lists(st.integers(1, 300), min_size=1))
def test_length_histogram(lengths):
    shown = length_histogram(np.array(lengths))
    assert sum(shown["counts"].values()) == len(lengths)
    assert shown["min"] == min(lengths)
    assert shown["max"] == max(lengths)
    assert shown["min"] <= shown["median"] <= shown["p95"] <= shown["max"]
    high = max(shown["counts"])
    assert high - 16 < max(lengths) <= high
    assert shown["counts"][high] > 0
    json.dumps(shown)


def test_length_histogram_of_nothing():
    assert length_histogram(np.array([]))["max"] == 0
