"""The jobs of a run, whoever runs them: Slurm, or a process of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.slurm_site import JobInfo, job_states
from training.rundir import RunDir, Snapshot


def last_job(files: Snapshot) -> JobInfo | None:
    """Return what is known of a run's job: of its last submission, the one that counts now.

    Returns:
        None where nobody can be asked: there is no job, or it is a process of another machine.

    Raises:
        SlurmSilent: Slurm does not answer.
    """
    return last_jobs([files]).get(files.run_id)


def last_jobs(runs: Iterable[Snapshot]) -> dict[str, JobInfo]:
    """Return what is known of the jobs of several runs, by run id; one question to Slurm.

    Where jobs were submitted to follow each other, the one that runs counts, else the next one in
    the queue, else the one that ran last.

    Raises:
        SlurmSilent: Slurm does not answer.
    """
    asked = {files.run_id: (files, last_submission(files)) for files in runs if files.jobs}
    answers = _ask((run_id, e) for run_id, (_, entries) in asked.items() for e in entries)
    found = {}
    for run_id, (files, entries) in asked.items():
        infos = [i for e in entries if (i := answers.get((run_id, str(e["job_id"]))))]
        if infos:
            found[run_id] = _counting(infos, files)
    return found


def open_jobs(files: Snapshot) -> list[dict[str, Any]]:
    """Return the entries of all jobs of a run that are queued or running, oldest first.

    A process of another machine, which cannot be asked, counts where it is the last job.

    Raises:
        SlurmSilent: Slurm does not answer.
    """
    answers = _ask((files.run_id, entry) for entry in files.jobs)
    found = []
    for entry in files.jobs:
        info = answers.get((files.run_id, str(entry["job_id"])))
        if info.state != "gone" if info else entry is files.jobs[-1]:
            found.append(entry)
    return found


def last_submission(files: Snapshot) -> list[dict[str, Any]]:
    """Return the entries of the jobs that were submitted together last, in their order.

    Where a site does not let jobs be queued again, several follow each other from the start: each
    names the one that it comes `after`.
    """
    chain = files.jobs[-1:]
    before = {str(entry["job_id"]): entry for entry in files.jobs}
    while chain and (entry := before.get(str(chain[0].get("after")))) and entry not in chain:
        chain.insert(0, entry)
    return chain


def _counting(infos: list[JobInfo], files: Snapshot) -> JobInfo:
    for state in ("running", "queued"):
        for info in infos:
            if info.state == state:
                return info
    ran = {str(node.get("job_id")) for node in files.nodes.get(max(files.nodes, default=-1), ())}
    return next((info for info in reversed(infos) if info.id in ran), infos[-1])


def _ask(entries: Iterable[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], JobInfo]:
    """Return what is known of jobs, by run id and job id."""
    found: dict[tuple[str, str], JobInfo] = {}
    agents = Agents()
    slurm: dict[str, tuple[str, dict[str, Any]]] = {}
    for run_id, entry in entries:
        job = str(entry["job_id"])
        if entry.get("released"):
            found[run_id, job] = JobInfo(job, "gone", "GONE")
        elif entry.get("executor") == "local":
            # A trial has the job of a worker, which serves the whole sweep.
            info = local_job(str(entry.get("sweep", run_id)), entry, agents=agents)
            if info is not None:
                found[run_id, job] = info
        else:
            slurm[job] = (run_id, entry)
    answers = job_states(
        list(slurm), {j: e["time"] for j, (_, e) in slurm.items() if e.get("time")}
    )
    unknown = [job for job in slurm if answers[job].slurm == "UNKNOWN"]
    hidden = {job for job in unknown if _hidden(slurm[job][1])}
    if any(slurm[job][1].get("cluster") for job in unknown):
        here = _here()
        hidden |= {job for job in unknown if _of_another(slurm[job][1], here)}
    known = {(run_id, job): answers[job] for job, (run_id, _) in slurm.items()}
    return found | {key: info for key, info in known.items() if key[1] not in hidden}


def whose(executor: str) -> dict[str, Any]:
    """Return what is noted of a new job so that others know whether they can ask for it."""
    return {} if executor == "local" else {"cluster": _here(), "uid": os.getuid()}


def elsewhere(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether one of some jobs may be there although Slurm does not know it here.

    It is another cluster's, whose nodes see the same runs folder; or another person's, and the site
    hides the jobs of others (PrivateData).
    """
    jobs = [entry for entry in entries if entry.get("executor") != "local"]
    here = _here() if any(entry.get("cluster") for entry in jobs) else None
    return any(_hidden(entry) or _of_another(entry, here) for entry in jobs)


def _hidden(entry: Mapping[str, Any]) -> bool:
    return os.getuid() != 0 and entry.get("uid") not in (None, os.getuid())


def _of_another(entry: Mapping[str, Any], here: str | None) -> bool:
    return here is not None and entry.get("cluster") not in (None, here)


def _here() -> str | None:
    from launch.presets import slurm_cluster

    return slurm_cluster()


def local_job(
    run_id: str, entry: dict[str, Any], proc: Path = Path("/proc"), agents: Agents | None = None
) -> JobInfo | None:
    """Return the state of a local job, or None if it runs on another machine.

    `agents` are the machine's, where several jobs are looked at.
    """
    job = str(entry["job_id"])
    if entry.get("host") not in (None, socket.gethostname()):
        return None
    gone = JobInfo(job, "gone", "GONE")
    try:
        command = (proc / job / "cmdline").read_bytes()
        # "pid (name) state …": a zombie is one that nobody has waited for yet.
        state = (proc / job / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        command, state = b"", "X"
    running = JobInfo(job, "running", "RUNNING", submitted=entry.get("time"))
    # The pid may be somebody else's by now, even another run's controller.
    ours = b"submitit.local._local" in command and f"/{run_id}/".encode() in command
    if state in ("Z", "X") or not ours:
        # A controller that was killed leaves its agent, which trains on.
        return running if (agents or Agents(proc)).has(run_id, job) else gone
    return running


class Agents:
    """The agents of local jobs that live on this machine, looked for once."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._found: list[tuple[str, bytes]] | None = None

    def has(self, run_id: str, job: str) -> bool:
        """Return whether the agent of a local job lives: it is in its controller's session."""
        if self._found is None:
            self._found = list(self._look())
        return any(s == job and f"/{run_id}/".encode() in command for s, command in self._found)

    def _look(self) -> Iterator[tuple[str, bytes]]:
        """Yield session and command line of every agent."""
        for folder in self._proc.iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes()
                    if b"submitit.core._submit" in command:
                        fields = (folder / "stat").read_text().rpartition(")")[2].split()
                        yield fields[3], command
                except (OSError, IndexError):
                    continue


def job_output(run: RunDir, files: Snapshot, job: JobInfo | None = None) -> Path | None:
    """Return a job's own output, the last one's if none is named: what is beside the ranks'."""
    if not files.jobs:
        return None
    path = run.submitit / f"{job.id if job else files.jobs[-1]['job_id']}_0_log.out"
    return path if path.is_file() else None
