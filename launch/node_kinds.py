"""Kinds of nodes, and those of them that a request can get. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

_WORD = r"[\w.:@%/-]+"
_ALL = re.compile(rf"{_WORD}(&{_WORD})*")
_ANY = re.compile(rf"{_WORD}(\|{_WORD})+")


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    nodes: int
    cpus: int
    """0 where it is not known."""
    memory_mb: int
    gpus: Mapping[str, int] = field(default_factory=dict)
    """By type; "" where none is named."""
    features: frozenset[str] = frozenset()
    usable: bool = True
    """Not down or drained."""
    first: str = ""
    """The name of one of them."""

    @property
    def gpu_count(self) -> int:
        """GPUs of one node."""
        return sum(self.gpus.values())


def fitting(
    kinds: Iterable[NodeKind],
    constraint: str | None = None,
    gpus: int | None = None,
    types: Collection[str] = (),
) -> list[NodeKind]:
    """Return the kinds that a job may get; all that are left where a wish leaves none.

    Whether none fits for certain is Slurm's to say: an expression of features may mean more than
    is understood here, and a node that is down may come back.

    Args:
        kinds: of the partitions that the job may go to.
        constraint: features as they were typed; expressions with counts or brackets say nothing.
        gpus: GPUs a node that are wanted at least; None: none are.
        types: names of GPUs that are wanted.
    """
    every = list(kinds)
    found = [k for k in every if k.usable] or every
    if constraint is not None:
        found = [k for k in found if _has(k, constraint)] or found
    if types:
        found = [k for k in found if _is_of(k, types)] or found
    if gpus:
        able = [k for k in found if k.gpu_count >= gpus]
        # A node that is down has them; else those with GPUs, to say how many there are.
        able = able or [k for k in every if k.gpu_count >= gpus]
        found = able or [k for k in found if k.gpu_count] or found
    return found


def _has(kind: NodeKind, constraint: str) -> bool:
    if _ALL.fullmatch(constraint):
        return kind.features.issuperset(constraint.split("&"))
    if _ANY.fullmatch(constraint):
        return not kind.features.isdisjoint(constraint.split("|"))
    return True


def _is_of(kind: NodeKind, types: Collection[str]) -> bool:
    return any(t.lower() in name.lower() for t in types for name in kind.gpus)


def first_host(text: str) -> str:
    """Return the first of the hosts in Slurm's short form: `a[01-03,7]-ib` has `a01-ib`."""
    # A comma outside of brackets parts hosts.
    one = re.split(r",(?![^\[]*\])", text.strip())[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", one)
