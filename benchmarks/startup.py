"""How long commands take to answer: medians of five, in seconds.

    python benchmarks/startup.py [--data DIR]

The bounds are half a second for `--help` and one and a half for `submit --dry-run`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launch.main import COMMANDS  # noqa: E402

HELP_BOUND = 0.5
DRY_RUN_BOUND = 1.5
REPEATS = 5


def median_seconds(command: list[str], folder: str) -> float:
    """Return the median wall time of a command that must succeed."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - start)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return statistics.median(times)


def measure(data: Path | None) -> list[tuple[str, float, float]]:
    """Return (line, median in seconds, bound) of every command's help and of a dry run."""
    lines = [(f"{name} --help", HELP_BOUND) for name in COMMANDS]
    dry = "submit --dry-run --executor local --procs-per-node 2 "
    real = f"--task mnli --model minilm --data {data.resolve()}" if data else ""
    dry += real or "--task demo --model tiny"
    lines.append((dry, DRY_RUN_BOUND))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for line, bound in lines:
            name, *rest = line.split(" ")
            command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *rest]
            found.append((line, median_seconds(command, folder), bound))
    return found


def main() -> int:
    """Print the table; the exit status is 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder that holds glue/ in hub layout")
    rows = measure(parser.parse_args().data)
    print(f"{'median':>8}  {'bound':>6}  command")
    for line, seconds, bound in rows:
        print(f"{seconds:>7.2f}s  {bound:>5.1f}s  {line}{'' if seconds < bound else '  TOO SLOW'}")
    return int(any(seconds >= bound for _, seconds, bound in rows))


if __name__ == "__main__":
    sys.exit(main())
