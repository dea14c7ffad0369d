"""A headless Chromium that is spoken to through a pipe: what a page logs, asks for and shows."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    "chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable chrome"
).split()
PACKAGE = "chromium-headless-shell"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars "
    "--disable-background-networking --disable-component-update --no-first-run "
    "--remote-debugging-pipe"
).split()
SECONDS = 60.0


def find() -> str:
    """Return the browser's path; without one the test is skipped, and in CI one is installed."""
    if found := next((path for name in NAMES if (path := shutil.which(name))), None):
        return found
    if not os.environ.get("CI"):
        pytest.skip(f"no Chromium here: apt-get install {PACKAGE}")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGE]):
            subprocess.run(["apt-get", "-qq", *words], env=env, check=False, timeout=500)
    if found := shutil.which(PACKAGE):
        return found
    pytest.fail(f"no Chromium here, and {PACKAGE} could not be installed")


class Browser:
    """One page of a running browser, by the DevTools protocol."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer; events that come before it are kept."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            found = self._next(deadline)
            if found.get("id") == number:
                assert "error" not in found, (method, found)
                return found["result"]
            self.events.append(found)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], deadline - time.monotonic())
            assert ready, "the browser does not answer"
            block = os.read(self._receive, 1 << 20)
            assert block, "the browser is gone"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def open(self, page: Path, width: int, dark: bool = False, media: str = "screen") -> None:
        """Load a page, as wide as this, and wait until it is there."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.ask("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + SECONDS
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next(deadline))

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Return what the page logged or threw, and what the browser said of it."""
        self.value("0")  # what came until now
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e) for e in self.events if e.get("method") in kinds]

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, itself and what lies in it left out."""
        self.value("0")
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [e["params"]["request"]["url"] for e in sent]
        return [u for u in urls[1:] if not u.startswith("data:")]

    def picture(self, path: Path) -> None:
        """Write the whole page as PNG."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(data["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser with a profile of its own."""
    to_read, to_send = os.pipe()
    from_read, from_send = os.pipe()

    def hand_over() -> None:  # the protocol's pipe is the file descriptors 3 and 4
        reads, sends = os.dup(to_read), os.dup(from_send)
        high = [os.dup2(reads, 103), os.dup2(sends, 104)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    process = subprocess.Popen(
        [find(), *FLAGS, f"--user-data-dir={folder}"],
        preexec_fn=hand_over,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_send)
    try:
        yield Browser(to_send, from_read)
    finally:
        process.kill()
        process.wait()
        os.close(to_send)
        os.close(from_read)
