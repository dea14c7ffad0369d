from collections import Counter, defaultdict

import pytest

from training.demo import _CLUES, LABEL_NAMES, SIZES, TEXT_COLUMNS, generate

DATA = generate()


def clue(note):
    """Return which clue a note gives: the class it rules out, and the wording."""
    return next((k, w) for k, wordings in _CLUES.items() for w in wordings if w in note)


def test_same_seed_same_rows():
    assert generate(3) == generate(3)
    assert generate(3) != generate(4)


@pytest.mark.parametrize("split", SIZES)
def test_rows(split):
    rows = DATA[split]
    assert len(rows) == SIZES[split]
    assert set(rows[0]) == {*TEXT_COLUMNS, "label"}
    counts = Counter(row["label"] for row in rows)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({tuple(row.values()) for row in rows}) == len(rows)


def test_the_two_clues_leave_the_label():
    for row in DATA["validation"]:
        ruled_out = {clue(str(row[column]))[0] for column in TEXT_COLUMNS}
        assert set(LABEL_NAMES) - ruled_out == {LABEL_NAMES[int(row["label"])]}


@pytest.mark.parametrize("column", TEXT_COLUMNS)
def test_one_note_alone_does_not(column):
    """The best answer by the wording of one column is right about half of the time."""
    by_wording = defaultdict(Counter)
    for row in DATA["train"]:
        by_wording[clue(row[column])][row["label"]] += 1
    right = sum(
        by_wording[clue(r[column])].most_common(1)[0][0] == r["label"] for r in DATA["test"]
    )
    assert 0.4 < right / len(DATA["test"]) < 0.6


@pytest.mark.parametrize("split", ["validation", "test"])
def test_wordings_are_paired_as_never_in_training(split):
    def pairs(rows):
        return {tuple(clue(str(row[c]))[1] for c in TEXT_COLUMNS) for row in rows}

    assert not pairs(DATA["train"]) & pairs(DATA[split])
    words = {w for pair in pairs(DATA["train"]) for w in pair}
    assert words == {w for wordings in _CLUES.values() for w in wordings}
