"""What is known of GPUs by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .duration import gpu_of

GB = {
    "h200": 141,
    "gh200": 96,
    "h100": 80,
    "a100": 40,
    "a30": 24,
    "a40": 48,
    "a6000": 48,
    "a10": 24,
    "l40": 48,
    "l40s": 48,
    "l4": 24,
    "v100": 16,
    "t4": 16,
    "p100": 16,
    "rtx4090": 24,
    "rtx3090": 24,
    "rtx2080ti": 11,
    "rtx6000": 24,
    "mi250x": 64,
    "mi300x": 192,
}
"""Memory of well-known GPUs; of those that come in several sizes, the smallest."""

_SIZE = re.compile(r"(\d{1,3})g(?:i?b)?(?![a-z0-9])", re.IGNORECASE)
_SLICE = re.compile(r"(?<![a-z0-9])\d+g\.(\d{1,3})gb(?![a-z0-9])", re.IGNORECASE)


_BEFORE_BF16 = ("p100", "v100", "t4", "rtx2080ti", "gtx1080ti", "titanv", "k80", "m40", "p40")
"""GPUs whose compute capability is below 8.0 (NVIDIA's table): they have no bf16."""


def is_slice(name: str) -> bool:
    """Return whether a type names a part of a GPU (MIG), of which a process can use one."""
    return _SLICE.search(name) is not None


def is_before_bf16(name: str) -> bool:
    """Return whether a type names a GPU that has no bf16, as far as is known."""
    return gpu_of(name, (*_BEFORE_BF16, *GB)) in _BEFORE_BF16


def memory_gb(names: Iterable[str]) -> tuple[float, str] | None:
    """Return the memory of the smallest GPU that some names mean, and its name; None if unknown.

    A size in the name goes before the table: `a100-80gb`, and `a100_1g.10gb`, a slice of one.

    Args:
        names: types of Slurm's gres, or features.
    """
    found = []
    for name in names:
        said = _SLICE.search(name) or _SIZE.search(name)
        known = gpu_of(name, GB)
        if said and int(said[1]) >= 4:
            found.append((float(said[1]), name))
        elif known:
            found.append((float(GB[known]), name))
    return min(found, default=None)
