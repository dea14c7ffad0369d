"""A part of the training rows, the same in every run: what a search tries its values on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .config import TaskConfig
from .data import holdout_indices
from .tokens import TokenData, TokenSplit


def with_fraction(data: TokenData, task: TaskConfig) -> TokenData:
    """Return tokenised data of whose training rows `task.train_fraction` are left.

    Every class keeps its share to within one row, and at least one row. The rows stay in their
    order; those of a smaller fraction are not all in a larger one.
    """
    if task.train is None or task.train_fraction >= 1:
        return data
    split = data.splits[task.train]
    labels = split.labels if task.problem == "classification" else None
    kept, _ = holdout_indices(labels, len(split), 1 - task.train_fraction, task.holdout_seed)
    return replace(data, splits={**data.splits, task.train: rows_of(split, kept)})


def rows_of(split: TokenSplit, ids: np.ndarray) -> TokenSplit:
    """Return some rows of a split, copied.

    Args:
        split: tokenised rows.
        ids: int [rows], numbers of the rows to keep.
    """
    lengths = split.lengths[ids].astype(np.int64)
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    # Token j of a kept row is token j of the row that it was.
    where = np.arange(offsets[-1]) + np.repeat(split.offsets[ids] - offsets[:-1], lengths)
    types = split.token_type_ids
    return replace(
        split,
        input_ids=split.input_ids[where],
        offsets=offsets,
        token_type_ids=None if types is None else types[where],
        labels=None if split.labels is None else split.labels[ids],
    )
