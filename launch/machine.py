"""What this machine has: cores, GPUs, bf16, and which file systems only it can see."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .quota import mount_of

NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Folders that are each node's own on nearly every cluster."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_gpus() -> int:
    """Return the number of NVIDIA GPUs that a process started here would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len([p for p in Path("/dev").glob("nvidia*") if p.name[6:].isdigit()])
    if there == 0:  # containers and WSL have no device files
        there = len(_nvidia_smi("index"))
    if visible is None:
        return there
    return min(there, len([v for v in visible.split(",") if v.strip() not in ("", "-1")]))


def _nvidia_smi(query: str) -> list[str]:
    """Return one line a GPU of what nvidia-smi says, or nothing where it is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        answer = subprocess.run(
            [tool, f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [line.strip() for line in lines if line.strip()]


def gpu_has_bf16() -> bool | None:
    """Return whether every GPU here computes in bf16 (compute capability 8), None if unknown."""
    try:
        found = [float(line) for line in _nvidia_smi("compute_cap")]
    except ValueError:
        return None
    return all(capability >= 8.0 for capability in found) if found else None


def cpu_has_bf16(cpuinfo: str | None = None) -> bool | None:
    """Return whether PyTorch can train in bf16 on this CPU, None if that cannot be told.

    The rule is oneDNN's: AVX-512 with BW, VL and DQ (bf16 itself may be emulated there), or AMX,
    or AVX-NE-CONVERT; on Arm the bf16 extension.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return None
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        flags = set(value.split())
        if name.strip() == "flags":
            wide = {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags
            return wide or bool(flags & {"amx_bf16", "avx_ne_convert"})
        if name.strip() == "Features":
            return "bf16" in flags
    return None


def below(path: Path, folder: str | Path) -> bool:
    """Return whether a path is a folder or lies in it, links resolved."""
    return path.resolve().is_relative_to(Path(folder).resolve())


def node_local(
    path: Path,
    shared: tuple[str, ...] = (),
    mounts: str | None = None,
    known: str | None = None,
) -> str | None:
    """Return why other nodes cannot see a path, or None where they probably can.

    Args:
        path: need not exist.
        shared: folders known to be shared although they look local; those of the environment
            variable GLUELINE_SHARED (with colons between) count too.
        mounts: text of /proc/mounts.
        known: takes the place of that variable.
    """
    path = path.resolve()
    if known is None:
        known = os.environ.get("GLUELINE_SHARED", "")
    if any(below(path, folder) for folder in (*shared, *known.split(":")) if folder):
        return None
    for folder in NODE_LOCAL:
        if path.is_relative_to(folder):
            return f"{folder} is each node's own"
    mount = mount_of(path, mounts)
    if mount is not None and mount.kind in ("tmpfs", "ramfs"):
        return f"{mount.place} is in this machine's memory ({mount.kind})"
    return None


def unwritable(folder: Path) -> str | None:
    """Return why a folder cannot be made or written to, or None. Nothing is created."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            if os.access(place, os.W_OK | os.X_OK):
                return None
            return f"no permission to write in {place}"
        if place.exists() or place.is_symlink():
            return f"{place} is not a folder"
    return "it does not exist"


def memory_bytes() -> int | None:
    """Return the memory of this machine, or of the cgroup that we are in if that is less."""
    found = []
    try:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        pass
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # `max`: no limit
            continue
    return min(found, default=None)


def cpu_name() -> str:
    """Return the name of this machine's CPU as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return os.uname().machine


def gpu_memory_bytes() -> int | None:
    """Return the memory of the smallest GPU here, None where nvidia-smi does not say."""
    words = [line.split()[0] for line in _nvidia_smi("memory.total")]
    return min((int(w) << 20 for w in words if w.isdigit()), default=None)


def gpu_name() -> str | None:
    """Return the name of the first GPU here, None where there is none."""
    return next(iter(_nvidia_smi("name")), None)
