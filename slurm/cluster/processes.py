"""Which processes belong to a cluster, and their end."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from slurm.cluster.errors import ClusterError
from slurm.cluster.layout import Layout

# Set for daemons only, never for users: unlike SLURM_CONF it is in no user's shell or job.
MARK = "GLUELINE_CLUSTER_DAEMON"

_DAEMONS = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"}

Namespace = tuple[int, int]


def own_processes(layout: Layout) -> list[int]:
    """Pids of the cluster's daemons, job steps and whatever else runs on its hosts.

    A process is the cluster's if it lives in one of its network namespaces, carries its mark,
    or is a daemon whose command line names the state folder. Zombies do not count.
    """
    namespaces = {ns for ns in map(namespace_id, _children(layout.namespaces)) if ns}
    mark = f"{MARK}={layout.state}".encode()
    inside = f"{layout.state}/".encode()
    found = []
    for pid in _pids():
        if (
            process_namespace(pid) in namespaces
            or mark in _read(pid, "environ").split(b"\0")
            or (executable(pid) in _DAEMONS and inside in _read(pid, "cmdline"))
        ):
            found.append(pid)
    return found


def find(layout: Layout, host: str, name: str) -> list[int]:
    """Pids of the processes on `host` whose executable is called `name`."""
    namespace = namespace_id(layout.namespace(host))
    if namespace is None:
        return []
    return [p for p in _pids() if process_namespace(p) == namespace and executable(p) == name]


def end(pids: list[int]) -> None:
    """Send SIGKILL; a pid that is gone already is fine."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_all(layout: Layout, seconds: float = 5) -> None:
    """Kill everything of the cluster. Raises ClusterError if something outlives `seconds`."""
    deadline = time.monotonic() + seconds
    # Again and again: a process may have forked between the look and the kill.
    while pids := own_processes(layout):
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {pids} of the cluster do not die")
        end(pids)
        time.sleep(0.02)


def namespace_id(path: Path) -> Namespace | None:
    """Identity of the network namespace kept at `path`; None if none (or the machine's own) is."""
    try:
        own, kept = Path("/proc/self/ns/net").stat(), path.stat()
    except OSError:
        return None
    if kept.st_dev != own.st_dev or kept.st_ino == own.st_ino:
        return None
    return kept.st_dev, kept.st_ino


def keeps_namespace(path: Path) -> bool:
    """Whether a namespace is mounted at `path`; after a reboot the file is there but is empty."""
    # By the device: os.path.ismount errs on overlay file systems, Path.is_mount on files.
    try:
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False


def process_namespace(pid: int) -> Namespace | None:
    """Identity of the network namespace that `pid` lives in; None if it is gone or not ours."""
    try:
        stat = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def executable(pid: int) -> str:
    """Name of the program that `pid` runs; empty if it is gone or not ours to see."""
    try:
        name = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""
    # Debian's programs are called slurmd-wlm and slurmctld-wlm; an upgrade deletes running ones.
    return name.removesuffix(" (deleted)").removesuffix("-wlm")


def _pids() -> Iterator[int]:
    me = os.getpid()
    return (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != me)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
