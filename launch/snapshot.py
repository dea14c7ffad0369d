"""The code as it was at submission: a job that waits in the queue runs that, not what came after.

`<runs>/.cache/code/<digest>/` holds our packages, uncommitted changes included; one folder for
each distinct tree, made once. Where glueline is installed for good (no clone, not editable), there
is nothing to copy: its version says which code it is.
"""

from __future__ import annotations

import compileall
import functools
import hashlib
import os
import py_compile
import shutil
import socket
import uuid
from pathlib import Path

from slurm.command import project_root, python_path
from training.config import RunConfig, UsageError
from training.rundir import sync_path

PACKAGES = ("launch", "slurm", "training", "configs")
SUFFIXES = (".py", ".yaml")


@functools.cache
def tree() -> dict[str, bytes]:
    """Return the content of every file of our packages by relative path, read once a process."""
    return read_tree(project_root())


def read_tree(root: Path) -> dict[str, bytes]:
    """Return the content of every file of the packages below a folder, by relative path.

    Raises:
        UsageError: a file cannot be read.
    """
    found: dict[str, bytes] = {}
    try:
        for package in PACKAGES:
            for place, folders, files in os.walk(root / package):
                folders[:] = sorted(f for f in folders if f != "__pycache__" and f[0] != ".")
                for name in sorted(files):
                    if name.endswith(SUFFIXES) and name[0] != ".":
                        path = Path(place) / name
                        found[path.relative_to(root).as_posix()] = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from None
    return found


def digest(files: dict[str, bytes]) -> str:
    """Return a digest of a tree: paths and contents."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def code_digest(config: RunConfig) -> str | None:
    """Return the digest of the code that a job submitted now runs; None where none is copied."""
    if not config.cluster.snapshot or python_path() is None:
        return None
    return digest(tree())


def code_root(config: RunConfig, cache: Path) -> Path | None:
    """Return the folder that a job finds our packages in; None where Python finds them itself.

    Nothing is made: `keep_snapshot` does that.
    """
    name = code_digest(config)
    if name is not None:
        return cache / "code" / name
    root = python_path()
    return None if root is None else Path(root)


def keep_snapshot(config: RunConfig, cache: Path) -> tuple[Path | None, bool]:
    """Make the snapshot that `code_root` names, if it is not there.

    Returns:
        Its folder, None where none is made; and whether this call made it.

    Raises:
        UsageError: it cannot be written.
    """
    name = code_digest(config)
    if name is None:
        return None, False
    place = cache / "code" / name
    if place.is_dir():
        if digest(read_tree(place)) == name:
            return place, False
        # Somebody changed it: jobs that start from now on get what they were promised.
        place.rename(place.with_name(f".{name}.{os.getpid()}.discarded.tmp"))
    owner = f"{socket.gethostname()}.{os.getpid()}"
    temporary = place.with_name(f".{name}.{owner}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _write(temporary, place)
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():  # another submission of the same code was first
                raise
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write the code into {place.parent}: {reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place, True


def _write(folder: Path, place: Path) -> None:
    for name, content in tree().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
    # Compiled here, once: the files do not change, so ranks need not even look at their times.
    compileall.compile_dir(
        folder,
        quiet=2,
        stripdir=str(folder),
        prependdir=str(place),  # what a traceback shows
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    sync_path(folder)


def remove_snapshot(place: Path) -> None:
    """Remove a snapshot that no job runs from, and the cache's folders that are empty then."""
    shutil.rmtree(place, ignore_errors=True)
    for folder in (place.parent, place.parent.parent):
        try:
            folder.rmdir()
        except OSError:
            return
