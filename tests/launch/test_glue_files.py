"""The files of a GLUE submission: labels, numbers, and what the server would not take."""

from __future__ import annotations

import pytest

from launch.glue_files import (
    BY_NAME,
    FILES,
    absent,
    find_problems,
    name_problems,
    server_labels,
    similarity,
    translate,
    tsv,
)
from training.config import UsageError

COLA, MNLI, STSB = BY_NAME["CoLA.tsv"], BY_NAME["MNLI-m.tsv"], BY_NAME["STS-B.tsv"]


def told(file, text, **rows):
    return [str(p) for p in find_problems(file, text, rows)]


def test_the_eleven_files_and_their_rows():
    """As the submissions that others describe: the lines of wc, less the header."""
    assert {file.name: file.rows for file in FILES} == {
        "AX.tsv": 1104,
        "CoLA.tsv": 1063,
        "MNLI-m.tsv": 9796,
        "MNLI-mm.tsv": 9847,
        "MRPC.tsv": 1725,
        "QNLI.tsv": 5463,
        "QQP.tsv": 390965,
        "RTE.tsv": 3000,
        "SST-2.tsv": 1821,
        "STS-B.tsv": 1379,
        "WNLI.tsv": 146,
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_labels_go_by_name(file):
    backwards = tuple(reversed(file.classes))
    expected = dict(zip(file.classes, file.labels, strict=True))
    assert server_labels(file, file.classes, None) == expected
    assert server_labels(file, backwards, None) == expected
    held = {name: i for i, name in enumerate(file.classes)}
    assert server_labels(file, backwards, held if held else None) == expected
    if file.labels:
        assert server_labels(file, file.labels, None) == {name: name for name in file.labels}


def test_other_names_go_by_the_ids_of_the_data_where_the_server_takes_ids():
    assert server_labels(COLA, ("good", "bad"), {"bad": 0, "good": 1}) == {"bad": "0", "good": "1"}


@pytest.mark.parametrize(
    ("file", "predicted", "held", "words"),
    [
        (COLA, ("good", "bad"), None, ["nothing says which is which", "good, bad"]),
        (COLA, ("good", "bad"), {"bad": "bad", "good": "good"}, ["nothing says"]),
        (COLA, ("good", "bad"), {"ham": 0, "spam": 1}, ["trained on other labels", "ham, spam"]),
        (COLA, ("acceptable", "unacceptable"), {"acceptable": 0, "unacceptable": 1}, ["numbers"]),
        (MNLI, ("0", "1", "2"), {"0": 0, "1": 1, "2": 2}, ["nothing says"]),
        (MNLI, ("entailment", "not_entailment"), None, ["entailment, neutral, contradiction"]),
        (COLA, (), None, ["predicts numbers"]),
    ],
)
def test_no_label_is_guessed(file, predicted, held, words):
    with pytest.raises(UsageError) as refused:
        server_labels(file, predicted, held)
    assert all(word in str(refused.value) for word in words), refused.value


def test_names_that_were_seen_need_not_be_all():
    classes = ("not_entailment", "entailment")
    found = {name: name for name in classes}
    assert server_labels(BY_NAME["RTE.tsv"], classes, None, ("entailment",)) == found
    assert server_labels(BY_NAME["RTE.tsv"], classes, None, ()) == found
    with pytest.raises(UsageError, match="the labels of the data are yes: it was trained on other"):
        server_labels(BY_NAME["RTE.tsv"], classes, None, ("yes",))


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0, "2.000"), (-0.3, "0.000"), (-0.0, "0.000"), (5.2, "5.000"), (4.99951, "5.000")],
)
def test_similarities_are_clipped_and_have_three_decimals(value, text):
    assert similarity(value) == text
    assert told(STSB, tsv([text]), here=1) == []


@pytest.mark.parametrize(
    ("file", "rows", "words"),
    [
        (COLA, ["acceptable", "ham"], "row 1, 'ham', is none of unacceptable, acceptable"),
        (STSB, ["1.5", "nan"], "row 1, 'nan', is not a finite number"),
        (STSB, ["much"], "row 0, 'much', is not a finite number"),
    ],
)
def test_a_prediction_that_is_none(file, rows, words):
    with pytest.raises(UsageError, match=words):
        translate(file, rows, server_labels(file, file.classes, None))


def test_a_file_as_the_server_takes_it():
    labels = server_labels(COLA, COLA.classes, None)
    text = tsv(translate(COLA, ["acceptable", "unacceptable"], labels))
    assert text == "index\tprediction\n0\t1\n1\t0\n"
    assert told(COLA, text, here=2) == []
    assert told(COLA, text.removesuffix("\n"), here=2) == []


@pytest.mark.parametrize(
    ("file", "text", "problems"),
    [
        (COLA, "id\tprediction\n0\t1\n", ["CoLA.tsv line 1: the header is 'id\\tprediction'"]),
        (COLA, "0\t1\n1\t1\n", ["CoLA.tsv line 1: the header is '0\\t1'", "line 2: index '1'"]),
        (COLA, "index\tprediction\n1\t1\n", ["CoLA.tsv line 2: index '1' where 0 must be"]),
        (COLA, "index\tprediction\n0\t2\n", ["CoLA.tsv line 2: label '2' is none of 0, 1"]),
        (COLA, "index\tprediction\n0,1\n", ["CoLA.tsv line 2: 1 columns instead of two"]),
        (COLA, "index\tprediction\n0\t1 \n", ["label '1 ' is none of"]),
        (COLA, "index\tprediction\r\n0\t1\r\n", ["CoLA.tsv line 1: lines end in CR LF"]),
        (COLA, "index\tprediction\n0\t1\n\n", ["line 3: 1 columns", "2 rows, here has 1"]),
        (COLA, "index\tprediction\n", ["CoLA.tsv: 0 rows, here has 1"]),
        (COLA, "", ["the header is ''", "0 rows"]),
        (STSB, "index\tprediction\n0\t5.001\n", ["line 2: 5.001 is not between 0 and 5"]),
        (STSB, "index\tprediction\n0\t-0.1\n", ["line 2: '-0.1' is no plain number"]),
        (STSB, "index\tprediction\n0\tnan\n", ["line 2: 'nan' is no plain number"]),
        (MNLI, "index\tprediction\n0\t1\n", ["label '1' is none of entailment, neutral"]),
    ],
)
def test_what_the_server_would_not_take(file, text, problems):
    found = told(file, text, here=1)
    assert len(found) == len(problems), found
    assert all(part in whole for part, whole in zip(problems, found, strict=True)), found


def test_of_indices_out_of_order_the_first_is_told():
    text = "index\tprediction\n0\t1\n2\t1\n3\t1\n"
    assert told(COLA, text, here=3) == ["CoLA.tsv line 3: index '2' where 1 must be"]


def test_names():
    every = [file.name for file in FILES]
    assert list(name_problems(every, partial=False)) == []
    assert absent(every[1:]) == ["CoLA.tsv"]
    assert list(name_problems(every[1:], partial=True)) == []
    found = [str(p) for p in name_problems([*every[1:], "cola.tsv", "a/QQP.tsv"], partial=False)]
    assert found == [
        "cola.tsv: is none of the eleven files: did you mean 'CoLA.tsv'?",
        "a/QQP.tsv: lies in a folder: the files must be at the top of the zip",
        "CoLA.tsv: not there: the server wants all eleven files",
    ]
    twice = [str(p) for p in name_problems([*every, "QQP.tsv"], partial=False)]
    assert twice == ["QQP.tsv: is there twice"]
