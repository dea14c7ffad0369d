"""What one machine is and has, without importing anything heavy."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slurm import wires
from slurm.command import project_root

NVIDIA = ("name", "memory.total", "memory.used", "driver_version")
"""What nvidia-smi is asked for each GPU; memory in MiB."""


def facts(packages: Iterable[str]) -> dict[str, Any]:
    """Return versions, cores, memory, GPUs and network interfaces of this machine."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": {name: version(name) for name in packages},
        "code": code_hash(),
        "cores": len(os.sched_getaffinity(0)),
        "machine_cores": os.cpu_count(),
        "memory_mb": memory_mb(),
        "gpus": gpus(),
        "interfaces": wires.interfaces(),
        "open_files": _open_files(),
    }


def version(package: str) -> str | None:
    """Return the version of an installed package; None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_hash() -> str:
    """Return a short hash of our own code, equal on two machines that see the same."""
    digest, root = hashlib.sha256(), project_root()
    for package in ("slurm", "training"):
        for path in sorted((root / package).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def memory_mb(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the machine's memory in MiB."""
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemTotal:"))
    except (OSError, StopIteration, ValueError):
        return None


def gpus() -> list[dict[str, str]]:
    """Return what nvidia-smi says of the GPUs that this process may use; empty without any."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    words = [tool, f"--query-gpu={','.join(NVIDIA)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(NVIDIA, row, strict=True)) for row in rows if len(row) == len(NVIDIA)]


def _open_files() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
