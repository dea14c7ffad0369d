"""Fewer nodes for small batches, and what is said of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.reproducing.placement import (
    FEWEST,
    Size,
    fewer_nodes,
    node_notes,
    pack_notes,
    packed,
)

COUNTS = st.integers(1, 64)


@given(st.integers(1, 10_000), COUNTS, st.integers(1, 16), COUNTS)
def test_a_rank_has_enough_examples_or_there_is_one_node(batch, nodes, ranks, fewest):
    size = Size("rte", batch, nodes, ranks, min(fewest, nodes), shared=True)
    enough = size.enough
    assert size.fewest <= enough <= nodes
    if enough > size.fewest:
        assert batch // (enough * ranks) >= FEWEST
    if enough < nodes:  # one more would leave them too few
        assert batch // ((enough + 1) * ranks) < FEWEST
    # Runs share a node only where each still has a rank, and all that it keeps busy.
    if size.lanes > 1:
        assert enough == 1
        assert ranks // size.lanes >= max(1, batch // FEWEST)


@pytest.mark.parametrize(
    ("batch", "ranks", "lanes"), [(32, 8, 4), (128, 8, 1), (16, 8, 8), (8, 4, 4), (64, 1, 1)]
)
def test_runs_that_a_node_has_ranks_for(batch, ranks, lanes):
    assert Size("rte", batch, 1, ranks, shared=True).lanes == lanes
    assert Size("rte", batch, 4, ranks, shared=True).lanes == (1 if batch >= 32 * ranks else lanes)
    assert Size("rte", batch, 1, ranks).lanes == 1, "ranks that were typed stay"
    assert Size("rte", batch, 2, ranks, fewest=2, shared=True).lanes == 1


def sizes(*batches: tuple[str, int], nodes: int = 4) -> dict[str, Size]:
    return {f"glue/{n}": Size(n, batch, nodes, 8, shared=True) for n, batch in batches}


def test_tasks_whose_batch_is_large_keep_their_nodes():
    some = sizes(("rte", 32), ("mnli", 1024))
    assert fewer_nodes(some) == {"glue/rte": 1, "glue/mnli": 4}
    large = sizes(("mnli", 1024))
    assert fewer_nodes(large) == fewer_nodes({}) == {}
    (line,) = node_notes(sizes(("rte", 32), ("mnli", 1024), ("mrpc", 16)))
    assert line.startswith("rte, mrpc: 1 node for batches of 16 and 32, not 4")
    assert "--all-nodes" in line
    assert node_notes(large) == []


def test_runs_of_small_batches_share_a_node():
    large = sizes(("mnli", 1024))
    assert packed(large) == {} and pack_notes(large, {}) == []
    some = sizes(("rte", 32), ("mnli", 1024), ("mrpc", 32), ("cola", 16))
    lanes = packed(some)
    assert lanes == {"glue/rte": 4, "glue/mrpc": 4, "glue/cola": 8}
    four, eight = pack_notes(some, lanes)
    assert four.startswith("rte, mrpc: 4 runs at a time on a node, for batches of 32 leave each")
    assert eight.startswith("cola: 8 runs") and "--pack 1" in eight
    assert pack_notes(some, {}) == []
