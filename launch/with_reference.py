"""`submit --reference`: what a published recipe sets, and what was typed that is not of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from training.config import RunConfig
from training.config.schema import get_dotted

from .flags import Override, Request
from .presets import check_key
from .recipe_rules import (
    BASE,
    BATCH,
    INSTEAD,
    SAME_EXAMPLES,
    SEED,
    base_of_rule,
    of_a_recipe,
    scaled_steps,
    shown,
    typed_values,
    word,
)
from .reference_file import Reference
from .reference_sets import find_reference, missing, same_model


def asked_reference(request: Request) -> Reference | None:
    """Return the reference that `--reference` means; None where it was not typed.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    if request.reference is None:
        return None
    return find_reference(request.reference, request.task)


def recipe(reference: Reference, request: Request) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and origin of all that a reference sets.

    A preset's number of steps does not outlive the recipe's epochs, nor the recipe's number of
    steps the epochs that were typed; the same for warm-up. Under a learning-rate rule that was
    typed, the recipe's batch is the one at which its rate holds; at another batch its steps are as
    many as have the same examples.
    """
    said = f"reference {reference.name}"
    for key, value in reference.recipe.items():
        yield key, value, said
    for key, assumption in reference.assumed.items():
        yield key, assumption.value, f"{said}, assumed"
    values = reference.values
    if reference.seeds:
        yield SEED, reference.seeds[0], said
    typed = {o.key: o.origin for o in (*request.flags, *request.sets)}
    for key, steps in scaled_steps(reference, typed_values(request)).items():
        yield key, steps, f"{said}, {SAME_EXAMPLES} at {typed[BATCH]}"
    for strong, weak in INSTEAD.items():
        if weak in typed:
            yield strong, None, typed[weak]
        elif weak in values and strong not in values:
            yield strong, None, said
    if (base := base_of_rule(reference, typed)) is not None:
        yield BASE, base, said


def spelled_out(request: Request) -> Request:
    """Return a request that means the same inputs without its reference.

    It is for lines to type again: what the recipe says of task and model becomes `--set`.
    """
    reference = asked_reference(request)
    if reference is None:
        return request
    sets = tuple(
        Override(key, word(value), "--set")
        for key, value in reference.values.items()
        if key.split(".")[0] in ("task", "model") and not request.given(key)
    )
    return replace(
        request,
        task=request.task or reference.task,
        model=request.model or reference.model,
        reference=None,
        sets=(*sets, *request.sets),
    )


def recipe_notes(
    reference: Reference, request: Request, asked: RunConfig, published: RunConfig
) -> list[str]:
    """Return what a person should know of a run by a reference: what breaks it, what it leaves out.

    Args:
        reference: the reference.
        request: what was typed.
        asked: the configuration that this means.
        published: the same without the flags that were typed.
    """
    notes = []
    name = reference.name
    if request.model is not None and not same_model(request.model, reference.model):
        notes.append(f"--model {request.model} is not the model of {name} ({reference.model})")
    if request.task not in (None, reference.task, reference.short):
        notes.append(f"--task {request.task} is not the task of {name} ({reference.short})")
    if request.files:
        notes.append(f"--train-file takes the place of the rows of {name}")
    for override in (*request.flags, *request.sets):
        key = check_key(override.key, override.origin)
        if not of_a_recipe(key) and key not in reference.values:
            continue
        before, now = get_dotted(published, key), get_dotted(asked, key)
        if before != now:
            typed = f"{override.origin} {override.value}"
            if override.origin == "--set":
                typed = f"--set {override.key}={override.value}"
            recipe_has = _published(key, before, published)
            notes.append(f"{typed} is not the recipe of {name} ({recipe_has})")
    for key, steps in scaled_steps(reference, typed_values(request)).items():
        notes.append(f"{key} {reference.values[key]} → {steps}: {SAME_EXAMPLES} as in {name}")
    gaps = [m for m in missing(reference) if m.key != SEED and not request.given(m.key)]
    if gaps:
        told = ", ".join(f"{m.key} {shown(get_dotted(asked, m.key))}" for m in gaps)
        notes.append(f"{name} does not say all of its recipe; taken instead: {told}")
    if not reference.judged:
        notes.append(f"{name} cannot be judged: {reference.unjudged}")
    return notes


def _published(key: str, value: Any, published: RunConfig) -> str:
    """Return a recipe's value for people; where another key made it void, that one."""
    for strong, weak in INSTEAD.items():
        if key == weak and (steps := get_dotted(published, strong)) is not None:
            return f"{strong} {steps}"
    return shown(value)
