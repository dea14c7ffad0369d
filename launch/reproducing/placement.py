"""On how many nodes each task of a reproduction runs: a small batch keeps few GPUs busy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FEWEST = 16
"""Examples of a step that a rank should have: with fewer it waits for the others more than it
computes."""


@dataclass(frozen=True)
class Size:
    """What a task asks for, and what there is."""

    batch: int
    """Examples of a step, over all ranks."""
    nodes: int
    """That were asked for."""
    ranks: int
    """Of a node."""
    fewest: int = 1
    """Nodes that it must have."""

    @property
    def enough(self) -> int:
        """How many of the nodes keep their ranks busy."""
        return max(self.fewest, min(self.nodes, self.batch // (FEWEST * self.ranks)), 1)

    @property
    def lanes(self) -> int:
        """How many runs of the task a node has ranks for, when each has as many as are busy."""
        return max(1, self.ranks // max(1, self.batch // FEWEST))


def fewer_nodes(sizes: Mapping[str, Size]) -> dict[str, int]:
    """Return the nodes of each task; of none where all of them keep all that were asked for."""
    found = {task: size.enough for task, size in sizes.items()}
    return found if any(found[task] < size.nodes for task, size in sizes.items()) else {}


def node_notes(sizes: Mapping[str, Size]) -> list[str]:
    """Return which tasks get fewer nodes than were asked for, and why, a line each number."""
    groups: dict[tuple[int, int], list[str]] = {}
    for task, size in sizes.items():
        if size.enough < size.nodes:
            groups.setdefault((size.enough, size.nodes), []).append(task)
    found = []
    for (enough, asked), tasks in groups.items():
        batches = _listed(sorted({sizes[t].batch for t in tasks}))
        found.append(
            f"{', '.join(tasks)}: {_nodes(enough)} for batches of {batches}, not {asked}, so that "
            f"a rank has {FEWEST} examples of a step or more; --all-nodes takes all {asked}"
        )
    return found


def pack_note(sizes: Mapping[str, Size], seeds: int) -> str | None:
    """Return how runs can share a node whose GPUs a batch does not keep busy; None where it does.

    Args:
        sizes: by task, of one node each; of GPUs.
        seeds: runs of a task.
    """
    few = {t: s for t, s in sizes.items() if s.lanes > 1}
    lanes = min((s.lanes for s in few.values()), default=1)
    lanes = min(lanes, seeds * len(few))
    if lanes < 2:
        return None
    size = next(iter(few.values()))
    batches = _listed(sorted({s.batch for s in few.values()}))
    some = "" if len(few) == len(sizes) else f"--tasks {','.join(few)} "
    return (
        f"batches of {batches} leave a GPU fewer than {FEWEST} examples on {size.ranks} GPUs: "
        f"{some}--pack {lanes} trains {lanes} runs on a node at a time"
    )


def _listed(numbers: Sequence[int]) -> str:
    words = [str(n) for n in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"
