"""How much of the disk a finished trial of a sweep takes, and a thousand of them.

    python -m benchmarks.trial_size [--trials 4]

Trials of the embedded task run on this machine, one after the other, and keep what a sweep keeps
unless told otherwise: results, metrics, predictions, logs; no weights. What all trials share (the
cache of prepared rows and of the code, the sweep's own folder) is a line of its own. The exit
status is 1 if a thousand trials take more than 100 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from training.rundir import list_runs

ROOT = Path(__file__).resolve().parents[1]
BOUND = 100e6
"""Bytes of a thousand finished trials."""


def size(folder: Path) -> tuple[int, int]:
    """Return the bytes of all files below a folder, and of the blocks that they and it occupy."""
    stats = [p.lstat() for p in (folder, *folder.rglob("*"))]
    files = sum(s.st_size for p, s in zip(folder.rglob("*"), stats[1:], strict=True) if p.is_file())
    return files, sum(s.st_blocks for s in stats) * 512


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glueline-size-") as path:
        runs = Path(path) / "runs"

        def glueline(name: str, *words: str) -> None:
            command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *words]
            subprocess.run([*command, "--runs", str(runs)], check=True, stdout=subprocess.DEVNULL)

        task = ("--executor", "local", "--task", "demo", "--model", "tiny", "--tracker", "none")
        glueline("sweep", *task, "--name", "size", "--seeds", str(asked.trials))
        glueline("status", "size", "--watch")
        trials = [run for run in list_runs(runs) if run.results.exists()]
        sizes = [size(run.path) for run in trials]
        shared = [size(runs / name) for name in (".cache", ".sweeps")]
    worst, blocks = max(s[0] for s in sizes), max(s[1] for s in sizes)
    rows = [
        (f"the largest of {len(sizes)} finished trials", worst, blocks),
        ("1,000 of them", worst * 1000, blocks * 1000),
        ("shared by all", sum(s[0] for s in shared), sum(s[1] for s in shared)),
    ]
    print("| what | files, MB | blocks, MB |\n|---|---|---|")
    for name, files, occupied in rows:
        print(f"| {name} | {files / 1e6:.3f} | {occupied / 1e6:.3f} |")
    return 1 if worst * 1000 > BOUND else 0


if __name__ == "__main__":
    sys.exit(main())
