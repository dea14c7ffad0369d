"""From rows to tokens: load, hold out, clean, map labels, tokenise, keep.

What is kept is found again by a fingerprint of everything that it follows from, so a changed data
set is tokenised anew. `datasets` and `transformers` are imported when they are needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import demo, tables
from .cleaning import clean_text
from .config import RunConfig, TaskConfig, UsageError, slug
from .rundir import file_sha256, sync_path
from .sources import (
    UNLABELLED,
    SourceInfo,
    check_source,
    class_index,
    holdout_counts,
    locate,
    model_folder,
    used_splits,
)
from .tokens import FORMAT, TokenSplit, write_tokens
from .vocabulary import train_wordpiece

if TYPE_CHECKING:
    import datasets

_CHUNK = 8192
"""Rows tokenised at a time."""

Progress = Callable[[int, int], None]
"""Told rows done, and rows in all."""

_TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.bpe", "*.jinja")
_NOT_TOKENIZER = ("config.json", "*index.json", "README*", "generation_config.json")

# These count positions from pad_token_id + 1.
_SHIFTED_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "mpnet",
    "longformer",
)


def load_raw(task: TaskConfig, cache: Path | None = None) -> dict[str, datasets.Dataset]:
    """Return every split that the task uses, rows as they were loaded, before any hold-out.

    The rows are in memory; `datasets`' own cache lies below `cache` (else the system's temporary
    folder) and is gone when this returns.

    Raises:
        UsageError: a file, split or column is missing, or a file cannot be read.
    """
    files = locate(task)
    used = used_splits(task)
    import datasets

    if task.generated:
        data = demo.generate()
        return {split: datasets.Dataset.from_list(data[split]) for split in used}
    # Without a network this would wait for a counter of downloads.
    from datasets import config as settings

    settings.HF_UPDATE_DOWNLOAD_COUNTS = False
    found = {}
    with _quiet(), _temporary(cache) as place:
        for split in used:
            if not files.get(split):
                raise UsageError(f"task {task.name}: the data has no split '{split}'")
            found[split] = _load_split(task, split, files[split], place)
    return found


def _load_split(task: TaskConfig, split: str, paths: list[Path], place: Path) -> datasets.Dataset:
    """Load one split by itself: an unlabelled test split may have other columns than train."""
    import datasets
    from datasets.exceptions import DatasetsError

    kind = tables.file_format(paths[0])
    options: dict[str, Any] = {}
    if kind == "csv":
        # As the checks read it: "NA" and "None" are texts; only an empty label is no label.
        options = {
            "sep": "\t" if paths[0].suffix == ".tsv" else ",",
            "keep_default_na": False,
            "na_values": {task.label: [""]} if task.label else None,
            "converters": dict.fromkeys(task.text, str),
        }
    try:
        rows = datasets.load_dataset(
            kind,
            data_files={split: [str(path) for path in paths]},
            split=split,
            cache_dir=str(place),
            keep_in_memory=True,
            **options,
        )
    except (OSError, ValueError, TypeError, DatasetsError) as error:
        reason = str(error.__cause__ or error)
        raise UsageError(
            f"task {task.name}: split {split} cannot be read ({paths[0]}): "
            f"{' '.join(reason.split())[:200]}"
        ) from error
    assert isinstance(rows, datasets.Dataset)
    return rows


def holdout_indices(
    labels: np.ndarray | None, rows: int, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers that stay in training and those held out, both sorted.

    Args:
        labels: int [rows], classes to stratify by; None holds out without strata.
        rows: number of training rows.
        fraction: of all rows, rounded; every class keeps its share to within one row.
        seed: the same seed holds out the same rows.
    """
    rng = np.random.default_rng(seed)
    strata = [np.arange(rows)]
    if labels is not None:
        strata = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    counts = holdout_counts([len(s) for s in strata], fraction)
    held = [rng.permutation(s)[:count] for s, count in zip(strata, counts, strict=True)]
    taken = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(rows), taken), taken


def encode_labels(task: TaskConfig, info: SourceInfo, values: list[Any]) -> np.ndarray | None:
    """Return labels as class ids (int64, -1 without one) or numbers (float32, NaN without one).

    None where no row has a label.

    Raises:
        UsageError: a value is none of the classes.
    """
    if task.problem == "regression":
        numbers = np.array([np.nan if v is None else float(v) for v in values], dtype=np.float32)
        # Secret labels of the hub's test splits.
        return None if np.isnan(numbers).all() or (numbers == UNLABELLED).all() else numbers
    known: dict[Any, int] = {}
    for value in dict.fromkeys(values):
        index = class_index(value, info.label_names, info.label_values)
        if index is None:
            if value not in (None, "", UNLABELLED) and value == value:
                shown = ", ".join(info.label_names[:20])
                raise UsageError(f"task {task.name}: label '{value}' is none of: {shown}")
            index = UNLABELLED
        known[value] = index
    ids = np.array([known.get(value, UNLABELLED) for value in values], dtype=np.int64)
    return None if (ids == UNLABELLED).all() else ids


def ensure_tokenizer(config: RunConfig, cache: Path) -> Path:
    """Return a folder that `AutoTokenizer.from_pretrained` loads.

    The model's own; for a model made from sizes alone a lower-case WordPiece vocabulary, trained
    on the task's training texts (without the hold-out) and kept in `cache/tokenizers/`.

    Raises:
        UsageError: the model is still on the hub, or the data is wrong.
    """
    folder = model_folder(config.model)
    if folder is not None:
        return folder
    if not config.model.architecture:
        raise UsageError(
            f"model {config.model.name}: {config.model.hub} is not on this machine: fetch it with "
            "glueline prepare, or use --model FOLDER"
        )
    task = config.task
    recipe = {
        "kind": "wordpiece-lower",
        "format": FORMAT,
        "size": config.model.vocab_size,
        "text": task.text,
        "clean": task.clean,
        "train": task.train,
        "holdout": [task.holdout, task.holdout_seed],
        "stratify": [task.problem, task.label] if task.holdout > 0 else None,
    }
    splits = [task.train or task.test[0]]
    place = cache / "tokenizers" / _digest([recipe, _source_digests(task, splits)])[:16]
    if not place.is_dir():
        with _published(place) as temporary:
            _train_tokenizer(config, cache, temporary)
    return place


def _train_tokenizer(config: RunConfig, cache: Path, folder: Path) -> None:
    from transformers import BertTokenizer

    task = config.task
    split = task.train or task.test[0]
    rows = load_raw(task, cache)[split]
    keep = np.arange(len(rows))
    if task.holdout > 0:
        keep = _hold_out(task, check_source(task), rows)[0]

    def texts() -> Iterator[str]:
        for start in range(0, len(keep), _CHUNK):
            for column in _texts(task, split, rows, keep[start : start + _CHUNK]):
                yield from column

    vocabulary = train_wordpiece(texts, config.model.vocab_size)
    tokenizer = BertTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        do_lower_case=True,
        model_max_length=512,
    )
    tokenizer.save_pretrained(str(folder))


def fingerprint(config: RunConfig, cache: Path) -> str:
    """Return a SHA-256 of all that the tokens follow from.

    The content of the source files and of the tokenizer's, and every setting that changes tokens,
    labels or splits.

    Raises:
        UsageError: the data or the model is not on this machine.
    """
    return _fingerprint(config, ensure_tokenizer(config, cache))


def _fingerprint(config: RunConfig, tokenizer: Path) -> str:
    task = config.task
    settings = {
        "format": FORMAT,
        "problem": task.problem,
        "text": task.text,
        "label": task.label,
        "labels": task.labels,
        "train": task.train,
        "validation": task.validation_splits,
        "test": task.test,
        "holdout": [task.holdout, task.holdout_seed],
        "clean": task.clean,
        "max_length": max_length(config, tokenizer),
    }
    files = sorted(
        path
        for pattern in _TOKENIZER_FILES
        for path in tokenizer.glob(pattern)
        if not any(path.match(p) for p in _NOT_TOKENIZER)
    )
    digests = [[path.name, _file_digest(path)] for path in files]
    return _digest([settings, digests, _source_digests(task, list(used_splits(task)))])


def max_length(config: RunConfig, tokenizer: Path) -> int:
    """Return the longest input in tokens: the task's, or the model's where that is less."""
    limits = [config.task.max_length]
    if isinstance(
        limit := _read_json(tokenizer / "tokenizer_config.json").get("model_max_length"), int
    ):
        limits.append(limit)
    model = _read_json(tokenizer / "config.json")
    if isinstance(limit := model.get("max_position_embeddings"), int) and limit > 0:
        if model.get("model_type") in _SHIFTED_POSITIONS:
            limit -= int(model.get("pad_token_id") or 0) + 1
        limits.append(limit)
    return min(limits)


def ensure_tokens(config: RunConfig, cache: Path, progress: Progress | None = None) -> Path:
    """Return the folder of the task's tokenised splits, made if it is not there yet.

    All evaluated and test splits are in it; the hold-out, if any, as `validation`. It appears
    whole or not at all; two processes that make it at once end with the same content.

    Args:
        config: the run.
        cache: the cache of its runs folder.
        progress: told how many rows of how many are tokenised.

    Raises:
        UsageError: what is wrong with the data or the model, as in `check_source`.
    """
    task = config.task
    tokenizer = ensure_tokenizer(config, cache)
    digest = _fingerprint(config, tokenizer)
    place = cache / "tokens" / f"{slug(task.name)}-{digest[:12]}"
    if not place.is_dir():
        info = check_source(task)
        with _published(place) as temporary:
            _build_tokens(config, info, cache, tokenizer, digest, temporary, progress)
    return place


def _build_tokens(
    config: RunConfig,
    info: SourceInfo,
    cache: Path,
    tokenizer: Path,
    digest: str,
    folder: Path,
    progress: Progress | None,
) -> None:
    task = config.task
    raw = load_raw(task, cache)
    parts: dict[str, tuple[str, np.ndarray]] = {
        split: (split, np.arange(len(rows))) for split, rows in raw.items()
    }
    if task.train is not None and task.holdout > 0:
        kept, held = _hold_out(task, info, raw[task.train])
        parts[task.train] = (task.train, kept)
        parts["validation"] = (task.train, held)
    done, total = 0, sum(len(ids) for _, ids in parts.values())

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress(done, total)

    encoder = _Encoder(tokenizer, max_length(config, tokenizer), tell)
    splits, truncated = {}, {}
    for name, (source, ids) in parts.items():
        rows = raw[source]
        labels = None
        if task.label is not None and task.label in rows.column_names:
            values = rows.with_format(None)[task.label][:]
            labels = encode_labels(task, info, [values[i] for i in ids])
        splits[name], truncated[name] = encoder.encode(task, name, source, rows, ids, labels)
    manifest = {
        "fingerprint": digest,
        "task": task.name,
        "problem": task.problem,
        "label_names": list(info.label_names),
        "max_length": encoder.max_length,
        "tokenizer": tokenizer.name,
        "splits": {name: {"truncated": count} for name, count in truncated.items()},
    }
    write_tokens(folder, manifest, splits)


def _hold_out(
    task: TaskConfig, info: SourceInfo, rows: datasets.Dataset
) -> tuple[np.ndarray, np.ndarray]:
    labels = None
    if task.problem == "classification" and task.label is not None:
        labels = encode_labels(task, info, list(rows[task.label][:]))
    return holdout_indices(labels, len(rows), task.holdout, task.holdout_seed)


class _Encoder:
    """The fast tokenizer of a folder, with the length that inputs are cut to."""

    def __init__(
        self, folder: Path, longest: int, tell: Callable[[int], None] = lambda rows: None
    ) -> None:
        from transformers import AutoTokenizer

        self._tell = tell

        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        if not self.tokenizer.is_fast:
            raise UsageError(f"{folder}: the model has no fast tokenizer (tokenizer.json)")
        self.max_length = longest

    def encode(
        self,
        task: TaskConfig,
        name: str,
        source: str,
        rows: datasets.Dataset,
        ids: np.ndarray,
        labels: np.ndarray | None,
    ) -> tuple[TokenSplit, int]:
        """Return these rows as tokens, and how many of them were truncated."""
        pieces, types, lengths = [], [], []
        truncated = 0
        for start in range(0, len(ids), _CHUNK):
            columns = _texts(task, source, rows, ids[start : start + _CHUNK])
            encoded = self.tokenizer(
                *columns,
                truncation="longest_first",
                max_length=self.max_length,
                return_attention_mask=False,
            )
            lengths += [len(row) for row in encoded["input_ids"]]
            pieces.append(_flat(encoded["input_ids"], np.int32))
            if "token_type_ids" in encoded:
                types.append(_flat(encoded["token_type_ids"], np.int8))
            truncated += sum(1 for e in encoded.encodings or () if e.overflowing)
            self._tell(len(encoded["input_ids"]))
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        pad = self.tokenizer.pad_token_id
        if pad is None:  # decoders: what is masked out may be any token
            pad = self.tokenizer.eos_token_id or 0
        return TokenSplit(
            name=name,
            input_ids=np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32),
            offsets=offsets,
            token_type_ids=np.concatenate(types) if types else None,
            labels=labels,
            pad_token_id=int(pad),
            pad_token_type_id=int(self.tokenizer.pad_token_type_id),
            padding_side=self.tokenizer.padding_side,
        ), truncated


def _flat(rows: list[list[int]], dtype: Any) -> np.ndarray:
    total = sum(map(len, rows))
    return np.fromiter((i for row in rows for i in row), dtype=dtype, count=total)


def _texts(
    task: TaskConfig, split: str, rows: datasets.Dataset, ids: np.ndarray
) -> list[list[str]]:
    """Return the text columns of some rows, cleaned: one list a column."""
    chunk = rows.select(ids) if len(ids) != len(rows) else rows
    columns = []
    for column in task.text:
        values = chunk[column][:]
        if None in values:
            row = int(ids[values.index(None)])
            raise UsageError(
                f"task {task.name}: row {row} of split {split} has no text in column '{column}'"
            )
        columns.append([clean_text(str(value), task.clean) for value in values])
    return columns


def _source_digests(task: TaskConfig, splits: list[str]) -> Any:
    """Return what the content of the source files of some splits is told by."""
    if task.generated:
        return [task.generated, _digest(demo.generate())]
    files = locate(task)
    digests: list[Any] = []
    for split in splits:
        digests.append([split, [[p.suffix, _file_digest(p)] for p in files.get(split, [])]])
    readme = Path(task.path or "") / "README.md"
    # Class names may stand there alone.
    return [*digests, _file_digest(readme) if task.path and readme.is_file() else None]


def _file_digest(path: Path) -> str:
    with tables.readable(path):
        return file_sha256(path)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _published(place: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `place` that becomes `place` at once when all went well.

    If another process was first, its folder stands: it has the same content.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # With host and process: what a killed one left can be told from what is being written.
        owner = f"{socket.gethostname()}.{os.getpid()}"
        temporary = place.parent / f".{place.name}.{owner}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.mkdir()
    except OSError as error:
        raise UsageError(f"cannot write into {place.parent}: {error.strerror}") from None
    try:
        yield temporary
        _sync(temporary)
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        _sync(place.parent, deep=False)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(folder: Path, deep: bool = True) -> None:
    paths = [*folder.rglob("*")] if deep else []
    for path in [*paths, folder]:
        sync_path(path)


@contextlib.contextmanager
def _temporary(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".datasets-", dir=cache) as name:
        yield Path(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars into a rank's log."""
    import datasets

    drawn = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not drawn:
            datasets.enable_progress_bars()
