"""Jobs of this machine: submitit's local executor, detached from the terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm.command import on_cpu
from training.config import RunConfig, UsageError
from training.rundir import RunDir
from training.sweepdir import SweepDir

from .executor import python_path_lines, signal_seconds

if TYPE_CHECKING:
    from submitit import LocalExecutor


def local_executor(config: RunConfig, run: RunDir | SweepDir) -> LocalExecutor:
    """Return submitit's executor for a job of this machine.

    Raises:
        UsageError: several nodes are asked for.
    """
    from submitit import LocalExecutor
    from submitit.local.local import LocalJob

    class DetachedExecutor(LocalExecutor):
        """submitit's, but the job outlives the terminal, and sees the GPUs that we see.

        submitit's own start leaves the controller in our session, where Ctrl-C and a closed
        terminal reach it, and sets CUDA_VISIBLE_DEVICES to 0,1,… whatever it was.
        """

        def _submit_command(self, command: str) -> LocalJob[Any]:
            self.folder.mkdir(parents=True, exist_ok=True)
            process = start_detached(config, run.cache, self.folder, command)
            return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])

    if config.cluster.nodes > 1:
        raise UsageError("--executor local has one node: use --procs-per-node")
    executor = DetachedExecutor(
        folder=run.submitit,
        max_num_timeout=config.cluster.max_requeues,
        python=shlex.quote(sys.executable),
    )
    executor.update_parameters(timeout_min=config.cluster.time_minutes)
    return executor


def start_detached(
    config: RunConfig, cache: Path, folder: Path, command: str
) -> subprocess.Popen[bytes]:
    """Start submitit's local controller in a session of its own; its pid is the job's id."""
    minutes = config.cluster.time_minutes
    environment = dict(os.environ) | config.cluster.env
    environment |= {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_TIMEOUT_S": str(minutes * 60),
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(signal_seconds(minutes)),
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_STDERR_TO_STDOUT": "1",
        "SUBMITIT_LOCAL_WITH_SHELL": "",  # we `exec`: the controller's pid is the shell's
        "CUDA_VISIBLE_DEVICES": visible_gpus(config, os.environ.get("CUDA_VISIBLE_DEVICES")),
    }
    # As `-m submitit.local._local` does, which starts a job again five times and no more.
    run = f"own.Controller(own.Path(sys.argv[1])).run({config.cluster.max_requeues + 1})"
    code = f"import sys, submitit.local._local as own; {run}"
    if config.cluster.notify:
        code = f"""
import subprocess, sys, submitit.local._local as own
status = 1
try:
    {run}
    status = 0
finally:
    notice = [sys.executable, "-u", "-m", "slurm.notice", {str(folder.parent)!r}, str(status)]
    subprocess.run(notice)
"""
    controller = [sys.executable, "-c", code, str(folder)]
    script = "\n".join(
        [*config.cluster.setup, *python_path_lines(config, cache), f"exec {shlex.join(controller)}"]
    )
    with (folder / "controller.log").open("ab") as log:
        return subprocess.Popen(
            ["/bin/bash", "-c", script],
            env=environment,
            cwd=folder.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def visible_gpus(config: RunConfig, ours: str | None) -> str:
    """Return CUDA_VISIBLE_DEVICES of a local job: the first GPUs of those that we may use."""
    if on_cpu(config):
        return ""
    count = config.cluster.gpus_per_node or config.cluster.procs_per_node or 1
    names = [str(i) for i in range(count)] if ours is None else ours.split(",")
    return ",".join(names[:count])
