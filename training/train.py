"""One rank of a run, started by torchrun: `-m training.train --run DIR --attempt N`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from .rundir import RunDir, write_json

_STOP = False


def _raise_stop(signum: int, frame: object) -> None:
    global _STOP
    _STOP = True


def stop_raised() -> bool:
    """Return whether this rank was told to stop at the next step boundary."""
    return _STOP


def _redirect(log: Path) -> None:
    """Send this rank's output to its own log, that of libraries below Python included."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


_PEER_DIED = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "connection refused",
    "socket timeout",
    "nccl",
    "remote process exited",
    "timed out waiting",
    "failed to recv",
    "application timeout",
    "peer closed",
)
"""What collectives say when another rank is gone: the effect, not the cause."""


def is_secondary(error: BaseException) -> bool:
    """Return whether an error only follows from another rank's death."""
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(w in text for w in _PEER_DIED)


def kind_of(error: BaseException) -> str:
    """Return what an error is called in the report: its class, or DiskFull."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "DiskFull"
    return type(error).__name__


def prepare_environment() -> None:
    """Set what libraries read when they are imported, where nobody set it.

    Kernels that oneDNN builds for a shape are kept, by itself and by torch's layer above it;
    micro-batches have hundreds of shapes. A micro-batch uses some forty of them again and again: a
    thousand (the default of both) are half a gigabyte, and no faster.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")


def main(argv: list[str] | None = None) -> int:
    """Run one rank; return 0 when it is done or was interrupted cleanly, else 1."""
    # First of all: a signal that comes while libraries are imported must not end the rank.
    signal.signal(signal.SIGUSR2, _raise_stop)
    signal.signal(signal.SIGTERM, _raise_stop)
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--attempt", type=int, default=0)
    args = parser.parse_args(argv)
    prepare_environment()
    run = RunDir(args.run)
    rank = int(os.environ.get("RANK", "0"))
    node = int(os.environ.get("GLUELINE_NODE", os.environ.get("GROUP_RANK", "0")))
    _redirect(run.rank_log(args.attempt, node, rank))
    try:
        from .session import run_training

        run_training(run, args.attempt, stop_raised)
    except BaseException as error:
        traceback.print_exc()
        report = {
            "time": time.time(),
            "kind": kind_of(error),
            "message": str(error),
            "traceback": traceback.format_exc(),
            "secondary": is_secondary(error),
        }
        if isinstance(blame := getattr(error, "blame", None), str):
            # Another host than this rank's may be to blame, and rank 0 alone tells the story.
            report |= {"blame": blame, "secondary": getattr(error, "secondary", False)}
        # On a full disk nobody can write it; the log, which is there, has it too.
        with contextlib.suppress(OSError):
            write_json(run.rank_error(args.attempt, node, rank), report)
        return 1
    # The interpreter takes its handlers away while it ends; a signal that is repeated then would
    # kill a rank that has done its work. What is ignored stays ignored.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines keep process groups alive, and a thread of theirs that lets go of a tensor while the
    # interpreter ends aborts it: a run that has finished would count as failed. Threads of a dead
    # collective would keep it from ending at all.
    os._exit(code)
