"""Tokenised data on disk and in memory. numpy only.

A folder holds `manifest.json` and a folder per split: `input_ids.npy` (int32, all rows in one
line), `offsets.npy` (int64, rows + 1), `token_type_ids.npy` (int8, where the tokenizer gives them)
and `labels.npy` (int64 class, -1 without one; float32 in regression, NaN without one; absent where
no row has a label). Arrays are mapped, not read: ranks of one node share them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .rundir import file_problem, file_sha256, read_json, sync_path

FORMAT = 1
"""Version of the layout; part of every fingerprint."""

PERCENTILE = 95


@dataclass(frozen=True)
class TokenSplit:
    """The rows of one split."""

    name: str
    input_ids: np.ndarray
    """int32 [tokens]: all rows, one after the other, special tokens included."""
    offsets: np.ndarray
    """int64 [rows + 1]: row i is `input_ids[offsets[i]:offsets[i + 1]]`."""
    token_type_ids: np.ndarray | None = None
    """int8 [tokens], or None where the tokenizer has none."""
    labels: np.ndarray | None = None
    """int64 [rows], -1 where unlabelled; float32 with NaN in regression; None without labels."""
    pad_token_id: int = 0
    pad_token_type_id: int = 0
    padding_side: str = "right"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [rows]: tokens of each row."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def labelled(self) -> bool:
        """Whether every row has a label, so that the split can be scored."""
        if self.labels is None:
            return False
        if self.labels.dtype.kind == "f":
            return not bool(np.isnan(self.labels).any())
        return not bool((self.labels < 0).any())


@dataclass(frozen=True)
class TokenData:
    """A folder of tokenised splits."""

    folder: Path
    manifest: dict[str, Any]
    splits: dict[str, TokenSplit]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their ids; empty in regression."""
        return tuple(self.manifest["label_names"])


def open_tokens(folder: str | os.PathLike[str]) -> TokenData:
    """Return the tokenised data in a folder, memory-mapped.

    Raises:
        OSError: the folder or one of its files is missing.
        ValueError: it has another format version.
    """
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {manifest.get('format')}, not {FORMAT}")
    splits = {}
    for name in manifest["splits"]:
        place = folder / name
        input_ids = _load(place / "input_ids.npy")
        offsets = _load(place / "offsets.npy")
        assert input_ids is not None and offsets is not None
        splits[name] = TokenSplit(
            name=name,
            input_ids=input_ids,
            offsets=offsets,
            token_type_ids=_load(place / "token_type_ids.npy", optional=True),
            labels=_load(place / "labels.npy", optional=True),
            pad_token_id=manifest["pad_token_id"],
            pad_token_type_id=manifest["pad_token_type_id"],
            padding_side=manifest["padding_side"],
        )
    return TokenData(folder=folder, manifest=manifest, splits=splits)


def write_tokens(
    folder: Path, manifest: Mapping[str, Any], splits: Mapping[str, TokenSplit]
) -> None:
    """Write tokenised splits and a manifest into a folder, flushed to the disk.

    The manifest gets `format`, the padding of the splits, rows, tokens and longest of each, and
    size and SHA-256 of every file; what it has under `splits` already (`truncated`) is kept. It
    is written last. The arrays can only be read from then on.
    """
    counts: dict[str, dict[str, Any]] = {}
    known = dict(manifest.get("splits", {}))
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        place = folder / name
        place.mkdir()
        for key in ("input_ids", "offsets", "token_type_ids", "labels"):
            array = getattr(split, key)
            if array is not None:
                path = place / f"{key}.npy"
                _save(path, array)
                seen = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
                files[f"{name}/{path.name}"] = seen
                path.chmod(0o444)
        sync_path(place)
        counts[name] = {
            **known.get(name, {}),
            "rows": len(split),
            "tokens": int(split.offsets[-1]),
            "longest": int(split.lengths.max(initial=0)),
        }
    any_split = next(iter(splits.values()))
    padding = {
        key: getattr(any_split, key)
        for key in ("pad_token_id", "pad_token_type_id", "padding_side")
    }
    whole = {"label_names": [], **manifest, **padding, "format": FORMAT, "splits": counts}
    whole["files"] = files
    with (folder / "manifest.json").open("w", encoding="utf-8") as file:
        json.dump(whole, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    sync_path(folder)


def damage(folder: Path) -> str | None:
    """Return which file of tokenised data is not what was written, after reading all of them.

    None where all are, or where an older glueline wrote no sums.
    """
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict):
        return f"{folder}/manifest.json cannot be read"
    for name, about in (manifest.get("files") or {}).items():
        if problem := file_problem(folder / name, about["bytes"], about["sha256"]):
            return f"{folder / name} {problem}"
    return None


def collate(split: TokenSplit, ids: np.ndarray, pad_to: int | None = None) -> dict[str, np.ndarray]:
    """Return rows as one padded batch.

    Args:
        split: the rows.
        ids: int [b], row numbers, repeats allowed.
        pad_to: padded length; none pads to the longest row.

    Returns:
        `input_ids`, `attention_mask` and, where the split has them, `token_type_ids`: int64
        [b, L]; `labels`, where it has them: int64 or float32 [b].

    Raises:
        ValueError: `ids` is empty, or a row is longer than `pad_to`.
        IndexError: a row number is out of range.
    """
    ids = np.asarray(ids, dtype=np.int64)
    if ids.size == 0:
        raise ValueError("an empty micro-batch cannot be collated")
    if ids.min() < 0 or ids.max() >= len(split):
        raise IndexError(f"row numbers must be between 0 and {len(split) - 1}")
    start = np.asarray(split.offsets[ids])
    lengths = np.asarray(split.offsets[ids + 1]) - start
    width = int(lengths.max())
    if pad_to is not None:
        if pad_to < width:
            raise ValueError(f"a row has {width} tokens, more than pad_to={pad_to}")
        width = pad_to
    column = np.arange(width, dtype=np.int64)[None, :]
    if split.padding_side == "left":
        column = column - (width - lengths)[:, None]
    mask = (column >= 0) & (column < lengths[:, None])
    source = np.where(mask, start[:, None] + column, 0)
    batch = {
        "input_ids": np.where(mask, split.input_ids[source], split.pad_token_id).astype(np.int64),
        "attention_mask": mask.astype(np.int64),
    }
    if split.token_type_ids is not None:
        types = np.where(mask, split.token_type_ids[source], split.pad_token_type_id)
        batch["token_type_ids"] = types.astype(np.int64)
    if split.labels is not None:
        batch["labels"] = np.array(split.labels[ids])
    return batch


def length_histogram(lengths: np.ndarray, width: int = 16) -> dict[str, Any]:
    """Return how long rows are, in tokens.

    `counts` maps the upper end of each bin of `width` tokens to its number of rows, without the
    empty bins above the longest row; `min`, `median`, `mean`, `p95` and `max` are in tokens. All
    are zero without rows.
    """
    lengths = np.asarray(lengths)
    if lengths.size == 0:
        return {"counts": {}, "min": 0, "median": 0.0, "mean": 0.0, "p95": 0.0, "max": 0}
    bins = np.bincount((np.maximum(lengths, 1) - 1) // width)
    return {
        "counts": {(i + 1) * width: int(count) for i, count in enumerate(bins)},
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": float(lengths.mean()),
        "p95": float(np.percentile(lengths, PERCENTILE)),
        "max": int(lengths.max()),
    }


def _load(path: Path, optional: bool = False) -> np.ndarray | None:
    if optional and not path.exists():
        return None
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:  # an empty array cannot be mapped
        return np.load(path)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
