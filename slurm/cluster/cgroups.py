"""Control groups of the cluster's nodes, for proctrack/cgroup with version 1."""

import time
from contextlib import suppress
from pathlib import Path

from slurm.cluster.errors import BadRequest, ClusterError
from slurm.cluster.layout import FREEZER, Layout


def require_freezer() -> None:
    """Raises BadRequest where the version-1 freezer controller is not mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if not any(m[1] == str(FREEZER) and m[2] == "cgroup" for m in mounts):
        raise BadRequest(f"--proctrack cgroup needs the version-1 freezer controller at {FREEZER}")


def create(layout: Layout, nodes: list[str]) -> list[tuple[str, str]]:
    """Make a group per node; pairs of folders to bind on that node, in the order of `nodes`.

    Slurm calls a node's group slurm_NODE and offers no choice, so two clusters would share it.
    Each node therefore sees a group of its own in that place.
    """
    pairs = []
    for node in nodes:
        own, seen = layout.freezer / node, FREEZER / f"slurm_{node}"
        own.mkdir(parents=True, exist_ok=True)
        seen.mkdir(exist_ok=True)
        pairs.append((str(own), str(seen)))
    return pairs


def thaw(layout: Layout) -> None:
    """Let frozen processes run: a frozen one does not die of SIGKILL."""
    for state in layout.freezer.rglob("freezer.state"):
        with suppress(OSError):
            state.write_text("THAWED")


def remove(layout: Layout) -> None:
    """Remove the cluster's groups, whose processes must be gone. Raises ClusterError."""
    if not layout.freezer.is_dir():
        return
    nodes = [group.name for group in layout.freezer.iterdir() if group.is_dir()]
    groups = sorted((g for g in layout.freezer.rglob("*") if g.is_dir()), reverse=True)
    for group in [*groups, layout.freezer]:
        _remove(group)
    for node in nodes:
        # The empty place itself is shared with other clusters: the last one removes it.
        if not any(FREEZER.glob(f"glueline-*/{node}")):
            with suppress(OSError):
                (FREEZER / f"slurm_{node}").rmdir()


def _remove(group: Path) -> None:
    # A process that was killed leaves its group a moment after it is gone from sight.
    for _ in range(100):
        try:
            return group.rmdir()
        except OSError:
            time.sleep(0.02)
    raise ClusterError(f"control group {group} cannot be removed")
