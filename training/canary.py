"""What `glueline doctor` has torch measure: one rank, started by torchrun as those of a run are."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .config import load_config
from .health import matrix_flops, reduce_once
from .rundir import write_json

MEET_SECONDS = 60
REDUCE_SECONDS = 2.0
ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Of the vectors that are summed: 16 MiB on CPUs, 256 MiB on GPUs (fp32)."""


def bus_bandwidth(elements: int, size: int, seconds: float) -> float:
    """Return the bandwidth of an all-reduce of fp32 in bytes per second, independent of its size.

    NVIDIA's nccl-tests (doc/PERFORMANCE.md): bytes / time × 2(n - 1)/n.
    """
    return 4 * elements / seconds * 2 * (size - 1) / size


def measure(device: torch.device) -> dict[str, Any]:
    """Return what this rank measured. Collective."""
    rank, size = dist.get_rank(), dist.get_world_size()
    elements = ELEMENTS[device.type]
    reduce_once(device, elements)  # the first one opens the connections
    best, right, end = float("inf"), True, time.perf_counter() + REDUCE_SECONDS
    # As many as rank 0 says: a rank that stopped by its own clock would leave the others waiting.
    while _agree(time.perf_counter() < end):
        seconds, good = reduce_once(device, elements)
        best, right = min(best, seconds), right and good
    dist.barrier()
    found: dict[str, Any] = {
        "rank": rank,
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "backend": dist.get_backend(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "matrix_flops": matrix_flops(device, 0.5),
        "bus_bytes_per_second": bus_bandwidth(elements, size, best) if size > 1 else None,
        "reduced_right": right,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {"free_mb": free / 2**20, "total_mb": total / 2**20, "nccl": _nccl()}
    return found


def _agree(goes_on: bool) -> bool:
    flag = torch.tensor([int(goes_on)], dtype=torch.int32)
    if dist.get_backend() == "nccl":
        flag = flag.cuda()
    dist.broadcast(flag, 0)
    return bool(flag.item())


def _nccl() -> str:
    from torch.cuda import nccl

    version = nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


def main(argv: list[str] | None = None) -> int:
    """Measure and write `rank-<r>.json`; an error goes to torchrun's log and is the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--attempt", type=int, default=0)
    folder = parser.parse_args(argv).run
    config = load_config(folder / "config.yaml")
    device = torch.device("cpu")
    if config.engine.device == "cuda":
        if not torch.cuda.is_available():
            print(f"torch {torch.__version__} sees no GPU on {socket.gethostname()}", flush=True)
            return 1
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=MEET_SECONDS))
    try:
        write_json(folder / f"rank-{dist.get_rank()}.json", measure(device))
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads of a collective that never ended must not keep the job.
    os._exit(code)
