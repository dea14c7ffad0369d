"""How long `status` takes over a thousand runs, and how often it asks Slurm.

    python -m benchmarks.status [--runs 1000]

The runs are made up: finished, failed, interrupted, running and queued ones, with the files that
such runs have. `squeue`, `sacct` and `scontrol` are stand-ins that answer for the jobs they are
asked for and count how often. The bounds are 1 s for all runs and 0.5 s for one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.rundir import RunDir, append_line, write_json  # noqa: E402

ALL_BOUND, ONE_BOUND = 1.0, 0.5
REPEATS = 5
FIRST_JOB = 5_000_000

STANDIN = """#!/bin/bash
name=$(basename "$0")
echo "$name ${#*}" >> "$GLUELINE_CALLS"
ids=$(printf '%s\\n' "$@" | grep -E '^[0-9]+(,[0-9]+)*$' | tr ',' '\\n')
case $name in
squeue) for i in $ids; do
    [ $((i % 10)) = 8 ] && echo "$i|RUNNING|2026-01-02T03:04:05|2026-01-02T03:05:05|x|node1|None"
    [ $((i % 10)) = 9 ] && echo "$i|PENDING|2026-01-02T03:04:05|N/A|x||Priority"
    true; done;;
sacct) for i in $ids; do
    echo "$i|FAILED|1:0|2026-01-02T03:04:05|2026-01-02T03:05:05|x|node1|None"; done;;
*) exit 1;;
esac
"""


def make_runs(folder: Path, count: int) -> None:
    """Make run directories: of ten, six finished, one failed, one interrupted, two in Slurm."""
    for number in range(count):
        run = RunDir(folder / f"mnli-bert-base-b32-s{number}-{number:06x}")
        kind = number % 10
        run.logs(0).mkdir(parents=True)
        run.config.write_text("task: {name: mnli}\n")
        job = {"job_id": str(FIRST_JOB + number), "executor": "slurm", "first_attempt": 0}
        write_json(run.jobs, {"jobs": [job | {"time": 1767323000.0}]}, durable=False)
        progress = {"step": number, "total_steps": 1000, "loss": 0.5, "phase": "training"}
        progress |= {"primary_metric": "accuracy", "primary_value": 0.8, "attempt": 0}
        if kind != 9:
            write_json(run.progress, progress, durable=False)
            append_line(run.metrics, {"kind": "train", "step": number, "loss": 0.5})
            node = {"host": "node1", "job_id": job["job_id"], "attempt": 0, "start": 1.0}
            end = {6: "failed", 7: "interrupted", 8: None}.get(kind, "finished")
            cause = {"time": 1.0, "kind": "ValueError", "message": "no rows", "rank": 0}
            node |= {"end": end, "ended": end and 2.0, "cause": cause if kind == 6 else None}
            for place in range(4):
                write_json(run.node(0, place), node | {"node": place}, durable=False)
        if kind < 6:
            results = {"metrics": {}, "primary_metric": "accuracy", "primary_value": 0.8}
            write_json(run.results, results | {"steps": 1000}, durable=False)
        elif kind in (6, 7):
            checkpoint = run.checkpoints / f"step-{number}"
            checkpoint.mkdir(parents=True)
            write_json(checkpoint / "manifest.json", {"format": 1, "files": {}}, durable=False)


def stand_in(folder: Path) -> dict[str, str]:
    """Put stand-ins for Slurm's commands into a folder; return the environment that finds them."""
    folder.mkdir()
    for name in ("squeue", "sacct", "scontrol"):
        path = folder / name
        path.write_text(STANDIN)
        path.chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    return {"PATH": f"{folder}:{os.environ['PATH']}", "GLUELINE_CALLS": str(calls)}


def measure(words: list[str], environment: dict[str, str]) -> tuple[float, Counter[str]]:
    """Return the median seconds of `glueline status`, and how often it ran each command."""
    calls = Path(environment["GLUELINE_CALLS"])
    times = []
    for _ in range(REPEATS):
        calls.write_text("")
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, str(ROOT / "launch" / "status.py"), *words],
            env={**os.environ, "COLUMNS": "160", **environment},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - begin)
    return statistics.median(times), Counter(line.split()[0] for line in calls.open())


def main() -> int:
    """Print the table; the exit status is 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "runs"
        make_runs(folder, count)
        environment = stand_in(Path(place) / "bin")
        where = ["--runs", str(folder)]
        failed = f"mnli-bert-base-b32-s6-{6:06x}"
        rows = [
            (f"status, {count} runs", where, ALL_BOUND),
            (f"status --json, {count} runs", [*where, "--json"], ALL_BOUND),
            ("status RUN, a failed one", [failed, *where], ONE_BOUND),
        ]
        late = False
        print("| command | median, s | bound, s | asks Slurm |\n|---|---|---|---|")
        for name, words, bound in rows:
            seconds, calls = measure(words, environment)
            asked = ", ".join(f"{n} × {k}" for k, n in calls.items()) or "no"
            print(f"| {name} | {seconds:.2f} | {bound:.1f} | {asked} |")
            late |= seconds >= bound
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
