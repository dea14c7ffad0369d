"""What killed processes left behind: temporary folders and locks whose owner is gone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from .lock import start_time

OLD_SECONDS = 2 * 86400.0
"""What nobody of this machine owns is left alone for so long: another machine may be at it."""

_OWNED = re.compile(r"^\..+\.(?P<host>[^/]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")
_OURS = (
    re.compile(r"^\..+\.(?P<pid>\d+)\.tmp$"),
    re.compile(r"^\.tmp-.+-(?P<pid>\d+)$"),
    re.compile(r"^\..+\.part$"),
    re.compile(r"^\.datasets-"),
    re.compile(r"^\..+\.lock$"),
    re.compile(r"^\..+\.discarded\.tmp$"),
)

PLACES = ("", "tokens", "tokenizers", "prepared", "code", "hub/models", "hub/datasets")


def leftovers(cache: Path, now: float | None = None) -> Iterator[Path]:
    """Yield what lies below a cache, and beside it, that no living process is still writing.

    A name that tells host and process is judged by them; any other by its age.
    """
    now = time.time() if now is None else now
    for place in (cache.parent, *(cache / name for name in PLACES)):
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            if not entry.name.startswith("."):
                continue
            owned = _OWNED.match(entry.name)
            if owned and owned["host"] == socket.gethostname():
                if start_time(int(owned["pid"])) is None:
                    yield Path(entry.path)
            elif owned or any(pattern.match(entry.name) for pattern in _OURS):
                with contextlib.suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > OLD_SECONDS:
                        yield Path(entry.path)


def remove_dead(cache: Path) -> None:
    """Remove what `leftovers` yields; what cannot be removed stays."""
    for path in leftovers(cache):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
