"""A rank without torch: does what GLUELINE_STANDIN says. Started by a real torchrun."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from training.rundir import RunDir, write_json

parser = argparse.ArgumentParser()
parser.add_argument("--run", required=True)
parser.add_argument("--attempt", type=int, required=True)
words = parser.parse_args()
run = RunDir(words.run)
rank, node = int(os.environ["RANK"]), int(os.environ["GLUELINE_NODE"])
plan = os.environ.get("GLUELINE_STANDIN", "ok").split(":")
seconds = float(os.environ.get("GLUELINE_STANDIN_SECONDS", "0"))

log = run.rank_log(words.attempt, node, rank).open("a", buffering=1)
os.dup2(log.fileno(), 1)
os.dup2(log.fileno(), 2)
stopped = []
if plan[0] != "deaf":
    signal.signal(signal.SIGUSR2, lambda *_: stopped.append(1))
keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "GLUELINE_NODE", "MASTER_ADDR")
keys += ("MASTER_PORT", "HF_HUB_OFFLINE", "DS_ACCELERATOR", "SLURM_JOB_ID")
seen = {key: os.environ.get(key) for key in keys} | {"pid": os.getpid(), "host": os.uname()[1]}
write_json(run.logs(words.attempt) / f"seen-{rank}.json", seen)
print(f"rank {rank} starts", flush=True)


def fail(message: str, secondary: bool = False) -> None:
    error = {
        "time": time.time(),
        "kind": words_of_plan.get("kind", "ValueError"),
        "message": message,
        "traceback": "",
        "secondary": secondary,
    }
    write_json(run.rank_error(words.attempt, node, rank), error)
    sys.exit(1)


def wait(limit: float) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end and not stopped:
        time.sleep(0.05)


# "raise:3:once" fails in the first attempt only, "kind=OSError" says what the error is called.
words_of_plan = {key: value for key, _, value in (w.partition("=") for w in plan[2:])}
spared = "once" in words_of_plan and words.attempt > 0
if spared:
    plan = ["ok"]
    seconds = 0.0
guilty = len(plan) > 1 and int(plan[1]) == rank
if plan[0] == "raise" and guilty:
    time.sleep(0.5)
    fail(words_of_plan.get("message", "the data ran out"))
if plan[0] == "kill" and guilty:
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
if plan[0] == "exit" and guilty:
    sys.exit(3)
if plan[0] in ("raise", "kill", "exit"):
    # A peer in a collective: TERM does not move it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)
if plan[0] == "deaf":
    # Still importing: the handler stands only later.
    time.sleep(3)
    signal.signal(signal.SIGUSR2, lambda *_: stopped.append(1))
if plan[0] == "once" and words.attempt > 0:
    seconds = 0.0
wait(seconds)
if rank == 0:
    progress = {"step": 1, "attempt": words.attempt, "interrupted": bool(stopped)}
    Path(run.progress).write_text(json.dumps(progress))
    if not stopped:
        write_json(run.results, {"run_id": run.run_id, "metrics": {}})
