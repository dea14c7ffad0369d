"""Starts ranks quickly: imports everything once, then forks them, a job after the other.

Each line of standard input is a job (see `Job`), as JSON; the answer is a line with the exit codes
of its ranks. What a rank does is the `main` of a module, as under torchrun.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}

PATIENCE = 5.0
"""Seconds until the other ranks of one that failed are killed: torchrun would end them too."""
NEEDED = ("accelerate", "datasets", "deepspeed", "scipy.stats", "sklearn.metrics", "tokenizers")
NEEDED += ("transformers.models.bert.modeling_bert", "transformers.tokenization_utils_tokenizers")
NEEDED += ("training.session",)
"""What ranks import; else each of them would."""


@dataclass(frozen=True)
class Job:
    """Some ranks of one module."""

    module: str
    words: list[str]
    """What `sys.argv` has behind the program."""
    world_size: int
    env: dict[str, str] = field(default_factory=dict)
    """On top of this process's."""
    said: str = os.devnull
    """The file that takes what ranks print and complain of."""
    timeout: float = 120.0
    """Seconds until the ranks are killed."""


def become_rank(job: Job, rank: int, port: int) -> None:
    """Be one rank of a job, to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open(job.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.world_size}
    place |= {"LOCAL_WORLD_SIZE": job.world_size, "GLUELINE_NODE": 0}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {**job.env, **{key: str(value) for key, value in place.items()}}
    os.chdir("/")
    sys.argv = [job.module, *job.words]
    code = 1
    try:
        code = importlib.import_module(job.module).main() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_job(job: Job) -> list[int]:
    """Return the exit codes of a job's ranks; minus 9 for those that were killed."""
    from .ports import free_port

    port = free_port()
    pids = []
    for rank in range(job.world_size):
        pid = os.fork()
        if pid == 0:
            become_rank(job, rank, port)
        pids.append(pid)
    codes: dict[int, int] = {}
    deadline = time.monotonic() + job.timeout
    while len(codes) < len(pids):
        time.sleep(0.02)
        for rank in set(range(len(pids))) - codes.keys():
            pid, status = os.waitpid(pids[rank], os.WNOHANG)
            if pid:
                codes[rank] = os.waitstatus_to_exitcode(status)
                if codes[rank]:
                    deadline = min(deadline, time.monotonic() + PATIENCE)
        if time.monotonic() > deadline:
            for rank in set(range(len(pids))) - codes.keys():
                os.kill(pids[rank], signal.SIGKILL)
    return [codes[rank] for rank in range(len(pids))]


def main() -> None:
    """Answer jobs until the input ends."""
    for name in NEEDED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(json.dumps(run_job(Job(**json.loads(line)))) + "\n")


if __name__ == "__main__":
    main()
