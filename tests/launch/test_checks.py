"""What is known of a model and its inputs before submission."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from launch import checks
from launch.checks import check_length, check_notice
from training.config import ClusterConfig, ModelConfig, RunConfig, UsageError


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


def noticed(how: str | None) -> RunConfig:
    config = RunConfig()
    return replace(config, cluster=replace(config.cluster, notify=how))


def test_what_the_environment_asks_for_and_a_run_does_not() -> None:
    environ = {
        "SBATCH_ACCOUNT": "def-me",
        "SBATCH_TIMELIMIT": "60",
        "SBATCH_GRES": "gpu:1",
        "SBATCH_QOS": "q",
    }
    cluster = ClusterConfig(executor="slurm", qos="q")
    notes = checks.unused_settings(RunConfig(cluster=cluster), environ)
    assert [n.rpartition(": ")[2] for n in notes] == [
        "--account def-me",
        "--time 60",
        "--sbatch gres=gpu:1",
    ]
    assert checks.unused_settings(RunConfig(cluster=cluster), environ | {"SLURM_JOB_ID": "1"}) == []


def test_the_file_that_says_whom_to_tell(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "whom"
    with pytest.raises(UsageError, match=r"notify=@.*whom: .* cannot be read: No such file"):
        check_notice(noticed(f"@{file}"))
    file.write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        check_notice(noticed(f"@{file}"))
    file.write_text("https://example.org/hook\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"jobs run elsewhere, use @{file}"):
        check_notice(noticed("@whom"))
    for how in (f"@{file}", "mail -s done me", None):
        check_notice(noticed(how))
