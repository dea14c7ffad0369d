"""Starts ranks quickly: imports everything once, then forks them, a run after the other.

Each line of standard input is a job, {run, attempt, world_size, timeout}; the answer is a line
with the exit codes of its ranks. What a rank does is `training.train.main`, as under torchrun.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}

import accelerate  # noqa: F401
import datasets  # noqa: F401
import deepspeed  # noqa: F401
import yaml

import training.session  # noqa: F401
from training import train

from .ports import free_port


def become_rank(job: dict, rank: int, port: int) -> None:
    """Be one rank of a job, to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    config = yaml.safe_load((Path(job["run"]) / "config.yaml").read_text())
    if config["engine"]["zero"] is not None:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["world_size"]}
    place |= {"LOCAL_WORLD_SIZE": job["world_size"], "GLUELINE_NODE": 0}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    os.chdir("/")
    code = 1
    try:
        code = train.main(["--run", job["run"], "--attempt", str(job["attempt"])])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_job(job: dict) -> list[int]:
    """Return the exit codes of a job's ranks; minus 9 for those that were killed."""
    port = free_port()
    pids = []
    for rank in range(job["world_size"]):
        pid = os.fork()
        if pid == 0:
            become_rank(job, rank, port)
        pids.append(pid)
    codes: dict[int, int] = {}
    deadline = time.monotonic() + job.get("timeout", 120)
    while len(codes) < len(pids):
        time.sleep(0.02)
        for rank in set(range(len(pids))) - codes.keys():
            pid, status = os.waitpid(pids[rank], os.WNOHANG)
            if pid:
                codes[rank] = os.waitstatus_to_exitcode(status)
                if codes[rank]:  # torchrun would end the others too
                    deadline = min(deadline, time.monotonic() + job.get("patience", 5))
        if time.monotonic() > deadline:
            for rank in set(range(len(pids))) - codes.keys():
                os.kill(pids[rank], signal.SIGKILL)
    return [codes[rank] for rank in range(len(pids))]


def main() -> None:
    """Answer jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(json.dumps(run_job(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
