"""The YAML files of `configs/` and the user's own: read strictly, flattened to dotted keys."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import configs
from training.config import RunConfig, UsageError, nearest, slug
from training.config.schema import describe_type, field_types, leaves

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


@dataclass(frozen=True)
class Preset:
    """What one YAML file sets."""

    origin: str
    """For people: `task mnli`."""
    values: dict[str, Any] = field(default_factory=dict)
    """By dotted key."""
    runs: str | None = None
    """Runs folder of a site profile."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What doctor measured of a site's nodes; empty without it."""


def folder(kind: str) -> Path:
    """Return the folder of one kind of presets: `tasks`, `models`, `clusters`, `zero`."""
    return Path(configs.__file__).resolve().parent / kind


def names(kind: str) -> list[str]:
    """Return the names of the presets of one kind."""
    return sorted(p.stem for p in folder(kind).glob("*.yaml"))


class _Twice(Exception):
    """A key stands twice in one mapping."""


class _Strict(yaml.SafeLoader):
    """PyYAML's own keeps the last of two equal keys, and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise _Twice(
                    f"'{key.value}' stands in line {seen[key.value]} and in line {line}: "
                    "leave one of them out"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping.

    Raises:
        UsageError: it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except _Twice as error:
        raise UsageError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"cannot read {path}: {reason}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        got = "an empty file" if values is None else repr(values)[:40]
        raise UsageError(f"{path}: expected keys and values, got {got}")
    return values


def check_key(key: str, where: str) -> str:
    """Return the configuration key that `key` is, or lies below (`cluster.env.X`: `cluster.env`).

    Raises:
        UsageError: there is none; the nearest one is named.
    """
    known = leaves(RunConfig)
    if key in known:
        return key
    for leaf, (_, annotation) in known.items():
        if key.startswith(leaf + ".") and describe_type(annotation) == "a mapping":
            return leaf
    section, _, rest = key.partition(".")
    sections = field_types(RunConfig)
    if section not in sections:
        raise UsageError(f"{where}: unknown section '{section}': {nearest(section, sections)}")
    if not rest:
        raise UsageError(f"{where}: '{key}' is a section: write {key}.KEY")
    own = [k.split(".", 1)[1] for k in known if k.startswith(f"{section}.")]
    raise UsageError(f"{where}: unknown key '{key}': {nearest(rest, own)}")


def parse(path: Path, section: str, origin: str, extra: tuple[str, ...] = ()) -> Preset:
    """Return what a preset file sets.

    Raises:
        UsageError: the file has a key that it must not have, or cannot be read.
    """
    content = read_yaml(path)
    allowed = (section, "defaults", *extra)
    for key in content:
        if key not in allowed:
            raise UsageError(f"{path}: unknown key '{key}': {nearest(str(key), allowed)}")
    values: dict[str, Any] = {}
    for name in (section, "defaults"):
        part = content.get(name) or {}
        if not isinstance(part, Mapping):
            raise UsageError(f"{path}: '{name}' expected keys and values, got {part!r}")
        for key, value in part.items():
            dotted = f"{section}.{key}" if name == section else str(key)
            check_key(dotted, str(path))
            values[dotted] = value
    runs, measured = content.get("runs"), content.get("measured")
    return Preset(
        origin,
        values,
        str(runs) if runs is not None else None,
        dict(measured) if isinstance(measured, Mapping) else {},
    )


def _is_file_name(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or "/" in text or text.startswith("~")


def _find(kind: str, text: str, more: tuple[Path, ...] = ()) -> Path:
    """Return the file that a name or a path means."""
    singular = {"tasks": "task", "clusters": "site profile", "zero": "ZeRO settings"}[kind]
    if _is_file_name(text):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UsageError(f"{singular} file {text} does not exist")
        return path.absolute()
    for place in (*more, folder(kind)):
        if (place / f"{text}.yaml").is_file():
            return place / f"{text}.yaml"
    known = [*names(kind), *(p.stem for place in more for p in place.glob("*.yaml"))]
    raise UsageError(f"unknown {singular} '{text}': {nearest(text, known)}")


def task_preset(text: str) -> Preset:
    """Return the task that `--task` means: a name in `configs/tasks/`, or a YAML file.

    Paths inside a file of the user's own are relative to that file.

    Raises:
        UsageError: it is unknown or wrong.
    """
    path = _find("tasks", text)
    preset = parse(path, "task", f"task {path.stem}")
    preset.values.setdefault("task.name", path.stem)
    here = path.parent
    if isinstance(own := preset.values.get("task.path"), str):
        preset.values["task.path"] = str((here / Path(own).expanduser()).resolve())
    files = preset.values.get("task.files")
    if isinstance(files, Mapping):
        preset.values["task.files"] = {
            split: [
                str((here / Path(str(f)).expanduser()).resolve())
                for f in (paths.split(",") if isinstance(paths, str) else paths or ())
            ]
            for split, paths in files.items()
        }
    return preset


def cluster_preset(text: str) -> Preset:
    """Return the site profile that `--cluster` means.

    A name in `~/.config/glueline/clusters/` or `configs/clusters/`, or a YAML file.

    Raises:
        UsageError: it is unknown or wrong.
    """
    path = _find("clusters", text, (own_clusters(),))
    preset = parse(path, "cluster", f"profile {path.stem}", ("runs", "slurm_cluster", "measured"))
    preset.values["cluster.profile"] = str(path) if _is_file_name(text) else text
    return preset


NO_PROFILE = "none"
"""`--cluster none`: not even the one that doctor saved."""


def own_clusters() -> Path:
    """Return the folder of the user's own site profiles."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "glueline" / "clusters"


def check_typed_cluster(text: str | None) -> None:
    """Raise `UsageError` if `--cluster` names no site profile."""
    if text not in (None, NO_PROFILE):
        cluster_preset(str(text))


def chosen_cluster(text: str | None, executor: str | None = None) -> Preset | None:
    """Return the site profile in force: the one typed, else the one saved for this Slurm.

    Args:
        text: what `--cluster` says; `none` takes none.
        executor: what `--executor` says: a local run takes none that was not typed.

    Raises:
        UsageError: it is unknown or wrong.
    """
    if text is not None:
        return None if text == NO_PROFILE else cluster_preset(text)
    name = None if executor == "local" else saved_cluster()
    return cluster_preset(name) if name else None


def saved_cluster() -> str | None:
    """Return the name of the user's profile that is of the Slurm of this machine, None without.

    One home directory may serve several clusters: each profile says whose it is.

    Raises:
        UnknownCluster: there are profiles, and Slurm, which does not say which cluster this is.
    """
    found = []
    for path in sorted(own_clusters().glob("*.yaml")):
        try:
            owner = read_yaml(path).get("slurm_cluster")
        except UsageError:
            continue  # not asked for; it is told when it is
        if owner is not None:
            found.append((path.stem, str(owner)))
    here = slurm_cluster() if found else None
    if found and here is None and shutil.which("scontrol"):
        raise UnknownCluster(
            "Slurm does not say which cluster this is (scontrol show config), so no profile is "
            f"taken: use --cluster NAME ({', '.join(name for name, _ in found)}), or "
            f"--cluster {NO_PROFILE}"
        )
    ours = [name for name, owner in found if owner == here]
    return here if here in ours else ours[0] if len(ours) == 1 else None


class UnknownCluster(UsageError):
    """Nobody says which cluster this is."""


@cache
def slurm_cluster() -> str | None:
    """Return Slurm's name of this cluster (ClusterName); None where nobody says.

    A controller that is slow is asked twice, with a look into Slurm's own settings between.
    """
    from slurm.scontrol import Refused, Silent, ask

    from .doctor_login import slurm_conf

    for seconds in SLURM_SECONDS:
        try:
            return _cluster_name(ask("scontrol", "show", "config", seconds=seconds))
        except Refused:
            return _cluster_name(slurm_conf())
        except Silent:
            if name := _cluster_name(slurm_conf()):
                return name
    return None


SLURM_SECONDS = (5.0, 15.0)
"""How long Slurm may take to say which cluster this is: at first, and when it is asked again."""


def _cluster_name(text: str) -> str | None:
    match = re.search(r"^\s*ClusterName\s*=\s*(\S+)", text, re.M | re.I)
    return match[1] if match else None


def zero_settings(text: str) -> dict[str, Any]:
    """Return what `engine.zero_config` means: a name in `configs/zero/`, or a file.

    Raises:
        UsageError: it is unknown, or not a mapping.
    """
    return read_yaml(_find("zero", text))


def model_preset(text: str) -> Preset:
    """Return what `--model` means: a name in `configs/models/`, a local folder, or a hub id.

    A bare word that is neither is refused: on the hub nearly every model has an organisation, and
    a typo would otherwise be found only when the hub is asked for it.

    Raises:
        UsageError: it is none of these.
    """
    path = folder("models") / f"{text}.yaml"
    if "/" not in text and path.is_file():
        preset = parse(path, "model", f"model {text}")
        preset.values.setdefault("model.name", text)
        return preset
    place = Path(text).expanduser()
    if place.is_dir():
        if not (place / "config.json").is_file():
            raise UsageError(f"--model {text}: the folder has no config.json, it is not a model")
        resolved = place.resolve()
        values = {"model.name": slug(resolved.name), "model.path": str(resolved)}
        return Preset(f"folder {text}", values)
    if _HUB_ID.match(text) and "/" in text:
        return Preset(f"hub {text}", {"model.name": slug(text.split("/")[1]), "model.hub": text})
    if not _HUB_ID.match(text):
        raise UsageError(f"--model {text}: there is no such folder, and it is no model's name")
    raise UsageError(
        f"unknown model '{text}': {nearest(text, names('models'))} "
        f"(a model of the hub is written with its organisation: ORG/{text})"
    )
