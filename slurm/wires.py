"""The network between machines, looked at from one of them. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

CONNECT_SECONDS = 3.0
_SIOCGIFADDR = 0x8915
"""ioctl(2) of Linux: the IPv4 address of an interface."""


class Listeners:
    """Servers on several ports, and one anywhere that tells the time, while the block lasts."""

    def __init__(self, ports: list[int]) -> None:
        self._wanted = ports
        self._open: list[socket.socket] = []
        self.taken: list[int] = []
        """Ports that somebody else holds."""
        self.time_port = 0

    def __enter__(self) -> Listeners:
        for port in dict.fromkeys(self._wanted):
            try:
                self._serve(port)
            except OSError:
                self.taken.append(port)
        clock = self._serve(0)
        self.time_port = clock.getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._open:
            with contextlib.suppress(OSError):
                # Wakes the thread that waits in accept.
                server.shutdown(socket.SHUT_RDWR)
            server.close()

    def _serve(self, port: int) -> socket.socket:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
            server.listen(64)
        except OSError:
            server.close()
            raise
        self._open.append(server)
        threading.Thread(target=_tell_time, args=(server,), daemon=True).start()
        return server


def _tell_time(server: socket.socket) -> None:
    while True:
        try:
            caller, _ = server.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), caller:
            caller.sendall(struct.pack("!d", time.time()))


def connect_all(host: str, ports: list[int]) -> dict[str, str]:
    """Return what came of connecting to each port: the empty text, or the reason it failed."""

    def one(port: int) -> str:
        try:
            with socket.create_connection((host, port), CONNECT_SECONDS) as link:
                # A firewall may accept in the server's stead.
                return "" if len(link.recv(8)) == 8 else "closed at once"
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__

    with ThreadPoolExecutor(max(1, len(ports))) as pool:
        return dict(zip(map(str, ports), pool.map(one, ports), strict=True))


def clock_ahead(host: str, port: int) -> float | None:
    """Return by how many seconds another host's clock is ahead; None if it does not answer.

    The middle of the exchange, as in NTP (RFC 5905, section 8): right to half its duration.
    """
    best: tuple[float, float] | None = None
    for _ in range(3):
        try:
            before = time.time()
            with socket.create_connection((host, port), CONNECT_SECONDS) as link:
                told = link.recv(8)
            after = time.time()
        except OSError:
            return None
        if len(told) == 8:
            ahead = struct.unpack("!d", told)[0] - (before + after) / 2
            best = min(best or (after - before, ahead), (after - before, ahead))
    return best[1] if best else None


def address_of(host: str) -> str | None:
    """Return the IPv4 address that a name stands for here; None if it stands for none."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None


def interfaces() -> dict[str, str]:
    """Return the IPv4 addresses of this machine's interfaces by their names, without `lo`."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, asked)
                found[name] = socket.inet_ntoa(answer[20:24])
    return {name: address for name, address in found.items() if not address.startswith("127.")}


def way_to(host: str) -> str | None:
    """Return the interface by which packets leave for another host; None where unknown."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # UDP: nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    return next((name for name, address in interfaces().items() if address == own), None)


def internet(url: str, environ: Any = os.environ) -> dict[str, Any]:
    """Return whether the server of a URL, or the proxy before it, takes a connection."""
    if not url:
        return {}
    target, proxy = urlsplit(url), environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if proxy:
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = target.port or (443 if target.scheme == "https" else 80)
    told = {"host": target.hostname, "proxy": bool(proxy)}
    try:
        with socket.create_connection((target.hostname or "", port), CONNECT_SECONDS):
            return told | {"reached": True}
    except OSError as error:
        return told | {"reached": False, "said": error.strerror or str(error)}
