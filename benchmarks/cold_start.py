"""How long a run takes from the start of its processes to its first step, data prepared.

    python -m benchmarks.cold_start --data DIR [--ranks 1,2,4] [--model minilm] [--task rte]

Prints what a rank imports, and for each number of ranks the seconds to the first step and the CPU
seconds of a rank until then. The bound is 15 s with two ranks. CPU seconds are those that the
kernel counted for the rank (all its threads), read when the first step is logged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BOUND = 15.0
WORST = 8
UNWANTED = (
    "datasets pandas pyarrow sklearn scipy wandb tensorboard deepspeed torchvision peft matplotlib"
).split()
"""Packages that a rank of plain DDP does not need before its first step."""


@dataclass(frozen=True)
class Start:
    """One start."""

    ranks: int
    seconds: float
    """From the start of torchrun to the first step's end."""
    cpu: list[float]
    """CPU seconds of each rank until then."""
    log: str
    """Output of rank 0."""


def import_times(log: str) -> dict[str, float]:
    """Return the seconds that each top-level package's own modules took to import.

    Args:
        log: what Python prints with PYTHONPROFILEIMPORTTIME.
    """
    own: dict[str, float] = {}
    for line in log.splitlines():
        match = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", line)
        if match:
            top = match[2].split(".")[0]
            own[top] = own.get(top, 0.0) + int(match[1]) / 1e6
    return own


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used, with its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ranks_of(folder: Path) -> dict[int, int]:
    """Return the pids of a run's ranks by rank."""
    found = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"training.train" not in words or str(folder).encode() not in words:
                continue
            pairs = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = dict(p.split(b"=", 1) for p in pairs if b"=" in p).get(b"RANK")
        if rank is not None and b"torch.distributed.run" not in words:
            found[int(rank)] = int(place.name)
    return found


def start(ranks: int, line: list[str], runs: Path, profile: bool = False) -> Start:
    """Start a run's ranks as the agent does, by its command.sh, and watch for its first step.

    With `profile` Python tells what it imports, in the log, and takes longer.
    """
    words = ["submit", "--executor", "local", *line, "--procs-per-node", str(ranks)]
    name = f"start-{ranks}-{time.time_ns()}"
    made = glueline(*words, "--runs", str(runs), "--name", name, "--dry-run", "--json")
    told = json.loads(made)
    folder = runs / name
    folder.mkdir()
    (folder / "config.yaml").write_text(told["config"])
    entry = next(p for p in (runs / ".cache" / "prepared").glob("*.json") if p.name != "sums.json")
    (folder / "prepared.json").write_text(json.dumps({"entry": entry.stem}))
    script = re.sub(r"^export PYTHONPATH=.*$", f"export PYTHONPATH={ROOT}", told["command"],
                    flags=re.MULTILINE)  # fmt: skip
    begin = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", script],
        env=os.environ | ({"PYTHONPROFILEIMPORTTIME": "1"} if profile else {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and '"kind": "train"' in metrics.read_text()):
            if process.poll() is not None or time.monotonic() - begin > 300:
                log = "".join(p.read_text()[-2000:] for p in folder.glob("attempts/0/logs/*.log"))
                sys.exit(f"{name} ended with {process.poll()} before its first step\n{log}")
            time.sleep(0.02)
        seconds = time.monotonic() - begin
        pids = ranks_of(folder)
        cpu = [cpu_seconds(pids[rank]) for rank in sorted(pids)]
        log = (folder / "attempts/0/logs/0-0.log").read_text()
    finally:
        for pid in ranks_of(folder).values():
            os.kill(pid, 9)
        process.kill()
        process.wait()
    return Start(ranks, seconds, cpu, log)


def glueline(name: str, *args: str) -> str:
    """Run a command of ours and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{name}.py"), *args],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"glueline {name} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def main() -> int:
    """Print the tables; the exit status is 1 if the bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds glue/")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--task", default="rte")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    line = ["--task", asked.task, "--model", asked.model, "--data", str(asked.data.resolve())]
    missed = False
    with tempfile.TemporaryDirectory(prefix="glueline-", dir="/var/tmp") as place:
        runs = Path(place) / "runs"
        begin = time.monotonic()
        glueline("prepare", *line, "--runs", str(runs))
        print(f"prepare: {time.monotonic() - begin:.1f} s\n")
        print("| ranks | to the first step, s | CPU seconds of a rank until then |")
        print("|---|---|---|")
        more = [*line, "--max-steps", "1000", "--log-every", "1", "--tracker", "none"]
        for ranks in map(int, asked.ranks.split(",")):
            starts = [start(ranks, more, runs) for _ in range(asked.repeats)]
            middle = sorted(starts, key=lambda s: s.seconds)[len(starts) // 2]
            print(
                f"| {ranks} | {middle.seconds:.1f} | {min(middle.cpu):.1f}–{max(middle.cpu):.1f} |"
            )
            missed |= ranks == 2 and middle.seconds >= BOUND
        own = import_times(start(2, more, runs, profile=True).log)
    print(f"\nimports of rank 0 of two until its first step: {sum(own.values()):.1f} s")
    for name, seconds in sorted(own.items(), key=lambda item: -item[1])[:WORST]:
        print(f"  {seconds:6.2f} s  {name}")
    print(f"not needed, but imported: {', '.join(n for n in UNWANTED if n in own) or 'nothing'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
