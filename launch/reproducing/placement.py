"""On what share of the nodes each task of a reproduction runs: a small batch keeps few GPUs busy.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FEWEST = 16
"""Examples of a step that a rank should have: with fewer it waits for the others more than it
computes."""


@dataclass(frozen=True)
class Size:
    """What a task asks for, and what there is."""

    name: str
    """The task's."""
    batch: int
    """Examples of a step, over all ranks."""
    nodes: int
    """That were asked for."""
    ranks: int
    """Of a node."""
    fewest: int = 1
    """Nodes that it must have."""
    shared: bool = False
    """Whether runs may share a node's GPUs: nobody said how many ranks one has."""

    @property
    def enough(self) -> int:
        """How many of the nodes keep their ranks busy."""
        return max(self.fewest, min(self.nodes, self.batch // (FEWEST * self.ranks)), 1)

    @property
    def lanes(self) -> int:
        """How many runs of the task share a node, each with as many of its GPUs as are busy."""
        if not self.shared or self.enough > 1:
            return 1
        return max(1, self.ranks // max(1, self.batch // FEWEST))


def fewer_nodes(sizes: Mapping[str, Size]) -> dict[str, int]:
    """Return the nodes of each task; of none where all of them keep all that were asked for."""
    found = {task: size.enough for task, size in sizes.items()}
    return found if any(found[task] < size.nodes for task, size in sizes.items()) else {}


def packed(sizes: Mapping[str, Size]) -> dict[str, int]:
    """Return how many runs share a node, of the tasks of which several do.

    It follows from the batch and the node alone: with more seeds a run keeps its ranks.
    """
    return {task: size.lanes for task, size in sizes.items() if size.lanes > 1}


def node_notes(sizes: Mapping[str, Size]) -> list[str]:
    """Return which tasks get fewer nodes than were asked for, and why, a line each number."""
    fewer = {t: (s.enough, s.nodes) for t, s in sizes.items() if s.enough < s.nodes}
    return [
        f"{names}: {_nodes(enough)} for {batches}, not {asked}, so that a rank has {FEWEST} "
        f"examples of a step or more; --all-nodes takes all {asked}"
        for (enough, asked), names, batches in _grouped(sizes, fewer)
    ]


def pack_notes(sizes: Mapping[str, Size], lanes: Mapping[str, int]) -> list[str]:
    """Return of which tasks several runs share a node, and why, a line each number.

    Args:
        sizes: by task.
        lanes: as `packed`, or empty where that was typed.
    """
    return [
        f"{names}: {count} runs at a time on a node, for {batches} leave each of its {ranks} GPUs "
        f"fewer than {FEWEST} examples of a step; --pack 1 gives each run a node"
        for (count, ranks), names, batches in _grouped(
            sizes, {t: (count, sizes[t].ranks) for t, count in lanes.items()}
        )
    ]


def _grouped(
    sizes: Mapping[str, Size], numbers: Mapping[str, tuple[int, int]]
) -> list[tuple[tuple[int, int], str, str]]:
    """Return the tasks of each pair of numbers: these, the tasks' names, and their batches."""
    groups: dict[tuple[int, int], list[Size]] = {}
    for task, pair in numbers.items():
        groups.setdefault(pair, []).append(sizes[task])
    return [
        (
            pair,
            ", ".join(s.name for s in some),
            f"batches of {_listed(sorted({s.batch for s in some}))}",
        )
        for pair, some in groups.items()
    ]


def _listed(numbers: Sequence[int]) -> str:
    words = [str(n) for n in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"
