"""Which kinds of node a request can get."""

import pytest

from launch.node_kinds import NodeKind, first_host, fitting

CPU = NodeKind(10, 48, 190000, {}, frozenset({"amd"}))
V100 = NodeKind(4, 40, 380000, {"v100": 4}, frozenset({"v100", "ib"}))
A100 = NodeKind(8, 64, 1000000, {"a100": 8}, frozenset({"a100", "ib"}))
DRAINED = NodeKind(1, 40, 380000, {"v100": 3}, frozenset({"v100"}), usable=False)
ALL = [CPU, V100, A100, DRAINED]


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, [CPU, V100, A100]),
        ({"gpus": 1}, [V100, A100]),
        ({"gpus": 8}, [A100]),
        ({"gpus": 16}, [V100, A100]),  # none has: those with GPUs tell how many there are
        ({"constraint": "ib"}, [V100, A100]),
        ({"constraint": "a100&ib", "gpus": 8}, [A100]),
        ({"constraint": "v100|a100", "gpus": 1}, [V100, A100]),
        ({"constraint": "[v100*2&a100*2]"}, [CPU, V100, A100]),  # Slurm's to say
        ({"constraint": "h100"}, [CPU, V100, A100]),
        ({"gpus": 2, "types": ["A100"]}, [A100]),
    ],
)
def test_the_kinds_that_a_request_can_get(wishes, expected):
    assert fitting(ALL, **wishes) == expected


def test_a_node_that_is_down_counts_where_no_other_is_like_it():
    big = NodeKind(1, 128, 2000000, {"h100": 8}, usable=False)
    assert fitting([CPU, V100, big], gpus=8) == [big]
    assert fitting([DRAINED], gpus=1) == [DRAINED] and fitting([], gpus=1) == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("n1", "n1"),
        ("n[01-10,12]", "n01"),
        ("rack[1-2]-n[03,05]-ib,other7", "rack1-n03-ib"),
        ("a1.example.org,b2", "a1.example.org"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(text, first):
    assert first_host(text) == first
