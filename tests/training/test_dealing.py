"""A measured step is cut in pairs of micro-batches, dealt at random, with all that a cut keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.batching import BudgetTooSmall, cut_step, measure
from training.dealing import deal_step, is_measured


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=200),
    world=st.integers(1, 5),
    budget=st.integers(60, 400),
)
def test_every_row_once_within_the_budget_in_even_pairs(lengths, world, budget):
    own = np.array(lengths, dtype=np.int32)
    ids = np.random.default_rng(0).permutation(len(own))
    cut = deal_step(ids, own, world, budget, seed=1, step=2, overhead=20.0)
    flat = [micro for rank in cut.micro for micro in rank]
    assert sorted(np.concatenate(flat)) == sorted(ids) and cut.examples == len(ids)
    assert len({len(rank) for rank in cut.micro}) == 1 and cut.slots % 2 == 0
    for a, b in zip(flat[::2], flat[1::2], strict=True):
        assert 0 <= len(a) - len(b) <= 1
    assert all(len(micro) * own[micro].max() <= budget for micro in flat if len(micro))


def test_the_deal_follows_from_seed_and_step_alone():
    lengths = np.random.default_rng(0).integers(3, 60, 96).astype(np.int32)

    def micro(seed: int, step: int) -> list[list[int]]:
        cut = deal_step(np.arange(96), lengths, 2, 512, seed=seed, step=step)
        return [own.tolist() for rank in cut.micro for own in rank]

    assert micro(1, 7) == micro(1, 7)
    assert micro(1, 7) != micro(1, 8) and micro(1, 7) != micro(2, 7)


def test_padding_is_nearly_that_of_the_sorted_cut():
    lengths = np.clip(np.random.default_rng(0).gamma(3, 13, 512), 4, 128).astype(np.int32)
    ids = np.arange(512)
    plain = measure(cut_step(ids, lengths, 2, 1024, overhead=20.0), lengths)
    dealt = measure(deal_step(ids, lengths, 2, 1024, overhead=20.0, seed=0, step=0), lengths)
    assert dealt.padded_tokens < 1.1 * plain.padded_tokens
    assert dealt.slowest < 1.05 * dealt.mean


def test_a_row_longer_than_the_budget_is_refused():
    with pytest.raises(BudgetTooSmall, match="longest example has 50 tokens"):
        deal_step(np.arange(3), np.array([50, 3, 3], dtype=np.int32), 1, 49, seed=0, step=0)


def test_which_steps_are_measured():
    assert [step for step in range(10) if is_measured(step, 4)] == [3, 7]
    assert not any(is_measured(step, 0) for step in range(10))
