"""Inputs prepared before a run is submitted: here, or in a job of their own.

Where login nodes forbid work, model and rows are fetched here (compute nodes have no internet)
and the rest is done by a job of one node and one task, through the same executor.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training import prepared
from training.config import RunConfig, UsageError, load_config, option_name
from training.prepared import read_entry
from training.rundir import RunDir, read_json, write_atomic, write_json

from .flags import SPLIT_FILES, Request

POLL_SECONDS = 2.0

OF_THE_RUN = frozenset(
    "hold dependency begin deadline gres gpus gpus-per-node gpus-per-task gpus-per-socket "
    "cpus-per-gpu mem-per-gpu nodes ntasks ntasks-per-node nodelist exclude exclusive contiguous "
    "switches distribution requeue job-name".split()
)
"""Options for sbatch that say when, where and how large the run is: not those of its data."""


@dataclass(frozen=True)
class Inputs:
    """What a run is to read, as its `prepared.json` says."""

    entry: str
    job: str | None = None
    """The job that prepares it, where one does."""
    output: str | None = None
    """That job's output."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        kept = {"entry": self.entry, "job": self.job, "output": self.output}
        return {key: value for key, value in kept.items() if value is not None}


class PreparationJob:
    """What submitit pickles for a preparation: a folder's name, no secrets."""

    def __init__(self, folder: str, cache: str) -> None:
        self.folder, self.cache = folder, cache

    def __call__(self) -> str:
        """Prepare what the folder's config.yaml says."""
        from .ready import prepare_inputs

        def tell(text: str) -> None:
            print(text, flush=True)

        config = load_config(Path(self.folder) / "config.yaml")
        try:
            prepare_inputs(config, Path(self.cache), tell)
        except UsageError as error:
            tell(f"error: {error}")
            raise
        return "prepared"


def say(text: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


def is_ready(config: RunConfig, cache: Path, line: str) -> bool:
    """Return whether a run's inputs are prepared, after a look at the files' sizes and times.

    Raises:
        UsageError: they were altered since; `line` makes them anew.
    """
    from .ready import check_unaltered, entry_name

    name = entry_name(config, cache)
    entry = read_entry(cache, name) if name else None
    if entry is None:
        return False
    check_unaltered(entry, line)
    return True


def provide(config: RunConfig, cache: Path, line: str) -> Inputs | None:
    """Return what a run is to read, prepared here or by a job that is submitted for it.

    Args:
        config: the run; its model and rows are on this machine.
        cache: the cache of its runs folder.
        line: what to type to have altered inputs made anew.

    Returns:
        None where rank 0 is to do it: with `cluster.prepare=no`, and in local runs of which
        nothing was prepared.

    Raises:
        UsageError: the inputs are wrong, do not load, or were altered.
    """
    from .ready import entry_name, prepare_inputs

    if config.cluster.prepare == "no":
        return None
    name = entry_name(config, cache)
    assert name is not None, "fetched before"
    if is_ready(config, cache, line):
        return Inputs(name)
    if config.cluster.prepare == "job" and config.cluster.executor == "slurm":
        return submit_preparation(config, cache)
    if config.cluster.executor == "local":
        return None  # it starts at once, and here: rank 0 tokenises as well as we do
    say(f"preparing {config.task.name} for {config.model.name}, once for all runs like it")
    entry = prepare_inputs(config, cache, say)
    return Inputs(str(entry.value["name"]))


def submit_preparation(config: RunConfig, cache: Path) -> Inputs:
    """Submit a job that prepares a run's inputs, or return the one that is at it already.

    Raises:
        UsageError: Slurm refuses.
    """
    from .executor import check_path, refusal, scrubbed_environment
    from .ready import entry_name
    from .slurm_site import SlurmSilent, job_states

    name = entry_name(config, cache)
    assert name is not None
    run = RunDir(prepared.folder(cache) / "jobs" / name)
    note = read_json(run.jobs)
    if isinstance(note, dict):
        job = str(note.get("job"))
        try:
            state = job_states([job], {job: float(note.get("time") or 0.0)})[job].state
        except SlurmSilent:
            state = "gone"
        if state != "gone":
            return Inputs(name, job, str(_output(run, job)))
    check_path(run.path)
    alone = preparation_config(config)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        write_atomic(run.config, alone.dump())
    except OSError as error:
        raise UsageError(f"cannot write into {cache}: {error.strerror}") from None
    try:
        with scrubbed_environment():
            executor = _executor(alone, run, cache)
            job = executor.submit(PreparationJob(str(run.path), str(cache))).job_id
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise UsageError(f"{reason} (the job that prepares the data)") from None
    write_json(run.jobs, {"job": job, "time": time.time()})
    say(f"job {job} prepares {config.task.name} for {config.model.name}")
    return Inputs(name, job, str(_output(run, job)))


def preparation_config(config: RunConfig) -> RunConfig:
    """Return the configuration of the job that prepares a run: one node, one task, no GPU.

    It takes what tokenising needs, not what the run does: some cores, and memory as Slurm gives it.
    In another partition neither features nor QOS of the run's need be known. An empty value in
    `cluster.prepare_sbatch` takes an option away.
    """
    cluster = config.cluster
    own = {option_name(k): v for k, v in cluster.prepare_sbatch.items()}
    kept = {k: v for k, v in cluster.options.items() if k not in OF_THE_RUN}
    taken = {k for k, v in own.items() if v == "" and k not in SWITCHES}
    elsewhere = own.get("partition", cluster.partition) != cluster.partition
    return replace(
        config,
        cluster=replace(
            cluster,
            nodes=1,
            min_nodes=None,
            procs_per_node=1,
            gpus_per_node=0,
            cpus_per_node=min(PREPARE_CORES, cluster.cpus_per_node or PREPARE_CORES),
            mem=None,
            constraint=None if elsewhere or "constraint" in own else cluster.constraint,
            qos=None if elsewhere or "qos" in own else cluster.qos,
            account=None if "account" in taken else cluster.account,
            mail=None,
            sbatch={k: v for k, v in {**kept, **own}.items() if k not in taken},
        ),
    )


PREPARE_CORES = 8
"""Cores of the job that prepares the data: more hardly make it faster."""
SWITCHES = ("exclusive", "oversubscribe", "hold", "contiguous", "spread-job", "use-min-nodes")
"""Options of sbatch without a value: an empty one does not take them away."""


def _executor(config: RunConfig, run: RunDir, cache: Path) -> Any:
    from .executor import environment_lines, make_executor, slurm_parameters
    from .snapshot import keep_snapshot

    keep_snapshot(config, cache)
    executor = make_executor(config, run)
    parameters = slurm_parameters(config, run)
    parameters["setup"] = environment_lines(config, cache)
    parameters["job_name"] = f"prepare-{config.task.name}"
    additional = parameters["additional_parameters"]
    additional.pop("requeue", None)
    additional["no-requeue"] = True
    executor.update_parameters(**parameters)
    return executor


def _output(run: RunDir, job: str) -> Path:
    return run.submitit / f"{job}_0_log.out"


def await_preparation(cache: Path, inputs: Inputs) -> int:
    """Wait for a preparation's job; return the exit status: 0 if the entry is there, else 1."""
    from .slurm_site import SlurmSilent, job_states

    assert inputs.job is not None
    shown = ""
    while True:
        try:
            info = job_states([inputs.job])[inputs.job]
        except SlurmSilent as error:
            say(f"{error}; asking again")
            time.sleep(POLL_SECONDS)
            continue
        text = f"job {inputs.job} is {info.slurm.lower()}"
        if info.reason and info.state == "queued":
            text += f" ({info.reason})"
        if text != shown:
            shown = text
            say(text)
        if info.state == "gone":
            break
        time.sleep(POLL_SECONDS)
    for _ in range(10):  # files of another node may show up late
        if read_entry(cache, inputs.entry) is not None:
            return 0
        time.sleep(0.5)
    say(f"error: job {inputs.job} ended without it: {_last_words(inputs)}")
    return 1


def _last_words(inputs: Inputs) -> str:
    path = Path(inputs.output or "")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"it left no output in {path}"
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"see {path}"


def request_words(request: Request, sections: tuple[str, ...] = ("task", "model")) -> list[str]:
    """Return the arguments of `glueline prepare` that mean the same task and model."""
    words = []
    for flag in ("task", "model", "data", "runs", "cluster"):
        if (value := getattr(request, flag)) is not None:
            words += [f"--{flag}", str(value)]
    by_split = {split: flag for flag, split in SPLIT_FILES.items()}
    for split, paths in request.files.items():
        words += [by_split[split], ",".join(paths)]
    for override in request.flags:
        if override.key.split(".")[0] in sections:
            words += [override.origin, *([] if override.value is True else [str(override.value)])]
    for override in request.sets:
        if override.key.split(".")[0] in sections:
            words += ["--set", f"{override.key}={override.value}"]
    return words


def run_words(run: RunDir) -> list[str]:
    """Return the arguments of `glueline prepare` that mean an existing run's inputs."""
    from .existing import run_arguments

    return ["--run", *run_arguments(run)]
