"""Which files are which split of a folder in hub layout, as the `datasets` library resolves them.

The front matter of README.md names configurations and their files; without it, file and folder
names tell. Standard library and yaml only, so that a login node answers at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .config import UsageError, nearest

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
"""File formats that are read, by suffix."""

_IGNORED = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
_SHARDED = re.compile(r"^data/(?P<split>\w+(\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*$")
_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SEPARATORS = "[-._ 0-9]"
_IN_FOLDER = ("**/{k}/**", "**/{k}{s}*/**", "**/*{s}{k}/**", "**/*{s}{k}{s}*/**")
_IN_FILE = ("**/{k}{s}*", "**/*{s}{k}{s}*")


@dataclass(frozen=True)
class Layout:
    """One configuration of a data set folder."""

    name: str | None
    """Its name in README.md; None where the file names alone decide."""
    splits: dict[str, list[Path]]
    """Files by split, sorted, all of one format."""
    label_names: dict[str, tuple[str, ...]]
    """Names of the classes of every column that README.md describes as one of classes."""


def read_layout(folder: Path, subset: str | None) -> Layout:
    """Return the splits of a data set folder.

    Raises:
        UsageError: the folder or the configuration is missing (those that exist are named), a
            pattern matches nothing, README.md is not as the hub wants it, or no file is readable.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder: {_siblings(folder)}")
    card = front_matter(folder)
    configs = _configs(folder, card)
    if configs:
        name = subset if subset is not None else _default(folder, configs)
        if name not in configs:
            raise UsageError(
                f"{folder} has no configuration '{name}' (--subset; it has {', '.join(configs)}): "
                f"{nearest(str(name), configs)}"
            )
        config = configs[name]
        base = folder / str(config.get("data_dir") or "")
        splits = (
            _declared(folder, config["data_files"])
            if config.get("data_files") is not None
            else _by_name(base)
        )
    else:
        name, base = None, folder
        if subset is not None and subset != "default":
            base = folder / subset
            if not base.is_dir():
                raise UsageError(f"{folder} has no configuration '{subset}': {_below(folder)}")
        splits = _by_name(base)
    splits = _one_format(base, splits)
    return Layout(name, splits, _label_names(card, subset or name))


def front_matter(folder: Path) -> dict[str, Any]:
    """Return the YAML at the top of a folder's README.md; empty where there is none.

    Raises:
        UsageError: it is not YAML.
    """
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return {}
    try:
        card = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{folder / 'README.md'}: its front matter is not YAML: {reason}"
        ) from None
    return card if isinstance(card, dict) else {}


def describes(folder: Path, subset: str | None) -> bool:
    """Return whether a folder itself is a data set with this configuration, by a quick look."""
    card = front_matter(folder)
    configs = _configs(folder, card)
    if configs:
        return subset is None or subset in configs
    if card.get("dataset_info"):
        return True
    if subset is not None:
        return (folder / subset).is_dir()
    near = [p.relative_to(folder).as_posix() for p in (*folder.glob("*"), *folder.glob("data/*"))]
    names = [*near, *(f"{n}/x.csv" for n in near if (folder / n).is_dir())]
    return any(
        (folder / n).is_file() and Path(n).suffix in SUFFIXES and n.count("/") <= 1 for n in near
    ) or any(_match(n, p) for n in names for s in _KEYWORDS for p in _patterns(_IN_FOLDER, s))


def _configs(folder: Path, card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    configs = card.get("configs") or []
    if not isinstance(configs, list) or any(
        not isinstance(c, dict) or "config_name" not in c for c in configs
    ):
        raise UsageError(
            f"{folder / 'README.md'}: 'configs' must be a list of entries with a config_name"
        )
    return {str(c["config_name"]): c for c in configs}


def _default(folder: Path, configs: dict[str, dict[str, Any]]) -> str:
    if len(configs) == 1:
        return next(iter(configs))
    for name, config in configs.items():
        if name == "default" or config.get("default"):
            return name
    shown = ", ".join(sorted(configs)[:20])
    raise UsageError(f"{folder} has several configurations: choose one with --subset: {shown}")


def _declared(folder: Path, data_files: Any) -> dict[str, list[Path]]:
    """Resolve `data_files` of README.md: text, a list, a mapping, or a list of split and path."""
    wrong = UsageError(
        f"{folder / 'README.md'}: data_files must be a path, a list of paths, or a list of "
        f"entries with split and path, not {data_files!r}"
    )
    if isinstance(data_files, str):
        patterns = {"train": [data_files]}
    elif isinstance(data_files, dict):
        patterns = {str(k): _texts(v) for k, v in data_files.items()}
    elif isinstance(data_files, list) and all(isinstance(d, dict) for d in data_files):
        if any("split" not in d or "path" not in d for d in data_files):
            raise wrong
        patterns = {str(d["split"]): _texts(d["path"]) for d in data_files}
    elif isinstance(data_files, list) and all(isinstance(d, str) for d in data_files):
        patterns = {"train": data_files}
    else:
        raise wrong
    files = _walk(folder)
    # A split whose files were not fetched is absent; it is an error only where it is asked for.
    found = {s: _resolve(folder, files, patterns[s]) for s in patterns}
    return {split: paths for split, paths in found.items() if paths}


def _texts(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Resolve a folder without declared files: the first kind of pattern that matches counts."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder: {_siblings(folder)}")
    files = [f for f in _walk(folder) if Path(f).suffix in SUFFIXES]
    sharded: dict[str, list[Path]] = {}
    for file in files:
        if match := _SHARDED.match(file):
            sharded.setdefault(match["split"], []).append(folder / file)
    if sharded:
        return sharded
    for kind in (_IN_FOLDER, _IN_FILE):
        found = {s: _resolve(folder, files, _patterns(kind, s)) for s in _KEYWORDS}
        if any(found.values()):
            return {split: paths for split, paths in found.items() if paths}
    return {"train": [folder / f for f in files]} if files else {}


def _patterns(kind: Iterable[str], split: str) -> list[str]:
    return [p.format(k=word, s=_SEPARATORS) for word in _KEYWORDS[split] for p in kind]


def _resolve(folder: Path, files: list[str], patterns: list[str]) -> list[Path]:
    """Return the files that match, in the order of the patterns, each once."""
    found: dict[str, None] = {}
    for pattern in patterns:
        found.update(dict.fromkeys(f for f in files if _match(f, pattern.removeprefix("./"))))
    return [folder / f for f in found]


def _match(file: str, pattern: str) -> bool:
    """Return whether a relative path matches; hidden and `__` parts only if they are spelled."""
    if not _regex(pattern).match(file):
        return False
    for special in (".", "__"):
        in_file = sum(part.startswith(special) for part in file.split("/"))
        if in_file != sum(part.startswith(special) for part in pattern.split("/")):
            return False
    return True


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    text, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i) and (i == 0 or pattern[i - 1] == "/"):
            text, i = text + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            text, i = text + ".*", i + 2
        elif pattern[i] == "*":
            text, i = text + "[^/]*", i + 1
        elif pattern[i] == "?":
            text, i = text + "[^/]", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            inner = pattern[i + 1 : end].replace("\\", "\\\\")
            text += "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]"
            i = end + 1
        else:
            text, i = text + re.escape(pattern[i]), i + 1
    return re.compile(text + r"\Z")


def _walk(folder: Path) -> list[str]:
    """Return every file below a folder, relative, sorted; links to files and folders count."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f != ".git"]
        found += [(Path(place) / f).relative_to(folder).as_posix() for f in files]
    return sorted(f for f in found if Path(f).name not in {*_IGNORED, "README.md"})


def _one_format(folder: Path, splits: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Keep the files of the commonest readable format."""
    kinds = [SUFFIXES[p.suffix] for ps in splits.values() for p in ps if p.suffix in SUFFIXES]
    if not kinds:
        others = sorted({p.suffix for ps in splits.values() for p in ps if p.suffix})
        what = f"only {', '.join(others)} files" if others else "no data files"
        raise UsageError(f"{folder} has {what}: CSV, TSV, JSONL and parquet are read")
    kind = max(sorted(set(kinds)), key=kinds.count)
    kept = {s: [p for p in ps if SUFFIXES.get(p.suffix) == kind] for s, ps in splits.items()}
    return {split: paths for split, paths in kept.items() if paths}


def _label_names(card: dict[str, Any], subset: str | None) -> dict[str, tuple[str, ...]]:
    """Return the class names of `dataset_info` by column."""
    infos = card.get("dataset_info") or []
    infos = [i for i in (infos if isinstance(infos, list) else [infos]) if isinstance(i, dict)]
    if len(infos) > 1:
        infos = [i for i in infos if i.get("config_name") == subset]
    found = {}
    for feature in infos[0].get("features") or [] if infos else []:
        kind = feature.get("dtype") if isinstance(feature, dict) else None
        names = kind.get("class_label", {}).get("names") if isinstance(kind, dict) else None
        if isinstance(names, dict):  # {'0': negative, '1': positive}
            names = [names[k] for k in sorted(names, key=int)]
        if names:
            found[str(feature["name"])] = tuple(str(n) for n in names)
    return found


def _siblings(folder: Path) -> str:
    place = folder.parent
    while not place.is_dir():
        place = place.parent
    return f"in {place} {_below(place, folder.name)}"


def _below(folder: Path, word: str | None = None) -> str:
    names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not names:
        return "there are no folders"
    return nearest(word, names) if word else f"it holds: {', '.join(sorted(names)[:20])}"
