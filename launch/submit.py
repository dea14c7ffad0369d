"""`glueline submit`: from a typed line to a job, or to a plan of it.

The order is: read, resolve, check, plan; then, unless it is a dry run: is the run there already,
fetch, write the run directory, submit, follow.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Request, request_options
from launch.main import run_command
from training.config import RunConfig, UsageError
from training.rundir import CACHE_FOLDER, RunDir, read_json, write_json

if TYPE_CHECKING:
    from launch.plan import Plan
    from launch.preparation import Inputs
    from launch.resume import Resumed

NO_SCRIPT = "#!/bin/bash\n# A local run has no batch script: command.sh starts its ranks.\n"


@dataclass(frozen=True)
class How:
    """What to do with the run, apart from what the run is."""

    name: str | None = None
    wait: bool = False
    dry_run: bool = False
    as_json: bool = False


@click.command("submit", cls=FlagCommand)
@request_options()
@click.option(
    "--reference",
    cls=FlagOption,
    section="Task",
    metavar="SET/TASK",
    help="Train exactly a published recipe: one of glueline references, or FILE/TASK.",
)
@click.option("--name", cls=FlagOption, metavar="ID", help="The run's id, instead of a made one.")
@click.option(
    "--resume",
    cls=FlagOption,
    metavar="RUN",
    help="Go on with a failed or interrupted run: with other nodes, ranks or ZeRO stage if typed.",
)
@click.option("--wait", cls=FlagOption, is_flag=True, help="Follow the job to its end.")
@click.option(
    "--dry-run", cls=FlagOption, is_flag=True, help="Show what would be done; touch nothing."
)
@click.option(
    "--probe",
    cls=FlagOption,
    is_flag=True,
    help="Ask Slurm which number of nodes and partition would be done first; touch nothing.",
)
@click.option("--json", "as_json", cls=FlagOption, is_flag=True, help="Print one JSON object.")
def submit(
    request: Request, reference: str | None, resume: str | None, probe: bool, **how: Any
) -> int:
    """Submit a fine-tuning run to Slurm, or run it on this machine."""
    if reference is not None and resume is not None:
        raise UsageError("--resume keeps the run's recipe: leave out --reference")
    request = replace(request, reference=reference)
    if probe:
        return probe_run(request, resume, How(**how))
    if resume is not None:
        return resume_run(request, resume, How(**how))
    return submit_run(request, How(**how))


def probe_run(request: Request, resume: str | None, how: How) -> int:
    """Print which shapes would be done first; return the exit status.

    Raises:
        UsageError: the request is wrong, or there is no Slurm.
    """
    from launch.probe import as_json, probe, show

    if resume is not None or how.wait or how.dry_run:
        raise UsageError("--probe only asks: leave out --resume, --wait and --dry-run")
    found = probe(request, sys.argv[1:])
    if how.as_json:
        print(as_json(found))
    else:
        show(found)
    return 0 if any(c.answer.start is not None for c in found) else 2


def submit_run(request: Request, how: How) -> int:
    """Submit what the request asks for and return the exit status.

    Raises:
        UsageError: the request is wrong, or Slurm refuses it; nothing is left behind.
    """
    from launch import checks
    from launch.executor import refused_in_advance
    from launch.existing import (
        answer,
        check_data,
        check_same,
        command_line,
        current_state,
        placed_otherwise,
    )
    from launch.fetch import already_here, fetch_all, make_cache
    from launch.planning import fitted, plan_with_inputs, with_its_budget
    from launch.preparation import is_ready, provide, request_words
    from launch.resolve import resolve
    from launch.space import check_space
    from launch.with_reference import spelled_out

    if how.name is not None:
        checks.check_run_name(how.name)
    resolved = resolve(request)
    run = RunDir(resolved.runs / resolved.config.run_id(how.name))
    cache = resolved.runs / CACHE_FOLDER
    config = already_here(resolved.config, cache)
    plan = plan_with_inputs(config, resolved.runs, write=not how.dry_run)
    resolved, config, plan = fitted(resolved, config, plan)
    if not run.path.exists():
        check_space(config, resolved.runs)
    if how.dry_run:
        return dry_run(resolved, config, run, plan, how)

    if run.path.exists():
        check_same(run, with_its_budget(run, resolved))
        check_data(run, config)
        typed = [o.key for o in (*request.flags, *request.sets)]
        if note := placed_otherwise(run, resolved.config, typed):
            print(f"note: {note}", file=sys.stderr)
        state = current_state(run)
        said = answer(run, state)
        _report(how, said, run, plan, None)
        return _follow(run, how) if how.wait and state in ("queued", "running") else 0
    line = command_line("prepare", *request_words(spelled_out(request)))
    with _tidy(cache):
        if config.cluster.private:
            make_cache(config, cache)
        fetched = fetch_all(config, cache)
        if fetched != config:
            plan = plan_with_inputs(fetched, resolved.runs)
            resolved, config, plan = fitted(resolved, fetched, plan)
            check_space(config, resolved.runs)
        # Before Slurm is asked: a note may say why it refuses.
        for note in (*plan.notes, *resolved.notes):
            print(f"note: {note}", file=sys.stderr)
        ready = config.cluster.prepare == "no" or is_ready(config, cache, line)
        refused = None if ready else refused_in_advance(config, run)
        # Where Slurm will say no, it says so before anything is worked for.
        inputs = provide(config, cache, line) if refused is None else None
        job = start(config, run, plan, inputs)
    if refused is not None:
        print(f"note: rank 0 tokenises, Slurm seemed to refuse the job: {refused}", file=sys.stderr)
    _report(how, _submitted(run, job, config), run, plan, job)
    return _follow(run, how) if how.wait else 0


def dry_run(resolved: Any, config: RunConfig, run: RunDir, plan: Plan, how: How) -> int:
    """Print what a submission would do."""
    from launch.executor import batch_script, node_command

    script, command = batch_script(config, run), node_command(config, run)
    if how.as_json:
        _report(how, "", run, plan, None, config=config.dump(), script=script, command=command)
        return 0
    from launch.show import show_dry_run

    notes = list(resolved.notes)
    if run.path.exists():
        notes.append(f"run {run.run_id} is there already: it would not be submitted again")
    show_dry_run(resolved, run, plan, notes, script, command)
    return 0


def start(config: RunConfig, run: RunDir, plan: Plan, inputs: Inputs | None = None) -> str:
    """Write the run directory, submit its job and return the job's id.

    Args:
        config: the run.
        run: its directory, not there yet.
        plan: its plan.
        inputs: what it is to read; None: rank 0 makes it.

    Raises:
        UsageError: the folder cannot be written, or Slurm refuses; the folder is gone again.
    """
    write_run(config, run, plan, inputs)
    try:
        return submit_jobs(config, run, first_attempt=0, after=inputs.job if inputs else None)
    except BaseException:
        # A job that was submitted may be running by now: its folder is no longer ours to remove.
        if not run.jobs.exists():
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def submit_jobs(
    config: RunConfig, run: RunDir, first_attempt: int, after: str | None = None, **noted: Any
) -> str:
    """Submit a run's job, add it to the run's list of jobs and return its id.

    Every submission, the first and a resumed one, goes through here. Where the job may not be
    queued again, others are submitted behind it, each waiting for the one before.

    Args:
        config: the run, as its `config.yaml` says.
        run: its directory, written.
        first_attempt: number of the job's first attempt.
        after: a job of another kind that must have ended before: the one that prepares the data.
        noted: more to keep with the job in `jobs.json`.

    Raises:
        UsageError: Slurm refuses.
    """
    from launch.executor import queues_again, submit_job
    from launch.snapshot import code_digest

    job = submit_job(config, run, first_attempt, after=after)
    noted["code"] = code_digest(config)
    note_job(config, run, job, first_attempt, **noted)
    if config.cluster.executor == "local" or queues_again(config):
        return job
    last = job
    for place in range(1, config.cluster.successors + 1):
        try:
            behind = submit_job(config, run, first_attempt, after=last)
        except UsageError as error:
            # The first one stands, and the run can be resumed by hand.
            print(f"note: no successor {place} of job {job}: {error}", file=sys.stderr)
            break
        note_job(config, run, behind, first_attempt, after=last, code=noted["code"])
        last = behind
    return job


def write_run(config: RunConfig, run: RunDir, plan: Plan, inputs: Inputs | None = None) -> None:
    """Write the run directory, complete or not at all.

    Raises:
        UsageError: it cannot be written, or somebody else made the same run meanwhile.
    """
    from launch.executor import batch_script, node_command
    from launch.manifest import make_manifest

    temporary = RunDir(run.path.parent / f".tmp-{run.run_id}-{os.getpid()}")
    try:
        temporary.path.mkdir(parents=True)
        if config.cluster.private:
            temporary.path.chmod(0o700)
        temporary.config.write_text(config.dump(), encoding="utf-8")
        write_json(temporary.plan, plan.to_json())
        write_json(temporary.manifest, make_manifest(config))
        if inputs is not None:
            write_json(temporary.prepared, inputs.plain())
        for path, text in (
            (temporary.submission, batch_script(config, run) or NO_SCRIPT),
            (temporary.command, node_command(config, run)),
        ):
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        temporary.path.rename(run.path)
    except OSError as error:
        if run.path.exists():
            from launch.existing import command_line, run_arguments

            line = command_line("status", *run_arguments(run))
            raise UsageError(
                f"run {run.run_id} is being submitted by another process: follow it with {line}"
            ) from None
        reason = f"{error.strerror or error}"
        raise UsageError(f"cannot write to the runs folder {run.path.parent}: {reason}") from None
    finally:
        shutil.rmtree(temporary.path, ignore_errors=True)


def note_job(config: RunConfig, run: RunDir, job: str, first_attempt: int, **noted: Any) -> None:
    """Add a job to the run's list of jobs, with what else is to be noted of it."""
    from launch.jobs import whose
    from training.rundir import snapshot

    entry = {
        "job_id": job,
        "executor": config.cluster.executor,
        "first_attempt": first_attempt,
        "time": time.time(),
        "host": socket.gethostname(),
        **whose(config.cluster.executor),
        **noted,
    }
    write_json(run.jobs, {"jobs": [*snapshot(run).jobs, entry]})


@contextlib.contextmanager
def _tidy(cache: Path) -> Iterator[None]:
    """Remove cache and runs folder again after a failure, if made here and empty."""
    missing = [p for p in (cache, *cache.parents) if not p.exists()]
    try:
        yield
    except BaseException:
        for place in missing:
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break
        raise


def resume_run(request: Request, name: str, how: How) -> int:
    """Submit an existing run again, on another shape if wanted, and return the exit status.

    Raises:
        UsageError: there is no such run, it is running, it would be another experiment, or Slurm
            refuses; the run's files are as they were then.
    """
    from launch.existing import answer, command_line, current_state, need_run, run_arguments
    from launch.resolve import known_runs
    from launch.resume import alone, resumed

    if how.name:
        raise UsageError("--resume keeps the run's name: leave out --name")
    run = need_run(known_runs(request.runs, name), name)
    with alone(run):
        state = current_state(run)
        if state == "finished":
            _report(how, answer(run, state), run, None, None)
            return 0
        if state in ("queued", "running"):
            line = command_line("cancel", *run_arguments(run))
            raise UsageError(f"run {run.run_id} is {state}: to stop it first, {line}")
        way = resumed(request, run)
        if how.dry_run:
            return _dry_resume(way, run, how)
        job, config, plan = _resubmit(way, run)
    for note in (*plan.notes, *way.notes):
        print(f"note: {note}", file=sys.stderr)
    from launch.resume import goes_on
    from launch.show import changes_text

    text = f"{_submitted(run, job, config)}\n  step    {goes_on(way.step)}"
    text += changes_text(_changes(way, run))
    _report(how, text, run, plan, job, changed=way.changed, resumes_from=way.step)
    return _follow(run, how) if how.wait else 0


def _changes(way: Resumed, run: RunDir) -> dict[str, list[Any]]:
    """Return what changed, the code included: a resumed run takes it as it is now."""
    from training.rundir import snapshot

    first = read_json(run.manifest)
    codes = [first.get("code") if isinstance(first, dict) else None]
    codes += [job.get("code") for job in snapshot(run).jobs]
    known = [code for code in codes if code]
    if len(known) > 1 and known[-1] != known[-2]:
        return {**way.changed, "code": [known[-2], known[-1]]}
    return way.changed


def _resubmit(way: Resumed, run: RunDir) -> tuple[str, RunConfig, Plan]:
    """Write the run's files anew and submit it; return the job, the configuration and the plan."""
    from launch.existing import check_data, command_line
    from launch.fetch import fetch_all
    from launch.planning import plan_with_inputs
    from launch.preparation import provide, run_words
    from launch.resume import replaced
    from launch.space import check_space

    config = fetch_all(way.config, run.cache)
    plan = plan_with_inputs(config, run.path.parent)
    check_data(run, config)
    check_space(config, run.path.parent, run)
    inputs = provide(config, run.cache, command_line("prepare", *run_words(run)))
    first_attempt = max(run.attempt_numbers(), default=-1) + 1
    noted = {"changed": way.changed} if way.changed else {}
    after = inputs.job if inputs else None
    with replaced(run, config, plan, inputs):
        return submit_jobs(config, run, first_attempt, after, **noted), config, plan


def _dry_resume(way: Resumed, run: RunDir, how: How) -> int:
    """Print what continuing a run would do."""
    from launch.executor import batch_script, node_command
    from launch.fetch import already_here
    from launch.planning import plan_with_inputs
    from launch.resume import goes_on
    from launch.space import check_space

    config = already_here(way.config, run.cache)
    plan = plan_with_inputs(config, run.path.parent)
    check_space(config, run.path.parent, run)
    script, command = batch_script(config, run), node_command(config, run)
    if how.as_json:
        more = {"config": config.dump(), "script": script, "command": command}
        _report(how, "", run, plan, None, changed=way.changed, resumes_from=way.step, **more)
        return 0
    from launch.show import show_resume

    show_resume(run, plan, way.changed, way.origins, goes_on(way.step), way.notes, script, command)
    return 0


def _submitted(run: RunDir, job: str, config: RunConfig) -> str:
    from launch.existing import command_line, run_arguments

    where = "Slurm job" if config.cluster.executor == "slurm" else "local job"
    line = command_line("status", *run_arguments(run))
    return f"submitted {run.run_id} as {where} {job}\n  folder  {run.path}\n  follow  {line}"


def _report(
    how: How, text: str, run: RunDir, plan: Plan | None, job: str | None, **more: Any
) -> None:
    if not how.as_json:
        print(text, flush=True)
        return
    value = {
        "run_id": run.run_id,
        "path": str(run.path),
        "job_id": job,
        "plan": plan.to_json() if plan else None,
        **more,
    }
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _follow(run: RunDir, how: How) -> int:
    """Follow a run to its end; with --json, standard output holds the one object alone."""
    from launch.follow import follow

    if not how.as_json:
        return follow(run)
    from rich.console import Console

    return follow(run, console=Console(stderr=True, highlight=False))


def main() -> None:
    """Run the command."""
    run_command(submit)


if __name__ == "__main__":
    main()
