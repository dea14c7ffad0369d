"""From a configuration to a job: submitit's executors, set up; the texts that a person can read.

What submitit pickles is `NodeAgent(run_dir, first_attempt)`. No value of the environment is
written anywhere: secrets reach the ranks as Slurm hands the environment on.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm import container
from slurm.afterword import STATUS
from slurm.command import (
    FIRST_PORT,
    INHERITED,
    PORTS,
    fixed_environment,
    torchrun_argv,
)
from slurm.verdicts import REQUEUE
from training.config import RunConfig, UsageError, option_name
from training.rundir import RunDir
from training.sweepdir import SweepDir

from .nodes import named_gpus
from .snapshot import code_root, keep_snapshot, remove_snapshot

if TYPE_CHECKING:
    from submitit import LocalExecutor, SlurmExecutor

SIGNAL_SECONDS = 90
"""How long before the time limit the ranks are told to stop (Slurm may be a minute early)."""

MAIL_TYPES = "END,FAIL,TIME_LIMIT_90"
"""Of Slurm's mail. A job that is queued again has not ended."""

OURS = frozenset(("array", "wrap", "parsable", "test-only", "wait", "output", "error", "clusters"))
"""Options of sbatch that would break the hand-over between launch and the job."""

SCRUBBED_PREFIXES = (
    *("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SUBMITIT_"),
    *("PMI", "PMIX_", "OMPI_", "PRTE_", "PALS_", "HYDRA_", "MPI_LOCAL", "TORCHELASTIC_", "PET_"),
    *("ACCELERATE_USE_", "ACCELERATE_MIXED_PRECISION"),
    *("GLUELINE_NODE", "GLUELINE_MARK", "GLUELINE_REQUEUE", "GLUELINE_STATUS"),
)
"""What tells a process that it is part of somebody's job, or that has a job ask for other things
than its script says."""
GPU_CHOICE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""GPUs of a job are Slurm's to choose: these name those of this machine, or of an outer job. A
local run takes its GPUs from them."""


def make_executor(
    config: RunConfig,
    run: RunDir | SweepDir,
    after: str | None = None,
    parallel: int | None = None,
    hold: bool = False,
) -> SlurmExecutor | LocalExecutor:
    """Return submitit's executor, set up for this run, or for the array of a sweep.

    Args:
        config: the run.
        run: its directory, or the sweep's.
        after: a job that must have ended, in whatever way, before this one starts.
        parallel: of an array: how many of its elements run at a time.
        hold: the job waits until somebody releases it.

    Raises:
        UsageError: srun is missing, or a value cannot stand in a batch script.
    """
    check_path(run.path)
    if config.cluster.executor == "local":
        from .executor_local import local_executor

        return local_executor(config, run)
    from submitit import SlurmExecutor

    try:
        executor = SlurmExecutor(
            folder=run.submitit,
            max_num_timeout=config.cluster.max_requeues,
            python=shlex.quote(sys.executable),
        )
    except RuntimeError:  # no srun
        raise UsageError("srun is not on this machine: use --executor local") from None
    parameters = slurm_parameters(config, run, after)
    if hold:
        parameters["additional_parameters"]["hold"] = True
    if parallel is not None:
        parameters["array_parallelism"] = parallel
    executor.update_parameters(**parameters)
    return executor


def queues_again(config: RunConfig) -> bool:
    """Return whether the job may be put back into the queue after an interruption or a failure.

    Raises:
        UsageError: it is asked for, and cannot be.
    """
    asked = config.cluster.requeue
    if config.cluster.executor == "local" or asked == "no":
        return asked != "no"
    forbidden = "no-requeue" in sbatch_options(config.cluster.sbatch)
    scontrol = shutil.which("scontrol") is not None
    if asked == "yes" and forbidden:
        raise UsageError(
            "cluster.requeue is yes, but --sbatch says no-requeue: leave one of them out"
        )
    if asked == "yes" and not scontrol:
        raise UsageError(
            "cluster.requeue is yes, but scontrol is not on this machine's PATH: with "
            "--set cluster.requeue=no further jobs wait behind the first one instead"
        )
    return scontrol and not forbidden


def slurm_parameters(
    config: RunConfig, run: RunDir | SweepDir, after: str | None = None
) -> dict[str, Any]:
    """Return what submitit is told, by its own names; the arguments are those of `make_executor`.

    Raises:
        UsageError: a key or value of `cluster.sbatch` cannot be passed on, or the job cannot be
            queued again as it should.
    """
    cluster = config.cluster
    more = sbatch_options(cluster.sbatch)
    gpus = cluster.gpus_per_node or None
    if named_gpus(cluster) is not None:
        gpus = None  # said in another way, and both together ask for the sum or are refused
    fixed = cluster.min_nodes in (None, cluster.nodes)
    parameters = {
        "job_name": run.run_id,
        "nodes": cluster.nodes,
        # With it, Slurm gives a job of `--nodes=1-4` one node though four are free. srun starts one
        # task a node by itself.
        "ntasks_per_node": 1 if fixed else None,
        # sbatch takes one of the two.
        "cpus_per_task": None if "cpus-per-gpu" in more else cluster.cpus_per_node,
        "gpus_per_node": gpus,
        "mem": cluster.mem,
        "time": cluster.time_minutes,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mail_user": cluster.mail,
        "mail_type": MAIL_TYPES if cluster.mail else None,
        "signal_delay_s": signal_seconds(cluster.time_minutes),
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0"],
        "dependency": f"afterany:{after}" if after else None,
        "setup": setup_lines(config, run),
    }
    # A key of sbatch that submitit knows must replace its value, not stand beside it.
    renamed = {_SUBMITIT_NAMES.get(k, k): v for k, v in more.items()}
    # Limits of a login shell (CPU minutes, memory, locked memory) are not those of a job.
    additional: dict[str, Any] = {"chdir": str(run.path), "propagate": "NONE"}
    additional["requeue" if queues_again(config) else "no-requeue"] = True
    if not fixed:
        additional["nodes"] = f"{cluster.min_nodes}-{cluster.nodes}"
    if after and (own := str(renamed.pop("dependency", ""))) and "?" not in own:
        # What the person named, and the job before it. With `?` any one of several is enough,
        # which cannot be said together with "and": the job before has waited for it then.
        parameters["dependency"] = f"{parameters['dependency']},{own}"
    additional |= renamed
    return {
        **{k: v for k, v in parameters.items() if v is not None},
        "wckey": None,
        "additional_parameters": additional,
    }


_SUBMITIT_NAMES = {
    name.replace("_", "-"): name
    for name in (
        *("job_name", "ntasks_per_node", "cpus_per_task", "gpus_per_node", "gpus_per_task"),
        *("cpus_per_gpu", "mem_per_gpu", "mem_per_cpu", "mail_type", "mail_user"),
    )
}


def sbatch_options(given: dict[str, str]) -> dict[str, Any]:
    """Return options as submitit takes them: a switch is True.

    Raises:
        UsageError: a key is no option, is one that only glueline may set, or a value would end
            its line of the script.
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = option_name(key)
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise UsageError(f"--sbatch {key!r} is not an option of sbatch: write its long name")
        if name in OURS:
            raise UsageError(f"--sbatch {name} is set by glueline itself: leave it out")
        if "\n" in value or "\r" in value:
            raise UsageError(f"--sbatch {name}: the value must be one line")
        if value.lower() in ("", "true"):
            found[name] = True
        elif value.lower() == "false":
            found.update({"no-requeue": True} if name == "requeue" else {})
        else:
            found[name] = value
    return found


def signal_seconds(minutes: int) -> int:
    """Return how many seconds before the time limit the ranks are told: less for short limits."""
    return min(SIGNAL_SECONDS, int(minutes * 60 * 0.3))


def setup_lines(config: RunConfig, run: RunDir | SweepDir) -> list[str]:
    """Return the lines of the batch script before srun."""
    return [*environment_lines(config, run.cache), *afterword_lines(config, run)]


def environment_lines(config: RunConfig, cache: Path) -> list[str]:
    """Return the lines that make the environment of every job: a run's, the doctor's, …"""
    lines = [
        "unset " + " ".join(INHERITED),
        # From Slurm 22.05 on srun no longer takes --cpus-per-task over from sbatch.
        'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; '
        'then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
        # After `--sbatch export=NONE` srun would start the agents without this script's variables.
        "export SLURM_EXPORT_ENV=ALL",
        *config.cluster.setup,
    ]
    lines += python_path_lines(config, cache)
    lines += [f"export {k}={shlex.quote(v)}" for k, v in config.cluster.env.items()]
    return lines


def afterword_lines(config: RunConfig, run: RunDir | SweepDir) -> list[str]:
    """Return the lines that have the last word after srun failed; its exit status stays.

    TERM must not end the shell, or nobody would be left to put the job back into the queue. The
    trap that does nothing leaves TERM as it was for srun.
    """
    module = "slurm.sweep_afterword" if isinstance(run, SweepDir) else "slurm.afterword"
    words = shlex.join([sys.executable, "-u", "-m", module, str(run.path)])
    notice = ""
    if config.cluster.notify:
        notice = shlex.join([sys.executable, "-u", "-m", "slurm.notice", str(run.path)])
    return [
        f"export {REQUEUE}={'yes' if queues_again(config) else 'no'}",
        "glueline_afterword() {",
        "  local status=$?",
        "  set +e",
        "  trap '' TERM USR2",
        f'  [ "$status" = 0 ] || (cd / && PYTHONSAFEPATH=1 {STATUS}="$status" exec {words})',
        *([f'  (cd / && PYTHONSAFEPATH=1 exec {notice} "$status")'] if notice else []),
        '  exit "$status"',
        "}",
        "trap glueline_afterword EXIT",
        "trap : TERM USR2",
    ]


def python_path_lines(config: RunConfig, cache: Path) -> list[str]:
    """Return the line that has a job find our packages: the snapshot of the code, or the clone."""
    root = code_root(config, cache)
    if root is None:
        return []
    return [f'export PYTHONPATH={shlex.quote(str(root))}"${{PYTHONPATH:+:$PYTHONPATH}}"']


def check_path(path: Path) -> None:
    """Raise `UsageError` for a run directory whose path Slurm would change."""
    wrong = next((c for c in str(path) if c in "%\\" or not c.isprintable()), None)
    if wrong is not None:
        raise UsageError(
            f"the runs folder {str(path.parent)!r} holds {wrong!r}, which Slurm does not take in "
            "the path of a log: use another --runs DIR"
        )


def batch_script(config: RunConfig, run: RunDir) -> str:
    """Return the text that sbatch receives; empty for a local run, which has none.

    Raises:
        UsageError: as `make_executor`.
    """
    if config.cluster.executor == "local":
        return ""
    executor: Any = make_executor(config, run)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def node_command(config: RunConfig, run: RunDir) -> str:
    """Return a bash script that starts one node's ranks as the agent does, to read or to run.

    By hand: `bash command.sh` for one node, `srun --ntasks-per-node=1 bash command.sh` inside an
    allocation for several. The attempt is the variable ATTEMPT, or 0.
    """
    cluster = config.cluster
    procs = cluster.procs_per_node or 1
    fixed = fixed_environment(config)
    folder = shlex.quote(str(run.path))
    meet = {"host": "@HEAD", "port": "@PORT", "id": "@ID"}
    argv = torchrun_argv(
        python=sys.executable,
        nodes="@NODES",
        procs=procs,
        node="@NODE",
        meet=meet,
        run_dir=str(run.path),
        attempt="@ATTEMPT",
    )
    variables = {
        "@HEAD": '"$head"',
        "@PORT": '"$port"',
        "@ID": '"$job-$attempt"',
        "@NODE": '"$node"',
        "@NODES": str(cluster.nodes) if cluster.min_nodes is None else '"$SLURM_JOB_NUM_NODES"',
        "@ATTEMPT": '"$attempt"',
    }
    slurm = {"SLURMD_NODENAME": "@HOST", "SLURM_CPUS_ON_NODE": "@CORES"}
    argv = container.wrap(config, argv, str(run.path), slurm)
    variables |= {
        "--nodelist=@HOST": '--nodelist="$SLURMD_NODENAME"',
        "--cpus-per-task=@CORES": '--cpus-per-task="$SLURM_CPUS_ON_NODE"',
    }
    words = [variables.get(word) or shlex.quote(word) for word in argv]
    head = (
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)'
        if cluster.nodes > 1
        else "head=127.0.0.1"
    )
    threads = (
        []
        if "OMP_NUM_THREADS" in fixed
        else [
            # nproc itself listens to OMP_NUM_THREADS.
            'cores="${SLURM_CPUS_ON_NODE:-$(env -u OMP_NUM_THREADS nproc)}"',
            f"threads=$((cores / {procs}))",
            "export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))",
        ]
    )
    return "\n".join(
        [
            "#!/bin/bash",
            "# The ranks of one node. The node agent starts the same line; see docs for the rest.",
            "set -eu",
            f"cd {folder}",
            "unset " + " ".join(INHERITED),
            'node="${SLURM_NODEID:-0}"',
            'job="${SLURM_JOB_ID:-$$}"',
            'attempt="${ATTEMPT:-0}"',
            head,
            f"port=$(({FIRST_PORT} + job % {PORTS}))",
            'mkdir -p "attempts/$attempt/logs"',
            "",
            *threads,
            'export GLUELINE_NODE="$node"',
            *python_path_lines(config, run.cache),
            *(f"export {k}={shlex.quote(v)}" for k, v in fixed.items()),
            "",
            "exec " + " ".join(words),
            "",
        ]
    )


def refused_in_advance(config: RunConfig, run: RunDir) -> str | None:
    """Return why Slurm would refuse the job now, None where it would not, or cannot tell.

    A refusal is no last word: where all nodes are down for a while, Slurm says no here and still
    takes the job.
    """
    if config.cluster.executor == "local":
        return None
    script = batch_script(config, run)
    try:
        with scrubbed_environment():
            done = subprocess.run(
                ["sbatch", "--test-only"],
                input=script,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = " ".join(done.stderr.split()) or "sbatch gave no reason"
    return said if done.returncode else None


def submit_job(
    config: RunConfig, run: RunDir, first_attempt: int | None = None, after: str | None = None
) -> str:
    """Submit the run and return the job's id: Slurm's, or the pid of a local job's controller.

    Args:
        config: the run.
        run: its directory, written.
        first_attempt: number of the first attempt; none: the next one that has no folder.
        after: a job that must have ended, in whatever way, before this one starts.

    Raises:
        UsageError: Slurm refuses (its reason, in full), or sbatch is missing. Nothing of
            submitit's is left behind.
    """
    from slurm.agent import NodeAgent

    if first_attempt is None:
        first_attempt = max(run.attempt_numbers(), default=-1) + 1
    with _whole(config, run):
        executor = make_executor(config, run, after)
        return executor.submit(NodeAgent(str(run.path), first_attempt)).job_id


def submit_workers(
    config: RunConfig,
    sweep: SweepDir,
    lanes: int,
    elements: int,
    parallel: int,
    after: str | None = None,
    hold: bool = False,
    bases: tuple[str, ...] = (),
) -> str:
    """Submit an array of a sweep's workers and return its job id; of one element a plain job's.

    Args:
        config: what the nodes of all its trials have in common.
        sweep: the sweep's folder, written.
        lanes: trials at a time in one element.
        elements: how many there are; local executor: 1.
        parallel: how many of them run at a time.
        after: a job that must have ended before.
        hold: they wait until somebody releases them.
        bases: those whose trials their nodes are for; empty: all.

    Raises:
        UsageError: as `submit_job`.
    """
    from slurm.worker import TrialWorker

    worker = TrialWorker(str(sweep.path), lanes, bases)
    with _whole(config, sweep):
        executor: Any = make_executor(config, sweep, after, parallel, hold)
        if elements == 1:
            return executor.submit(worker).job_id
        with executor.batch():
            jobs = [executor.submit(worker) for _ in range(elements)]
        return str(jobs[0].job_id).partition("_")[0]


@contextlib.contextmanager
def _whole(config: RunConfig, run: RunDir | SweepDir) -> Iterator[None]:
    """Submit in a clean environment, the code copied; leave nothing behind if it fails.

    Raises:
        UsageError: Slurm refuses (its reason, in full), or sbatch is missing.
    """
    before = set(run.submitit.iterdir()) if run.submitit.is_dir() else set()
    there = run.submitit.is_dir()
    code, fresh = keep_snapshot(config, run.cache)
    try:
        with scrubbed_environment(config.cluster.executor == "slurm"), _quiet():
            yield
    except BaseException as error:
        for path in set(run.submitit.iterdir()) - before if run.submitit.is_dir() else ():
            path.unlink(missing_ok=True)
        if not there and run.submitit.is_dir():
            run.submitit.rmdir()
        if fresh and code is not None:
            remove_snapshot(code)
        reason = refusal(error)
        if reason is None:
            raise
        raise UsageError(reason) from None


def refusal(error: BaseException) -> str | None:
    """Return one line for an error of the submission; None for one that is not Slurm's."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if isinstance(error, (FailedJobError, FailedSubmissionError)):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in lines)
        if "MaxSubmit" in said:
            said += "; of a sweep, --workers N submits fewer jobs, which take trial after trial"
        return f"Slurm refused the job: {said or 'sbatch gave no reason'}"
    if isinstance(error, FileNotFoundError) and error.filename == "sbatch":
        return "sbatch is not on this machine: use --executor local"
    return None


@contextlib.contextmanager
def scrubbed_environment(slurm: bool = True) -> Iterator[None]:
    """Hide what an outer job, torchrun or MPI left in the environment: it would override ours.

    `slurm`: the job is Slurm's, which chooses its GPUs.
    """
    from submitit.helpers import clean_env

    extra = [k for k in os.environ if k.startswith(SCRUBBED_PREFIXES)]
    # Where Slurm is configured by SLURM_CONF, no Slurm command answers without it; which one of
    # several clusters answers is a person's choice too.
    kept = {k: v for k in ("SLURM_CONF", "SLURM_CLUSTERS") if (v := os.environ.get(k)) is not None}
    extra += GPU_CHOICE if slurm else ()
    with clean_env(extra_names=[*extra, *INHERITED]):
        os.environ.update(kept)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what submitit prints (sbatch's errors, which we raise) from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
