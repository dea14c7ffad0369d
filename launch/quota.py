"""What a quota leaves us on a file system: `statvfs` does not tell where it is the narrower one.

Asked are the tools of the file system at hand: `lfs quota` on Lustre, `xfs_quota` on XFS, `quota`
elsewhere (NFS, ext4). A tool that is missing, slow or says something else tells nothing.
"""

from __future__ import annotations

import getpass
import grp
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SECONDS = 3.0
"""How long a tool may take: one that asks a dead server would hang."""
KILO = 1024

_NUMBER = re.compile(r"^\[?(\d+)\]?\*?$")


@dataclass(frozen=True)
class Quota:
    """One quota on space."""

    whose: str
    """`user alice`, `group physics`."""
    used: int
    """Bytes."""
    limit: int
    """Bytes: the hard limit, or the soft one where there is no other."""

    @property
    def free(self) -> int:
        """Bytes that may still be written."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True)
class Mount:
    """Where a folder lies."""

    source: str
    place: str
    kind: str


Parser = Callable[[str, Mount], "tuple[int, int] | None"]


def narrowest(folder: Path) -> Quota | None:
    """Return the quota that leaves least on a folder's file system; None where none is known."""
    mount = mount_of(folder)
    if mount is None:
        return None
    return min(_quotas(mount), key=lambda quota: quota.free, default=None)


def mount_of(folder: Path, mounts: str | None = None) -> Mount | None:
    """Return the mount that a folder (which need not exist) lies on.

    Args:
        folder: an absolute path.
        mounts: text of /proc/mounts.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return None
    folder = folder.resolve()
    best: Mount | None = None
    for line in mounts.splitlines():
        words = [w.encode().decode("unicode_escape") for w in line.split(" ")]
        if len(words) < 3 or not folder.is_relative_to(words[1]):
            continue
        # Later mounts cover earlier ones of the same place.
        if best is None or len(Path(words[1]).parts) >= len(Path(best.place).parts):
            best = Mount(words[0], words[1], words[2])
    return best


def _quotas(mount: Mount) -> Iterator[Quota]:
    user = _user()
    groups = _groups()
    if mount.kind == "lustre":
        yield from _read(
            parse_quota, f"user {user}", mount, "lfs", "quota", "-u", user, mount.place
        )
        for group in groups:
            words = ("lfs", "quota", "-g", group, mount.place)
            yield from _read(parse_quota, f"group {group}", mount, *words)
    elif mount.kind == "xfs":
        for kind, name in (("user", user), *(("group", group) for group in groups)):
            ask = f"quota -N -b -{kind[0]} {name}"
            words = ("xfs_quota", "-c", ask, mount.place)
            yield from _read(parse_xfs_quota, f"{kind} {name}", mount, *words)
    elif mount.kind not in ("tmpfs", "ramfs", "overlay", "proc", "sysfs"):
        yield from _read(parse_quota, f"user {user}", mount, "quota", "-w", "-u")
        for group in groups:
            yield from _read(parse_quota, f"group {group}", mount, "quota", "-w", "-g", group)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _groups() -> list[str]:
    """Return the names of our groups: the file's own first; a few, each is a command."""
    found = []
    for number in dict.fromkeys([os.getgid(), *os.getgroups()]):
        try:
            found.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return found[:3]


def _read(parse: Parser, whose: str, mount: Mount, *command: str) -> Iterator[Quota]:
    if shutil.which(command[0]) is None:
        return
    try:
        # `quota` ends with 1 where a quota is exceeded, and prints it all the same.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    seen = parse(done.stdout, mount)
    if seen is not None:
        yield Quota(whose, *seen)


def parse_quota(text: str, mount: Mount) -> tuple[int, int] | None:
    """Return bytes used and their limit for a mount, from `quota -w` or `lfs quota`.

    Both print a table of kilobytes: file system, used, soft limit, hard limit, grace, then the
    same of files. A long name stands on a line of its own. Used space that is over the soft limit
    has a star, and brackets where a server could not be asked.
    """
    lines = text.splitlines()
    for place, line in enumerate(lines):
        words = line.split()
        if not words or words[0].rstrip("/") not in (mount.source, mount.place.rstrip("/")):
            continue
        rest = words[1:] or (lines[place + 1].split() if place + 1 < len(lines) else [])
        return _limits(rest)
    return None


def parse_xfs_quota(text: str, mount: Mount) -> tuple[int, int] | None:
    """Return bytes used and their limit for a mount, from `xfs_quota -c 'quota -N -b …'`.

    A line: file system, used, soft limit, hard limit (kilobytes), warnings, grace, mount point.
    """
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == mount.source and words[-1].rstrip("/") == mount.place.rstrip("/"):
            return _limits(words[1:])
    return None


def _limits(words: list[str]) -> tuple[int, int] | None:
    numbers = []
    for word in words[:3]:
        match = _NUMBER.match(word)
        if match is None:
            return None
        numbers.append(int(match[1]) * KILO)
    if len(numbers) < 3:
        return None
    used, soft, hard = numbers
    limit = hard or soft
    return (used, limit) if limit else None
