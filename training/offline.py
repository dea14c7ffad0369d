"""A process without a network: what loads here loads on a compute node without internet."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import Any, Literal

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def forbid_network() -> Literal["namespace", "guard"]:
    """Take the network away from this process and its children. Call it before threads start.

    Where the kernel lets us, the process moves into a network namespace of its own, in which no
    interface is up: nothing gets out, from Python or from below it. Elsewhere Python's sockets
    refuse every address but local ones.

    Returns:
        Which of the two it is.
    """
    os.environ.update(OFFLINE)
    if _own_namespace():
        return "namespace"
    sys.addaudithook(_guard)
    return "guard"


def _own_namespace() -> bool:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    unshare = getattr(libc, "unshare", None)
    if unshare is None:
        return False
    if unshare(CLONE_NEWNET) == 0:  # root
        return True
    if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # We stay who we are: without it the process has nobody's name, and getpass fails.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        try:
            Path(f"/proc/self/{name}").write_text(text)
        except OSError:
            pass  # the network is gone all the same
    return True


def _guard(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" or event == "socket.sendto":
        link, address = args
        if link.family in (socket.AF_INET, socket.AF_INET6) and not _local(address):
            raise PermissionError(f"the network is forbidden here: {address}")
    elif event == "socket.getaddrinfo" and not _local(args):
        raise PermissionError(f"the network is forbidden here: {args[0]}")


def _local(address: Any) -> bool:
    host = address[0] if isinstance(address, tuple) and address else address
    return host in (None, "", "localhost", "::1", "0.0.0.0") or str(host).startswith("127.")
