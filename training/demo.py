"""The embedded task: two notes about an animal, which class of animal is it? Our own words.

Each note gives one of three clues: it lays eggs (so it is no mammal), it breathes air (no fish), it
lives in water (here: no bird). Two different clues leave one class; one note alone leaves two, so
neither column does better than one half, and one answer for all no better than one third.
Validation and test join wordings that training never joins: scoring there takes what each wording
means, not a memory of pairs.
"""

from __future__ import annotations

import random

LABEL_NAMES = ("mammal", "fish", "bird")
SIZES = {"train": 4000, "validation": 600, "test": 600}
TEXT_COLUMNS = ("first_note", "second_note")

# By the class that the clue rules out.
_CLUES = {
    "mammal": (
        "it lays eggs",
        "its young hatch from a shell",
        "a clutch of eggs belonged to it",
        "we counted eleven eggs that it had left",
        "its offspring begin inside an egg",
        "it never gives milk",
        "nobody has seen it suckle its young",
        "it was guarding a nest with spawn or eggs",
        "broken eggshell lay behind it",
        "the young came out of their shells at dawn",
        "it had just spawned or brooded",
        "eggs of its kind are speckled",
    ),
    "fish": (
        "it breathes with lungs",
        "it has to gasp for air",
        "it would drown without air",
        "its breath was warm on the glass",
        "it has no gills at all",
        "we heard it inhale deeply",
        "it sneezed and then it coughed",
        "its lungs showed clearly in the picture",
        "it keeps warm blood and takes in air",
        "it called out with a loud voice",
        "its nostrils opened with every breath",
        "it snored while it slept",
    ),
    "bird": (
        "it spends its life under water",
        "it dives and swims with fins or flippers",
        "it has never grown a feather",
        "it has neither wings nor a beak",
        "it cannot perch on a branch",
        "the current carried it along",
        "its tail drove it through the waves",
        "it shares the deep with squid",
        "it followed the boat below the surface",
        "there was not one feather on its smooth skin",
        "it hunts among the coral",
        "the net brought it up from the sea bed",
    ),
}
_FIRST = (
    "{who} wrote {when} : {clue} .",
    "{when} , {who} was sure that {clue} .",
    "{clue} , said {who} {when} .",
    "from {who} , {when} : {clue} .",
)
_SECOND = (
    "also , {clue} .",
    "{who} adds that {clue} .",
    "later {who} told us {clue} .",
    "and {clue} , as {who} confirmed .",
)
_PEOPLE = (
    "Ilse",
    "Mirko",
    "Tamsin",
    "Odell",
    "Priya",
    "Jonas",
    "Wenna",
    "Bashir",
    "Lucia",
    "Emeka",
)
_TIMES = ("yesterday", "last week", "this morning", "on Sunday", "in the spring", "at noon")
_HELD = 6
"""One in so many pairs of wordings is kept for validation and test."""


def generate(seed: int = 0) -> dict[str, list[dict[str, str | int]]]:
    """Return the rows of every split: two notes and the label, an index of `LABEL_NAMES`.

    The same seed gives the same rows on every machine. Labels are balanced to within one row.
    """
    return {
        split: _rows(random.Random(f"{seed}-{split}"), size, unseen=split != "train")
        for split, size in SIZES.items()
    }


def _rows(rng: random.Random, size: int, unseen: bool) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    seen: set[tuple[str, str]] = set()
    while len(rows) < size:
        label = len(rows) % len(LABEL_NAMES)
        notes = _draw(rng, label, unseen)
        if notes not in seen:
            seen.add(notes)
            rows.append({**dict(zip(TEXT_COLUMNS, notes, strict=True)), "label": label})
    rng.shuffle(rows)
    return rows


def _draw(rng: random.Random, label: int, unseen: bool) -> tuple[str, str]:
    kinds = [name for name in LABEL_NAMES if name != LABEL_NAMES[label]]
    rng.shuffle(kinds)
    a, b = (rng.randrange(len(_CLUES[kind])) for kind in kinds)
    # Held pairs are diagonals: every wording stands in training with most of the others.
    while ((a + b) % _HELD == 0) != unseen:
        b = rng.randrange(len(_CLUES[kinds[1]]))
    first = rng.choice(_FIRST).format(
        who=rng.choice(_PEOPLE), when=rng.choice(_TIMES), clue=_CLUES[kinds[0]][a]
    )
    second = rng.choice(_SECOND).format(who=rng.choice(_PEOPLE), clue=_CLUES[kinds[1]][b])
    return first, second
