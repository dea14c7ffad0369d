"""Running the machine's own commands."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from slurm.cluster.errors import ClusterError

# Daemons lie in sbin, which a user's PATH often lacks.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(argv: list[str], stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """Run `argv` and return what it printed. Raises ClusterError with its last line if it fails."""
    done = attempt(argv, stdin, env)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        raise ClusterError(f"{argv[0]} failed: {last}", done.stderr)
    return done.stdout


def attempt(
    argv: list[str], stdin: str = "", env: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `argv` for at most `seconds`, whatever comes of it. Raises ClusterError if it cannot."""
    clean = {"PATH": PATH, "LANG": "C.UTF-8"} | dict(env or {})
    try:
        return subprocess.run(
            argv, input=stdin, env=clean, cwd="/", capture_output=True, text=True, timeout=seconds
        )
    except FileNotFoundError:
        raise ClusterError(f"{argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(argv[:3])} … did not end within {seconds:.0f} s") from None


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log; empty if there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
