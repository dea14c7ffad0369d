"""The embedded task: small natural-language inference from a seeded grammar, our own words.

A premise says two things of an object; a hypothesis says one thing of it. The hypothesis follows
if the premise has the same thing in these or other words, contradicts if it has the opposite, and
is neutral if the premise does not speak of that quality. It is drawn before the label, so it says
nothing about the label by itself. Validation and test pair words that training never pairs:
scoring above chance there takes the meaning of the words, not a memory of pairs.
"""

from __future__ import annotations

import random

LABEL_NAMES = ("entailment", "neutral", "contradiction")
SIZES = {"train": 4000, "validation": 600, "test": 600}
TEXT_COLUMNS = ("premise", "hypothesis")

# quality: two poles, each in three wordings
_QUALITIES = {
    "temperature": (("warm", "hot", "heated"), ("cold", "chilly", "icy")),
    "size": (("big", "large", "huge"), ("small", "tiny", "little")),
    "price": (("cheap", "affordable", "inexpensive"), ("expensive", "costly", "pricey")),
    "noise": (("loud", "noisy", "deafening"), ("quiet", "silent", "noiseless")),
    "order": (("clean", "tidy", "spotless"), ("dirty", "messy", "filthy")),
    "pace": (("quick", "fast", "speedy"), ("slow", "sluggish", "unhurried")),
}
_THINGS = (
    "bakery workshop ferry kitchen market tram theatre library laundry garage hostel cafe "
    "studio station canteen greenhouse"
).split()
_PEOPLE = "Ilse Mirko Tamsin Odell Priya Jonas Wenna Bashir Lucia Emeka".split()
_TIMES = ["yesterday", "last week", "this morning", "on Sunday", "in the spring", "at noon"]
_PREMISES = (
    "{who} wrote that the {thing} was {first} and {second} {when} .",
    "{when} the {thing} was {first} , and {who} found it {second} .",
    "as {who} remembers , the {second} {thing} was also {first} {when} .",
    "the {first} {thing} seemed {second} to {who} {when} .",
)
_HYPOTHESES = (
    "the {thing} was {word} .",
    "{who} saw a {word} {thing} .",
    "it was a {word} {thing} .",
)


def generate(seed: int = 0) -> dict[str, list[dict[str, str | int]]]:
    """Return the rows of every split: premise, hypothesis, label (an index of `LABEL_NAMES`).

    The same seed gives the same rows on every machine. Labels are balanced to within one row.
    """
    rng = random.Random(seed)
    held = _held_pairs(rng)
    return {
        split: _rows(random.Random(f"{seed}-{split}"), size, held, split != "train")
        for split, size in SIZES.items()
    }


def _held_pairs(rng: random.Random) -> set[tuple[str, str]]:
    """Return the (thing, quality) pairs that training never asks about: two qualities a thing."""
    return {(thing, name) for thing in _THINGS for name in rng.sample(list(_QUALITIES), 2)}


def _rows(
    rng: random.Random, size: int, held: set[tuple[str, str]], unseen: bool
) -> list[dict[str, str | int]]:
    rows = []
    seen: set[tuple[str, str]] = set()
    while len(rows) < size:
        label = len(rows) % len(LABEL_NAMES)
        premise, hypothesis, pair = _draw(rng, label)
        if (pair in held) != unseen or (premise, hypothesis) in seen:
            continue
        seen.add((premise, hypothesis))
        rows.append({"premise": premise, "hypothesis": hypothesis, "label": label})
    rng.shuffle(rows)
    return rows


def _draw(rng: random.Random, label: int) -> tuple[str, str, tuple[str, str]]:
    names = list(_QUALITIES)
    asked = rng.choice(names)
    pole = rng.randrange(2)
    word = rng.choice(_QUALITIES[asked][pole])
    others = rng.sample([name for name in names if name != asked], 2)
    told = [rng.choice(_QUALITIES[name][rng.randrange(2)]) for name in others]
    if LABEL_NAMES[label] != "neutral":
        told[rng.randrange(2)] = rng.choice(_QUALITIES[asked][pole if label == 0 else 1 - pole])
    slots = {"thing": rng.choice(_THINGS), "who": rng.choice(_PEOPLE), "when": rng.choice(_TIMES)}
    premise = rng.choice(_PREMISES).format(first=told[0], second=told[1], **slots)
    hypothesis = rng.choice(_HYPOTHESES).format(word=word, **slots)
    return premise, hypothesis, (slots["thing"], asked)
