from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from launch.flags import (
    FlagCommand,
    Override,
    Request,
    config_flags,
    field_docs,
    parse_set,
    request_options,
)
from training.config import BatchConfig, ClusterConfig, RunConfig, UsageError
from training.config.schema import field_types, leaves


def parse(*args: str) -> Request:
    caught: list[Request] = []

    @click.command(cls=FlagCommand)
    @request_options()
    def command(request: Request) -> None:
        caught.append(request)

    result = CliRunner().invoke(command, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return caught[0]


def test_every_field_of_the_configuration_is_documented() -> None:
    for section, cls in field_types(RunConfig).items():
        docs = field_docs(cls)
        missing = [name for name in field_types(cls) if not docs.get(name)]
        assert not missing, (section, missing)


def test_the_help_is_the_docstring_with_the_default() -> None:
    help_by_key = {option.key: option.help for option in config_flags()}
    assert help_by_key["batch.global_batch"] == (
        field_docs(BatchConfig)["global_batch"] + "  [default: 32]"
    )
    assert help_by_key["cluster.account"] == field_docs(ClusterConfig)["account"]
    assert help_by_key["train.patience"].endswith("[default: 0]")  # type: ignore[union-attr]


def test_every_flagged_field_has_one_flag() -> None:
    flagged = {k for k, (field, _) in leaves(RunConfig).items() if field.metadata.get("flag")}
    options = config_flags()
    assert {o.key for o in options} == flagged - {"cluster.profile"}
    names = [o.opts[0] for o in options]
    assert len(set(names)) == len(names)


def test_nothing_typed_is_nothing_set() -> None:
    assert parse() == Request()


def test_what_is_typed_arrives_with_its_flag() -> None:
    request = parse("--task", "rte", "--lr", "1e-4", "--freeze-encoder", "--set", "model.dropout=0")
    assert request.task == "rte"
    assert request.flags == (
        Override("model.freeze_encoder", True, "--freeze-encoder"),
        Override("optim.lr", "1e-4", "--lr"),
    )
    assert request.sets == (Override("model.dropout", "0", "--set"),)
    assert request.given("optim.lr") and not request.given("train.seed")


def test_files_repeat_and_take_commas() -> None:
    request = parse("--train-file", "a.csv,b.csv", "--train-file", "c.csv", "--test-file", "t.csv")
    assert request.files == {"train": ("a.csv", "b.csv", "c.csv"), "test": ("t.csv",)}


def test_sbatch_takes_values_and_switches() -> None:
    request = parse("--sbatch", "reservation=a=b", "--sbatch", "exclusive", "--sbatch", "--gres=x")
    assert request.sbatch == {"reservation": "a=b", "exclusive": "", "gres": "x"}


@pytest.mark.parametrize("text", ["optim.lr", "lr=3", "=3", ""])
def test_set_of_the_wrong_form(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_set(text)


def test_set_keeps_what_follows_the_first_equals() -> None:
    assert parse_set("cluster.env.A=b=c") == Override("cluster.env.A", "b=c", "--set")
