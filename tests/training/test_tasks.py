from pathlib import Path

import pytest
import yaml

import configs
from training.config import ModelConfig, RunConfig, TaskConfig
from training.config.schema import build, coerce, leaves
from training.data import ensure_tokens, load_raw
from training.sources import check_source, resolve_data_dir
from training.tokens import open_tokens

from .hub_folders import glue_like

FILES = sorted((Path(configs.__file__).parent / "tasks").glob("*.yaml"))
GLUE = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
    "ax": ("premise", "hypothesis"),
}


def load(name: str, **more) -> TaskConfig:
    file = Path(configs.__file__).parent / "tasks" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text())["task"]
    return build(TaskConfig, {"name": name, **values, **more}, name)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_file_is_strictly_a_task(file):
    content = yaml.safe_load(file.read_text())
    assert set(content) <= {"task", "defaults"}
    task = load(file.stem)
    task.check()
    assert task.description
    known = leaves(RunConfig)
    for key, value in content.get("defaults", {}).items():
        coerce(value, known[key][1], key)
    if task.train is not None:
        RunConfig(task=task, model=ModelConfig(architecture="bert")).check()


def test_all_are_there():
    assert {f.stem for f in FILES} >= {*GLUE, "ag_news", "imdb", "emotion", "demo"}


@pytest.mark.parametrize("name", GLUE)
def test_glue_columns_and_metrics(name):
    task = load(name)
    assert (task.hub, task.subset, task.folder) == ("nyu-mll/glue", name, "glue")
    assert task.text == GLUE[name]
    metrics = {"cola": "matthews", "stsb": "pearson", "ax": "matthews"}
    assert task.primary_metric == metrics.get(name, "accuracy")


@pytest.mark.parametrize("name", ["qnli", "qqp", "wnli"])
def test_tasks_without_real_rows(name, tmp_path):
    names = {"qnli": ["entailment", "not_entailment"], "qqp": ["not_duplicate", "duplicate"]}
    own = names.get(name, ["not_entailment", "entailment"])
    first, second = GLUE[name]
    glue_like(tmp_path / "glue", name, first, second, own)
    task = load(name)
    task = load(name, path=str(resolve_data_dir(task, tmp_path)))
    info = check_source(task)
    assert info.label_names == tuple(own)
    assert info.rows == {"train": 60, "validation": 20, "test": 10}
    assert info.labelled == ("train", "validation")
    model = ModelConfig(name="tiny", architecture="bert", vocab_size=200)
    data = open_tokens(ensure_tokens(RunConfig(task=task, model=model), tmp_path / "cache"))
    assert {s: len(split) for s, split in data.splits.items()} == info.rows
    assert data.splits["test"].labels is None


REAL = {
    "cola": {"train": 8551, "validation": 1043, "test": 1063},
    "sst2": {"train": 67349, "validation": 872, "test": 1821},
    "mrpc": {"train": 3668, "validation": 408, "test": 1725},
    "stsb": {"train": 5749, "validation": 1500, "test": 1379},
    "rte": {"train": 2490, "validation": 277, "test": 3000},
    "mnli": {"train": 7615, "validation_matched": 1000, "validation_mismatched": 1000}
    | {"test_matched": 100, "test_mismatched": 100},
    "ax": {"test": 1104},
    "ag_news": {"train": 28518, "validation": 1501, "test": 7600},
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_rows_pass_the_checks(name, data_dir):
    task = load(name)
    info = check_source(load(name, path=str(resolve_data_dir(task, data_dir))))
    assert info.rows == REAL[name]
    assert len(info.label_names) == {"stsb": 0, "mnli": 3, "ax": 3, "ag_news": 4}.get(name, 2)
    scored = {"train", *task.validation_splits, *(("test",) if name == "ag_news" else ())}
    assert set(info.labelled) == (set() if name == "ax" else scored)


@pytest.mark.data
def test_loads_what_the_hub_would_give(data_dir, tmp_path):
    import datasets

    task = load("mnli", path=str(data_dir / "glue"))
    own = load_raw(task, tmp_path)
    theirs = datasets.load_dataset(task.path or "", "mnli", cache_dir=str(tmp_path / "hub"))
    assert isinstance(theirs, datasets.DatasetDict)
    assert set(own) == set(theirs)
    for split, rows in own.items():
        assert rows.features == theirs[split].features
        assert rows.to_dict() == theirs[split].to_dict()
