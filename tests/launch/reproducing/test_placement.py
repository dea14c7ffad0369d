"""Fewer nodes for small batches, and what is said of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.reproducing.placement import FEWEST, Size, fewer_nodes, node_notes, pack_note

COUNTS = st.integers(1, 64)


@given(st.integers(1, 10_000), COUNTS, st.integers(1, 16), COUNTS)
def test_a_rank_has_enough_examples_or_there_is_one_node(batch, nodes, ranks, fewest):
    size = Size(batch, nodes, ranks, min(fewest, nodes))
    enough = size.enough
    assert size.fewest <= enough <= nodes
    if enough > size.fewest:
        assert batch // (enough * ranks) >= FEWEST
    if enough < nodes:  # one more would leave them too few
        assert batch // ((enough + 1) * ranks) < FEWEST


@pytest.mark.parametrize(
    ("batch", "ranks", "lanes"), [(32, 8, 4), (128, 8, 1), (16, 8, 8), (8, 4, 4), (64, 1, 1)]
)
def test_runs_that_a_node_has_ranks_for(batch, ranks, lanes):
    assert Size(batch, 1, ranks).lanes == lanes


def test_tasks_whose_batch_is_large_keep_their_nodes():
    small, large = Size(32, 4, 8), Size(1024, 4, 8)
    assert fewer_nodes({"rte": small, "mnli": large}) == {"rte": 1, "mnli": 4}
    assert fewer_nodes({"mnli": large}) == fewer_nodes({}) == {}
    (line,) = node_notes({"rte": small, "mnli": large, "mrpc": Size(16, 4, 8)})
    assert line.startswith("rte, mrpc: 1 node for batches of 16 and 32, not 4")
    assert "--all-nodes" in line
    assert node_notes({"mnli": large}) == []


def test_small_batches_on_many_gpus_can_share_a_node():
    small, large = Size(32, 1, 8), Size(256, 1, 8)
    assert pack_note({"mnli": large}, 5) is None
    said = pack_note({"rte": small, "mnli": large}, 5)
    assert said is not None and "--tasks rte --pack 4 trains 4 runs" in said
    assert "--pack 3 trains 3 runs" in (pack_note({"rte": small}, 3) or "")
    assert pack_note({"rte": small}, 1) is None
    assert "--tasks" not in (pack_note({"rte": small}, 5) or "--tasks")
