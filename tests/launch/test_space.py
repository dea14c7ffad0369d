import json
import os
import struct
from pathlib import Path

import pytest

from launch import space
from training.config import ModelConfig, RunConfig, TaskConfig, UsageError
from training.rundir import RunDir

TINY = ModelConfig(
    name="tiny", architecture="bert", layers=2, hidden_size=64, heads=4, vocab_size=1000
)


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header = {n: {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_three_checkpoints_and_two_copies_of_the_weights():
    assert space.bytes_needed(10) == 4 * 10 * (3 * 3 + 2)
    assert space.bytes_needed(None) is None


def test_weights_are_counted_without_the_layers_that_are_left_out(tmp_path):
    safetensors(
        tmp_path / "model.safetensors",
        {
            "bert.embeddings.word_embeddings.weight": [100, 8],
            "bert.encoder.layer.0.output.dense.weight": [8, 8],
            "bert.encoder.layer.11.output.dense.weight": [8, 8],
            "bert.scale": [],
        },
    )
    whole = ModelConfig(name="m", path=str(tmp_path))
    assert space.parameters(whole) == 800 + 64 + 64 + 1
    assert space.parameters(ModelConfig(name="m", path=str(tmp_path), layers=2)) == 800 + 64 + 1


@pytest.mark.parametrize("content", [b"", b"\x05", struct.pack("<Q", 9) + b"not json!"])
def test_a_file_that_is_no_safetensors_has_no_shapes(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert space.tensor_shapes(path) == {}


def test_sizes_are_estimated_where_there_are_no_weights(tmp_path):
    # bert-base has 109.5 million parameters.
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "intermediate_size": 3072,
                "vocab_size": 30522,
                "max_position_embeddings": 512,
            }
        )
    )
    found = space.parameters(ModelConfig(name="m", path=str(tmp_path), pretrained=False))
    assert found == pytest.approx(109.5e6, rel=0.01)
    (tmp_path / "config.json").write_text("{}")
    assert space.parameters(ModelConfig(name="m", path=str(tmp_path), pretrained=False)) is None
    assert space.parameters(ModelConfig(name="m", hub="some/model")) is None
    assert space.parameters(TINY) == pytest.approx(200_000, rel=0.2)


def test_a_full_disk_is_refused_in_one_line(tmp_path, monkeypatch):
    config = RunConfig(task=TaskConfig(name="t"), model=TINY)
    runs = tmp_path / "runs" / "not there yet"
    space.check_space(config, runs)
    monkeypatch.setattr(space, "bytes_free", lambda folder: 1 << 20)
    with pytest.raises(UsageError, match=r"has 1\.0 MB free, and the run writes about .* MB"):
        space.check_space(config, runs)
    # What a resumed run has written already is not written once more.
    run = RunDir(runs / "r")
    (run.checkpoints / "step-4").mkdir(parents=True)
    (run.checkpoints / "step-4" / "weights").write_bytes(b"0" * (9 << 20))
    space.check_space(config, runs, run)


def test_free_bytes_are_those_of_the_nearest_folder_that_is_there(tmp_path):
    seen = os.statvfs(tmp_path)
    free = space.bytes_free(tmp_path / "a" / "b")
    assert free == pytest.approx(seen.f_bavail * seen.f_frsize, rel=0.2)
    assert space.bytes_free(Path("/proc/nowhere")) is None
