"""What of a recipe gives way to what was typed, for `submit --reference` and `reproduce`. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from training.config import RunConfig
from training.config.schema import coerce, get_dotted, to_plain

from .flags import Request
from .reference_file import NO_RECIPE, SECTIONS, Reference

INSTEAD = {"train.max_steps": "train.epochs", "optim.warmup_steps": "optim.warmup_ratio"}
"""A key that, where it is set, makes the other one void: of the two, what is typed wins."""
SEED = "train.seed"
"""One draw of many: another one is the same recipe."""
RULE, BASE = "optim.lr_rule", "optim.base_batch"
BATCH = "batch.global_batch"
SAME_EXAMPLES = "as many examples"
"""Why a number of steps is another one at another batch."""


def typed_values(request: Request) -> dict[str, Any]:
    """Return what was typed, by dotted key; `--set` wins."""
    return {o.key: o.value for o in (*request.flags, *request.sets)}


def of_a_recipe(key: str) -> bool:
    """Return whether a key is of those that recipes are made of."""
    return key.split(".")[0] in SECTIONS and key not in (*NO_RECIPE, SEED)


def base_of_rule(reference: Reference, typed: Container[str]) -> int | None:
    """Return the batch at which a recipe's rate holds, where a learning-rate rule was typed.

    Args:
        reference: the recipe.
        typed: the keys that were typed.

    Returns:
        None without a rule, where the base was typed too, or where the recipe has no batch.
    """
    if RULE not in typed or BASE in typed:
        return None
    return reference.values.get(BATCH)


def scaled_steps(reference: Reference, typed: Mapping[str, Any]) -> dict[str, int]:
    """Return a recipe's numbers of steps at the batch that was typed: as many examples as before.

    Not those that were typed themselves, or that something typed takes the place of, nor a warm-up
    whose steps the typed rule keeps (`legew`).

    Args:
        reference: the recipe.
        typed: values by dotted key.

    Raises:
        UsageError: the typed batch is no number.
    """
    batch = reference.values.get(BATCH)
    if batch is None or BATCH not in typed:
        return {}
    now = coerce(typed[BATCH], int, "--global-batch")
    if now < 1:
        return {}  # refused with the rest of the configuration
    found = {}
    for strong, weak in INSTEAD.items():
        steps = reference.values.get(strong)
        kept = strong == "optim.warmup_steps" and str(typed.get(RULE)) == "legew"
        if steps and not kept and not {strong, weak} & typed.keys():
            found[strong] = max(1, round(steps * batch / now))
    return {key: steps for key, steps in found.items() if steps != reference.values[key]}


def void_keys(reference: Reference, config: RunConfig) -> set[str]:
    """Return keys of a recipe that another key of a configuration makes void."""
    return {
        weak
        for strong, weak in INSTEAD.items()
        if get_dotted(config, strong) is not None and strong not in reference.values
    }


def shown(value: Any) -> str:
    """Return a value of a recipe for people."""
    if isinstance(value, float):
        return f"{value:g}"
    plain = to_plain(value)
    if isinstance(plain, list):
        return ", ".join(map(str, plain)) or "none"
    return "none" if plain is None else str(plain)


def word(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
