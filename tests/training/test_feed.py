"""The feed gives every step's micro-batches in order, from any step on, and never runs ahead."""

import threading
import time

import numpy as np
import pytest
import torch

from training.batching import BudgetTooSmall, epoch_order, step_ids
from training.feed import Feed, FeedSettings, Shapes
from training.tokens import TokenSplit

CPU = torch.device("cpu")


def split(rows=50, longest=30):
    lengths = np.random.default_rng(0).integers(3, longest + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(offsets[-1], dtype=np.int32) + 1
    return TokenSplit("train", ids, offsets, labels=np.arange(rows, dtype=np.int64))


def feed(data, total=20, **changes):
    settings = {
        "global_batch": 16,
        "seed": 1,
        "rank": 0,
        "world_size": 1,
        "quadratic": 0.0,
        "overhead": 0.0,
    }
    return Feed(data, FeedSettings(**(settings | changes)), CPU, total)


def take(source):
    plan = source.next_step()
    return plan, list(source.micro_batches(plan))


def test_steps_are_the_seeds_and_labels_name_their_rows():
    data = split()
    source = feed(data, total=8)
    source.seek(0, 64)
    for step in range(8):
        plan, micro_batches = take(source)
        epoch, place = divmod(step, 4)
        wanted = step_ids(epoch_order(50, 1, epoch), place, 16)
        assert sorted(np.concatenate([m.labels for m in micro_batches])) == sorted(wanted)
        assert plan.step == step and plan.cut.slots == len(micro_batches)
        for micro in micro_batches:
            assert micro.inputs["input_ids"].numel() <= 64
            for row, label in enumerate(micro.labels.tolist()):
                own = micro.inputs["input_ids"][row][: data.lengths[label]].numpy()
                begin = data.offsets[label]
                assert (own == data.input_ids[begin : begin + len(own)]).all()
    source.close()


def test_ranks_share_a_step_without_overlap():
    data, seen = split(), []
    for rank in range(3):
        source = feed(data, rank=rank, world_size=3)
        source.seek(2, 64)
        _, micro_batches = take(source)
        seen += [i for m in micro_batches if m.weight for i in m.labels.tolist()]
        source.close()
    assert sorted(seen) == sorted(step_ids(epoch_order(50, 1, 0), 2, 16))


def test_an_empty_micro_batch_runs_one_example_with_weight_zero():
    source = feed(split(), global_batch=1, rank=1, world_size=2)
    source.seek(0, 64)
    _, (micro,) = take(source)
    assert micro.weight == 0 and len(micro.labels) == 1
    source.close()


def test_seek_begins_anew_with_another_budget():
    source = feed(split())
    source.seek(0, 200)
    first = source.next_step()
    next(source.micro_batches(first))
    source.seek(5, 40)
    plan, micro_batches = take(source)
    assert plan.step == 5
    assert all(m.inputs["input_ids"].numel() <= 40 for m in micro_batches)
    source.close()


def test_errors_of_the_thread_are_raised_to_the_loop():
    source = feed(split())
    source.seek(0, 5)
    with pytest.raises(BudgetTooSmall, match="--micro-tokens"):
        source.next_step()
    source.close()


def test_little_waits_ahead_and_close_ends_the_thread():
    source = feed(split(5000), total=10_000)
    source.seek(0, 64)
    time.sleep(0.3)
    assert source._queue.qsize() <= 3
    source.close()
    assert not [t for t in threading.enumerate() if t.name == "feed"]


def test_waiting_is_told():
    source, waits = feed(split()), []
    source.waited = waits.append
    source.seek(0, 64)
    take(source)
    source.close()
    assert waits and all(w >= 0 for w in waits)


def test_shapes_are_few_and_filling_rows_carry_no_label():
    data = split(400, 100)
    source = feed(data, global_batch=64, shapes=Shapes(16, 4, longest=100))
    source.seek(0, 512)
    shapes, rows = set(), 0
    for _ in range(6):
        _, micro_batches = take(source)
        for micro in micro_batches:
            count, length = micro.inputs["input_ids"].shape
            assert count % 4 == 0 and (length % 16 == 0 or length == 100)
            assert len(micro.labels) == micro.rows <= count
            shapes.add((count, length))
            rows += micro.rows
    assert rows == 6 * 64
    source.close()
