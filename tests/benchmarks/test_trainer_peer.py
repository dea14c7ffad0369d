"""What the Trainer is given: the same rows, and steps that stand for an epoch."""

import numpy as np
import pytest

from benchmarks.trainer_peer import Representative, as_rows, representative_steps, step_costs
from training.tokens import TokenSplit


def test_rows_are_those_of_the_arrays():
    split = TokenSplit(
        name="train",
        input_ids=np.array([5, 6, 7, 8, 9], dtype=np.int32),
        offsets=np.array([0, 2, 5]),
        token_type_ids=np.array([0, 1, 0, 0, 1], dtype=np.int8),
        labels=np.array([1, 0]),
    )
    assert as_rows(split) == [
        {"input_ids": [5, 6], "attention_mask": [1, 1], "token_type_ids": [0, 1], "labels": 1},
        {
            "input_ids": [7, 8, 9],
            "attention_mask": [1, 1, 1],
            "token_type_ids": [0, 0, 1],
            "labels": 0,
        },
    ]


def test_a_step_costs_its_padded_tokens():
    lengths = np.array([1, 3, 2, 2, 9, 1, 5, 5, 7])
    assert step_costs(lengths, batch=4, micro=2).tolist() == [2 * 3 + 2 * 2, 2 * 9 + 2 * 5]


@pytest.mark.parametrize("timed", [1, 3, 6])
def test_the_timed_steps_cost_what_the_steps_of_an_epoch_do(timed):
    costs = np.sort(np.random.default_rng(0).gamma(2.0, 1000.0, 200))[::-1].astype(np.int64)
    steps = representative_steps(costs, 2, timed)
    assert len(set(steps)) == len(steps) == 2 + timed
    assert costs[steps[2:]].mean() == pytest.approx(costs.mean(), rel=0.02)
    assert costs[steps[:2]].mean() == pytest.approx(np.median(costs), rel=0.02)


def test_too_short_an_epoch_is_refused():
    with pytest.raises(ValueError, match="the epoch has 4"):
        representative_steps(np.arange(4), 2, 3)


def test_whole_steps_of_the_inner_order_are_kept_together():
    lengths = np.arange(1, 33)
    order = np.arange(32)[::-1]
    found = np.array(list(Representative(order, lengths, batch=4, micro=2, steps=5)))
    assert len(found) == 20
    whole = {tuple(step) for step in order.reshape(8, 4).tolist()}
    kept = [tuple(step) for step in found.reshape(5, 4).tolist()]
    assert set(kept) < whole and len(set(kept)) == 5
