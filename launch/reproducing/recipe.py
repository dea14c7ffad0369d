"""A reference's recipe as a sweep over tasks and seeds, and what of it is changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from launch.flags import Request
from launch.grid import Spec
from launch.recipe_rules import (
    BASE,
    INSTEAD,
    SAME_EXAMPLES,
    base_of_rule,
    of_a_recipe,
    scaled_steps,
    shown,
    typed_values,
    void_keys,
    word,
)
from launch.reference_file import SECTIONS
from launch.reference_sets import Reference, same_model
from training.config import RunConfig
from training.config.schema import get_dotted, leaves, to_plain

from .asked import Stop


@dataclass(frozen=True)
class Change:
    """One value that is not the reference's."""

    key: str
    published: Any
    """The recipe's value; None where the recipe does not say."""
    ours: Any
    said: bool = True
    """Whether the recipe has the key."""
    why: str = ""
    """Why it is so, where nobody typed it."""

    @property
    def words(self) -> str:
        """The change for people: `batch.global_batch 32 → 1024`."""
        before = shown(self.published) if self.said else "not in the recipe"
        return f"{self.key} {before} → {shown(self.ours)}" + (f" ({self.why})" if self.why else "")

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        plain = {"key": self.key, "published": self.published, "ours": self.ours, "said": self.said}
        return {**plain, "why": self.why} if self.why else plain


def recipe_values(reference: Reference, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe by dotted key, without what was typed or what that takes the place of.

    A preset's number of steps does not outlive the recipe's epochs; the same for warm-up. Under a
    learning-rate rule that was typed, the recipe's batch is the one at which its rate holds; at
    another batch its steps are as many as have the same examples.
    """
    keys = set(typed)
    gone = keys | {key for pair in INSTEAD.items() if keys & {*pair} for key in pair}
    values = {k: v for k, v in reference.values.items() if k not in gone}
    values |= scaled_steps(reference, typed)
    values |= {
        strong: None
        for strong, weak in INSTEAD.items()
        if weak in {*values, *keys} and strong not in {*values, *keys}
    }
    if (base := base_of_rule(reference, keys)) is not None:
        values[BASE] = base
    return values


def make_spec(
    references: Sequence[Reference],
    request: Request,
    seeds: Sequence[int],
    stopped: Mapping[str, Stop],
    name: str,
    nodes: Mapping[str, int] = MappingProxyType({}),
) -> Spec:
    """Return the sweep that trains references, seed by seed over all tasks.

    Args:
        references: one a task.
        request: what was typed: it wins over the recipe.
        seeds: of each task.
        stopped: tasks that need no more seeds.
        name: of the sweep.
        nodes: of each task, where some of them get fewer than were typed.
    """
    typed = typed_values(request)
    recipes = [recipe_values(r, typed) for r in references]
    common = {
        k: v
        for k, v in recipes[0].items()
        if all(k in other and other[k] == v for other in recipes[1:])
    }
    points = []
    for reference, recipe in zip(references, recipes, strict=True):
        point: dict[str, Any] = {"task": reference.task}
        if request.model is None:
            point["model"] = reference.model
        if nodes:
            point["nodes"] = nodes[reference.task]
        points.append(point | {k: v for k, v in recipe.items() if k not in common})
    left_out = [
        {"task": task, "seed": seed}
        for task, stop in stopped.items()
        for seed in seeds[stop.after :]
    ]
    return Spec({"seed": tuple(seeds)}, tuple(points), tuple(left_out), common, name)


def changes(
    reference: Reference,
    config: RunConfig,
    request: Request,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> list[Change]:
    """Return where a configuration is not the reference's recipe.

    Args:
        reference: the recipe.
        config: what is trained, resolved.
        request: what was typed: a key of the recipe's kind that the reference does not have is a
            change too.
        origins: who said a value: what a site profile says of such keys is a change as well.
    """
    found = []
    if request.model is not None and not same_model(request.model, reference.model):
        found.append(Change("model", reference.model, request.model))
    known = leaves(RunConfig)
    void = void_keys(reference, config)
    steps = scaled_steps(reference, typed_values(request))
    for key, published in reference.values.items():
        ours = to_plain(get_dotted(config, key))
        if key in void or _same(ours, published):
            continue
        why = SAME_EXAMPLES if key in steps and steps[key] == ours else ""
        found.append(Change(key, to_plain(published), ours, why=why))
    of_the_site = [key for key, origin in origins.items() if origin.startswith("profile ")]
    for key in dict.fromkeys([*typed_values(request), *of_the_site]):
        if key in known and of_a_recipe(key) and key not in (*reference.values, BASE):
            found.append(Change(key, None, to_plain(get_dotted(config, key)), said=False))
    if (peer := get_dotted(config, "engine.peer")) != "none":
        found.append(Change("engine.peer", "none", peer, said=False))
    return found


def _same(ours: Any, published: Any) -> bool:
    if isinstance(ours, (int, float)) and isinstance(published, (int, float)):
        return float(ours) == float(published)
    return to_plain(ours) == to_plain(published)


def overrides(request: Request) -> list[tuple[str, str]]:
    """Return what was typed of the recipe's kind, to be typed again elsewhere: (key, value).

    Where rows and weights lie, and what a site has, is left out.
    """
    return [
        (o.key, word(o.value))
        for o in (*request.flags, *request.sets)
        if o.key.split(".")[0] in (*SECTIONS, "engine") and o.key not in ("task.path", "model.path")
    ]
