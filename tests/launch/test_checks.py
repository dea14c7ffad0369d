"""What is known of a model and its inputs before submission."""

import json
from pathlib import Path

import pytest

from launch.checks import check_length
from training.config import ModelConfig, RunConfig, UsageError


def local(folder: Path, **described) -> RunConfig:
    (folder / "config.json").write_text(json.dumps(described))
    return RunConfig(model=ModelConfig(name="short", path=str(folder)))


def test_inputs_longer_than_the_models_positions(tmp_path: Path) -> None:
    config = local(tmp_path, model_type="bert", max_position_embeddings=64)
    check_length(config, 64)
    with pytest.raises(UsageError, match=r"up to 65 tokens, model short has 64 .*--max-length 64"):
        check_length(config, 65)


def test_positions_that_begin_behind_the_paddings(tmp_path: Path) -> None:
    config = local(tmp_path, model_type="roberta", max_position_embeddings=514, pad_token_id=1)
    check_length(config, 512)
    with pytest.raises(UsageError, match="has 512 positions"):
        check_length(config, 513)
