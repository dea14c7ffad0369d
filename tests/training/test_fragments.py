"""Fragments: what every rank writes makes up the whole, and checksums add up."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.engine import whole_fragments
from training.fragments import checksum, scalars, set_state, share, split_key


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_shares_are_everything_once_and_about_equal(sizes, world_size):
    named = [(f"p{k}", nn.Parameter(torch.zeros(n))) for k, n in enumerate(sizes)]
    parts = [share(whole_fragments(named), rank, world_size) for rank in range(world_size)]
    assert sorted(f.name for part in parts for f in part) == sorted(name for name, _ in named)
    loads = [sum(f.numel for f in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes)


@given(st.integers(0, 300), st.integers(0, 300))
def test_checksums_add_up_over_cuts(first, second):
    values = torch.randn(300, generator=torch.Generator().manual_seed(1))
    low, high = sorted((first, second))
    cuts = [(0, low), (low, high), (high, 300)]
    parts = [checksum(f"w|weight|{a}", a, values[a:b]) for a, b in cuts]
    assert sum(parts) % 2**64 == checksum("w|weight|0", 0, values)


def test_checksums_see_what_changed():
    values = torch.arange(10, dtype=torch.float32)
    plain = checksum("w|exp_avg|0", 0, values)
    swapped = values.clone()
    swapped[[2, 3]] = values[[3, 2]]
    other = values.clone()
    other[4] = -other[4]
    found = {
        plain,
        checksum("w|exp_avg|0", 0, swapped),
        checksum("w|exp_avg|0", 0, other),
        checksum("w|exp_avg|1", 1, values),
        checksum("w|exp_avg_sq|0", 0, values),
        checksum("v|exp_avg|0", 0, values),
    }
    assert len(found) == 6


def test_names_may_hold_anything():
    assert split_key("a|b.c|weight|12") == ("a|b.c", "weight", 12)


def test_state_is_given_as_the_optimizer_makes_it():
    parameter = nn.Parameter(torch.ones(3, 4))
    made = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.ones(3, 4)
    made.step()
    given_back = torch.optim.AdamW([parameter], fused=True)
    set_state(given_back, parameter, ["exp_avg", "exp_avg_sq"], scalars(made))
    (fragment,) = whole_fragments([("w", parameter)])
    for key, target in fragment.moments(given_back).items():
        target.copy_(fragment.moments(made)[key])
    theirs, mine = made.state[parameter], given_back.state[parameter]
    assert theirs.keys() == mine.keys()
    for key, value in theirs.items():
        assert torch.equal(value, mine[key]) and value.dtype == mine[key].dtype
    for optimizer in (made, given_back):
        parameter.data.fill_(1.0)
        optimizer.step()
        mine[optimizer] = parameter.detach().clone()
    assert torch.equal(mine[made], mine[given_back])
