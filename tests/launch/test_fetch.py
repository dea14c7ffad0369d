from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from launch import fetch
from launch.fetch import Wanted, already_here, dataset_files, fetch_all, model_files
from training.config import ModelConfig, RunConfig, TaskConfig, UsageError

from .commandline import ROOT, clean_environment, tree
from .hub_standin import COMMIT, Hub, serve

CARD = b"""---
configs:
- config_name: mnli
  data_files:
  - split: train
    path: mnli/train-*
  - split: validation
    path: [mnli/validation-0.parquet, mnli/validation-1.parquet]
- config_name: cola
  data_files: cola/*.parquet
---
# A data set
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def hub(served: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    served.repos = {
        "models/org/enc": {
            "config.json": b"{}",
            "tokenizer.json": b"{}",
            "vocab.txt": b"a\n",
            "model.safetensors": b"weights" * 1000,
            "pytorch_model.bin": b"the same again",
            "onnx/model.onnx": b"not wanted",
            "README.md": b"hello",
        },
        "datasets/org/set": {
            "README.md": CARD,
            "mnli/train-0.parquet": b"1",
            "mnli/validation-0.parquet": b"2",
            "mnli/validation-1.parquet": b"3",
            "cola/train-0.parquet": b"4",
            "script.py": b"no",
        },
    }
    served.gated, served.broken, served.requests = set(), set(), []
    # The address is read when huggingface_hub is imported.
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        served.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    return served


def config(**task: str) -> RunConfig:
    return RunConfig(
        task=TaskConfig(name="t", text=("a",), label="label", hub="org/set", **task),  # type: ignore[arg-type]
        model=ModelConfig(name="enc", hub="org/enc"),
    )


def test_model_and_subset_become_plain_folders(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / ".cache"
    found = fetch_all(config(subset="mnli"), cache)
    model, data = Path(found.model.path or ""), Path(found.task.path or "")
    assert model == cache / "hub" / "models" / f"org--enc@{COMMIT}"
    assert tree(model) == {"config.json", "tokenizer.json", "vocab.txt", "model.safetensors"}
    assert (model / "model.safetensors").read_bytes() == b"weights" * 1000
    assert data == cache / "hub" / "datasets" / f"org--set@{COMMIT}-mnli"
    assert tree(data) == {
        "README.md",
        "mnli",
        "mnli/train-0.parquet",
        "mnli/validation-0.parquet",
        "mnli/validation-1.parquet",
    }
    assert not list(cache.rglob("*.tmp"))


def test_what_was_fetched_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    asked = config(subset="mnli")
    assert already_here(asked, tmp_path) == asked
    first = fetch_all(asked, tmp_path)
    hub.requests.clear()
    assert fetch_all(asked, tmp_path) == first == already_here(asked, tmp_path)
    assert hub.requests == []
    other = already_here(config(subset="cola"), tmp_path)
    assert other.model.path and other.task.path is None


def test_the_same_commit_by_another_name_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    first = fetch.fetch(Wanted("model", "org/enc"), tmp_path)
    hub.requests.clear()
    assert fetch.fetch(Wanted("model", "org/enc", COMMIT), tmp_path) == first
    assert hub.requests == []


def test_nothing_is_fetched_for_local_data_and_model(tmp_path: Path) -> None:
    here = RunConfig(
        task=TaskConfig(name="t", hub="org/set", path="/somewhere"),
        model=ModelConfig(name="m", hub="org/enc", path="/elsewhere"),
    )
    assert fetch.wanted(here) == (None, None)
    assert fetch_all(here, tmp_path) == here
    assert tree(tmp_path) == set()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (Wanted("model", "org/absent"), ["model org/absent", "is not on the hub", "HF_TOKEN"]),
        (Wanted("dataset", "org/absent"), ["dataset org/absent", "is not on the hub"]),
        (Wanted("model", "org/enc", "v9"), ["no revision 'v9'"]),
        (Wanted("dataset", "org/set", subset="mnlo"), ["no subset 'mnlo'", "'mnli'"]),
        (Wanted("dataset", "org/set"), ["several subsets", "--subset"]),
    ],
)
def test_what_the_hub_does_not_have(
    hub: Hub, tmp_path: Path, what: Wanted, words: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        fetch.fetch(what, tmp_path / "runs" / ".cache")
    assert all(word in str(error.value) for word in words), error.value
    assert tree(tmp_path) == set()


def test_gated(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("models/org/enc")
    with pytest.raises(UsageError, match=r"gated.*HF_TOKEN"):
        fetch.fetch(Wanted("model", "org/enc"), tmp_path)
    assert tree(tmp_path) == set()


def test_a_download_that_breaks_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.broken.add("models/org/enc/model.safetensors")
    with pytest.raises(UsageError, match=r"--model FOLDER"):
        fetch.fetch(Wanted("model", "org/enc"), tmp_path / "runs" / ".cache")
    assert tree(tmp_path) == set()


def test_no_network(tmp_path: Path) -> None:
    """HF_ENDPOINT is honoured, and a hub that is not there is one line."""
    code = (
        "from pathlib import Path; from launch.fetch import *; from training.config import *\n"
        "try: fetch(Wanted('dataset', 'org/set'), Path('cache'))\n"
        "except UsageError as error: print(error)"
    )
    env = clean_environment(HF_ENDPOINT="http://127.0.0.1:9", PYTHONPATH=str(ROOT))
    env.pop("HF_HUB_OFFLINE", None)
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=env | more,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == (
            "cannot reach the hub http://127.0.0.1:9 for dataset org/set: use --data DIR\n"
        )
        assert tree(tmp_path) == set()


def test_no_token_is_written(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    fetch_all(config(subset="cola"), tmp_path)
    assert all(b"hf_verysecret" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert "hf_verysecret" not in "".join(capfd.readouterr())


def test_weights_are_chosen_once() -> None:
    sharded = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    chosen = model_files(["config.json", *sharded, index, "pytorch_model.bin"], "m")
    assert chosen == ["config.json", *sharded, index]
    assert "pytorch_model.bin" in model_files(["config.json", "pytorch_model.bin"], "m")
    with pytest.raises(UsageError, match="no weights"):
        model_files(["config.json", "tf_model.h5"], "m")
    with pytest.raises(UsageError, match=r"no config\.json"):
        model_files(["model.safetensors"], "m")


def test_data_files_without_a_card() -> None:
    files = ["train.csv", "test.csv", "x/train.parquet", "dataset_infos.json", "run.py"]
    assert dataset_files(files, "", "d", None) == ["test.csv", "train.csv", "x/train.parquet"]
    assert dataset_files(files, "", "d", "x") == ["x/train.parquet"]
    with pytest.raises(UsageError, match="no parquet, CSV or JSON"):
        dataset_files(["script.py"], "", "d", None)


def test_card_with_a_data_dir() -> None:
    card = "---\nconfigs:\n- config_name: a\n  data_dir: sub\n---\n"
    assert dataset_files(["sub/x.csv", "y.csv"], card, "d", "a") == ["sub/x.csv"]


@pytest.fixture(autouse=True)
def quiet_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(os.environ, "HF_HUB_DISABLE_PROGRESS_BARS", "1")


def test_what_was_stopped_goes_on(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C at the end of a download: typed again, nothing that was fetched is fetched again."""
    import huggingface_hub

    real = huggingface_hub.snapshot_download

    def stopped(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stopped)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(Wanted("model", "org/enc"), tmp_path)
    assert "goes on fetching" in capfd.readouterr().err
    monkeypatch.setattr(huggingface_hub, "snapshot_download", real)
    hub.requests.clear()
    place = fetch.fetch(Wanted("model", "org/enc"), tmp_path)
    assert (place / "model.safetensors").read_bytes() == b"weights" * 1000
    assert not any(r.startswith("GET") and "model.safetensors" in r for r in hub.requests)
    assert [p.name for p in place.parent.iterdir() if p.name.endswith((".part", ".lock"))] == []


def test_two_at_once_fetch_once(hub: Hub, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=fetch.fetch, args=(Wanted("model", "org/enc"), tmp_path))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fetched = [r for r in hub.requests if r.startswith("GET") and r.endswith("model.safetensors")]
    assert len(fetched) == 1
