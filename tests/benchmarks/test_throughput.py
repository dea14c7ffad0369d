"""The arithmetic of the speed comparison: who runs when, medians and ratios, what is typed."""

import pytest
from click.testing import CliRunner

from benchmarks import throughput
from benchmarks.throughput import (
    default_steps,
    evaluation_split,
    fastest,
    fitting,
    last_evaluation,
    ratio,
    running_order,
    table_head,
    table_row,
)
from training.config import RunConfig, TaskConfig

ROUNDS = [
    {"glueline": 200.0, "random": 100.0},
    {"glueline": 150.0, "random": 50.0},
    {"glueline": 210.0, "random": 140.0},
]


@pytest.mark.parametrize(("batch", "steps"), [(32, 8), (256, 8), (512, 5), (1024, 5), (4096, 5)])
def test_larger_batches_take_fewer_steps(batch, steps):
    assert default_steps(batch) == steps


def test_micro_batches_divide_every_global_batch_over_the_ranks():
    assert fitting([8, 16, 24, 32, 64], [256, 96], 2) == [8, 16]
    assert fitting([16, 32], [256, 1024], 1) == [16, 32]
    assert fitting([64], [96], 2) == []


def test_glueline_runs_first_and_last_in_turn():
    assert running_order(["a", "b"], 0) == ["glueline", "a", "b"]
    assert running_order(["a", "b"], 1) == ["a", "b", "glueline"]


def test_ratio_is_that_of_the_medians_with_the_range_of_the_rounds():
    assert ratio(ROUNDS, "random") == "2.00 (1.50–3.00)"


def test_table():
    head, rule = table_head(("task",), ("random",)).split("\n")
    row = table_row(("mnli",), {"random": 16}, ROUNDS)
    assert head == "| task | Trainer random ex/s | glueline ex/s | × random |"
    assert row == "| mnli | 100.0 (16) | 200.0 | 2.00 (1.50–3.00) |"
    assert head.count("|") == rule.count("|") == row.count("|")


def test_the_greatest_speed_is_the_fastest():
    assert fastest({8: 10.0, 32: 30.0, 64: 20.0}) == 32


def test_what_is_evaluated_is_not_held_out_of_the_training_rows():
    own = TaskConfig(validation=("matched", "mismatched"), test=("test",))
    held_out = TaskConfig(holdout=0.05, test=("test",))
    assert evaluation_split(RunConfig(task=own)) == "matched"
    assert evaluation_split(RunConfig(task=held_out)) == "test"


def test_the_last_evaluation_lasts_from_the_last_step_to_its_own_line():
    lines = [
        {"kind": "event", "time": 1.0},
        {"kind": "train", "step": 2, "time": 5.0},
        {"kind": "eval", "step": 2, "time": 9.0},
        {"kind": "train", "step": 3, "time": 10.0},
        {"kind": "eval", "step": 3, "time": 12.5},
        {"kind": "event", "time": 20.0},
    ]
    assert last_evaluation(lines) == 2.5


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--data", "/nowhere"], "does not exist"),
        (["--data", ".", "--peers", "sorted"], "random, group_by_length, batch_rebalance"),
        (["--data", ".", "--batches", "256,many"], "expected numbers"),
        (["--data", ".", "--tasks", ","], "expected names"),
        (["--data", ".", "--batches", "100"], "no size of --peer-micro times 2 ranks"),
    ],
)
def test_what_is_typed_wrong_is_said_in_a_line(typed, said):
    answer = CliRunner().invoke(throughput.main, typed)
    assert answer.exit_code in (1, 2)
    assert said in answer.output
    assert "Traceback" not in answer.output


def test_lists_keep_their_order_and_lose_what_stands_twice():
    numbers = throughput.Listed(numbers=True)
    assert numbers.convert("1024, 256,1024", None, None) == (1024, 256)


def test_a_process_that_fails_is_quoted():
    command = [throughput.sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with pytest.raises(throughput.click.ClickException, match="no such thing"):
        throughput.execute(command)
