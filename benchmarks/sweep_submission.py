"""How long it takes to compile and submit a large sweep, on a virtual cluster.

    python -m benchmarks.sweep_submission [--trials 1000] [--trials 10000]

The data is prepared, the array is held, and a Python of its own types the line, as a person does.
The exit status is 1 if a bound is missed: 3 s for 1,000 trials, 20 s for 10,000, and one sbatch
for each array that the trials need.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slurm.cluster import ClusterConfig, VirtualCluster

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = {1000: 3.0, 10000: 20.0}
LINE = ["--task", "demo", "--model", "tiny", "--tracker", "none", "--hold", "--json"]
SEEDS = 10


def grid(trials: int) -> list[str]:
    """Return flags that make about so many trials: batches, learning rates, seeds."""
    rates = ",".join(f"{1e-5 * (i + 1):.6g}" for i in range(trials // (SEEDS * 5)))
    return ["--grid", "global_batch=16,32,64,128,256", "--grid", f"lr={rates}"]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, action="append")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(prefix="glueline-", dir="/var/tmp") as path:
        place = Path(path)
        state = Path(f"/var/tmp/glueline-submission-{os.getpid()}")
        more = ("MaxJobCount=30000",)
        config = ClusterConfig(state=state, nodes=4, cpus=1, share=(place,), extra_conf=more)
        with VirtualCluster(config) as cluster:
            # Every call of sbatch leaves a line.
            calls, shim = place / "calls", place / "bin"
            shim.mkdir()
            real = subprocess.check_output(["which", "sbatch"], text=True).strip()
            (shim / "sbatch").write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec {real} "$@"\n')
            (shim / "sbatch").chmod(0o755)
            env = os.environ | cluster.env()
            env["PATH"] = f"{shim}:{env['PATH']}"
            runs = ["--runs", str(place / "runs")]

            def glueline(name: str, *words: str) -> str:
                command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *words, *runs]
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"glueline {name}: {done.stderr}")
                return done.stdout

            glueline("prepare", "--task", "demo", "--model", "tiny")
            print("| trials | seconds | arrays | calls of sbatch | MB in the folder |")
            print("|---|---|---|---|---|")
            for trials in asked.trials or [1000, 10000]:
                seconds, count, arrays = [], 0, 0
                for number in range(asked.repeats):
                    calls.unlink(missing_ok=True)
                    name = f"s{trials}-{number}"
                    words = [*LINE, *grid(trials), "--seeds", str(SEEDS), "--name", name]
                    begin = time.monotonic()
                    told = json.loads(glueline("sweep", *words))
                    seconds.append(time.monotonic() - begin)
                    count, arrays = len(told["trials"]), len(told["jobs"])
                    subprocess.run(["scancel", "-u", "root"], env=env, check=False)
                sent = len(calls.read_text().splitlines())
                folder = place / "runs" / ".sweeps" / f"s{trials}-0"
                size = sum(p.stat().st_size for p in folder.rglob("*")) / 1e6
                shown = ", ".join(f"{s:.1f}" for s in seconds)
                print(f"| {count} | {shown} | {arrays} | {sent} | {size:.1f} |", flush=True)
                needed = math.ceil(count / 1001)
                missed |= min(seconds) > BOUNDS.get(trials, math.inf) or sent > needed
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
