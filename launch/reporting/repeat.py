"""The line that makes a run again, from its configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from launch import presets
from launch.resolve import Draft
from training.config import RunConfig, UsageError
from training.config.schema import get_dotted, leaves, to_plain
from training.rundir import CACHE_FOLDER


def submit_arguments(config: RunConfig, runs: Path) -> list[str] | None:
    """Return the arguments of `glueline submit` that make exactly this configuration.

    Every value that task, model and profile files do not give is spelled out, so that the line
    means the same elsewhere. Where weights and rows were fetched to is left out: they are fetched
    again.

    Returns:
        None where no line can say it (a list whose items have commas, say).
    """
    task, model, profile = _names(config)
    words = [*_word("--task", task), *_word("--model", model), *_word("--cluster", profile)]
    base = copy.deepcopy(_base(task, model, profile))
    if base is None:
        return None
    before = base.build()
    for key, (spec, _) in leaves(RunConfig).items():
        wanted = to_plain(get_dotted(config, key))
        if key == "cluster.profile" or wanted == to_plain(get_dotted(before, key)):
            continue
        if _fetched(key, wanted, config, runs):
            continue
        entries = wanted if isinstance(wanted, dict) and wanted else {"": wanted}
        for name, value in entries.items():
            dotted = f"{key}.{name}" if name else key
            text = _text(value)
            flag = spec.metadata.get("flag")
            if flag and not name and value is True:
                words.append(flag.name)
            elif flag and not name and not isinstance(value, bool) and value is not None:
                words += [flag.name, text]
            else:
                words += ["--set", f"{dotted}={text}"]
            try:
                base.put(dotted, text, "repeat")
            except UsageError:
                return None
    return words if _same(base, config, runs) else None


def _word(flag: str, value: str | None) -> list[str]:
    return [flag, value] if value else []


def _names(config: RunConfig) -> tuple[str | None, str, str | None]:
    """Return what --task, --model and --cluster say."""
    task = config.task.name if config.task.name in presets.names("tasks") else None
    model = config.model
    if model.name in presets.names("models"):
        named = model.name
    else:
        named = model.hub or model.path or model.name
    return task, named, config.cluster.profile


@cache
def _base(task: str | None, model: str, profile: str | None) -> Draft | None:
    """Return the values that the named files give; None where one is not there any more."""
    draft = Draft()
    try:
        draft.preset(presets.model_preset(model))
        if task:
            draft.preset(presets.task_preset(task))
        if profile:
            draft.preset(presets.cluster_preset(profile))
        draft.build()
    except UsageError:
        return None
    return draft


def _fetched(key: str, value: Any, config: RunConfig, runs: Path) -> bool:
    """Return whether a path is where launch put what it fetched."""
    if key not in ("task.path", "model.path") or not value:
        return False
    if key == "model.path" and config.model.package:
        return True
    return str(value).startswith(f"{runs / CACHE_FOLDER}/")


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(str(v) for v in value)
    if isinstance(value, float):
        return repr(value)
    return str(value)


def _same(draft: Draft, config: RunConfig, runs: Path) -> bool:
    made = draft.build()
    for key in leaves(RunConfig):
        old, new = to_plain(get_dotted(made, key)), to_plain(get_dotted(config, key))
        if old != new and not _fetched(key, new, config, runs):
            return False
    return True


def flat(config: RunConfig) -> Mapping[str, Any]:
    """Return a configuration by dotted key, ready for JSON."""
    return {key: to_plain(get_dotted(config, key)) for key in leaves(RunConfig)}
