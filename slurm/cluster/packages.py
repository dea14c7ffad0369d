"""The Debian packages that a cluster needs."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm.cluster.errors import BadRequest, ClusterError
from slurm.cluster.tools import PATH, attempt

_BASE = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sinfo": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
# Without mariadb-server, which would only add a service.
_ACCOUNTING = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
}

# What the packages' own scripts might start: program, and the service that it belongs to.
_SERVICES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "munged": "munge",
    "mariadbd": "mariadb",
}
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing(accounting: bool = True) -> list[str]:
    """The Debian packages that this machine lacks."""
    programs = _BASE | (_ACCOUNTING if accounting else {})
    return [package for program, package in programs.items() if not _which(program)]


def require(accounting: bool) -> None:
    """Raises BadRequest that says how to install what is missing."""
    if lacking := missing(accounting):
        raise BadRequest(
            f"not installed: {' '.join(lacking)} (run: python -m slurm.cluster install)"
        )


def install(say: Callable[[str], None]) -> None:
    """Install what is missing with apt-get, and leave no service running that was not before.

    Raises BadRequest without root or apt-get, ClusterError when apt-get fails.
    """
    lacking = missing()
    if not lacking:
        say("all packages are installed")
        return
    if os.geteuid() != 0:
        raise BadRequest(f"only root can install: {' '.join(lacking)}")
    if not _which("apt-get"):
        raise BadRequest(f"no apt-get here; install by other means: {' '.join(lacking)}")
    say(f"installing {' '.join(lacking)}")
    running = _running()
    with _no_service_starts():
        _apt("update", "--quiet")
        _apt("install", "--yes", "--quiet", "--no-install-recommends", *lacking)
    for program in sorted(_running() - running):
        _stop(_SERVICES[program])
    if left := missing():
        raise ClusterError(f"apt-get went through, yet these are missing: {' '.join(left)}")
    say("installed")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    # Debian asks this script before it starts a service; one that is there is someone's will.
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            _POLICY.unlink(missing_ok=True)


def _apt(*words: str) -> None:
    env = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    env["DEBIAN_FRONTEND"] = "noninteractive"
    done = attempt(["apt-get", *words], env=env, seconds=900)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise ClusterError(f"apt-get {words[0]} failed: {(errors or ['?'])[0]}", done.stderr)


def _running() -> set[str]:
    names = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                names.add((folder / "comm").read_text().strip())
            except OSError:
                continue
    return names & set(_SERVICES)


def _stop(service: str) -> None:
    if _which("systemctl") and not attempt(["systemctl", "stop", service]).returncode:
        return
    if _which("service"):
        attempt(["service", service, "stop"])


def _which(program: str) -> str | None:
    return shutil.which(program, path=PATH)
