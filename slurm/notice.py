"""Who is told when a run or a sweep is over: `python -m slurm.notice FOLDER STATUS`.

Called when a job ends, with the exit status that it ends with. What ends for good (finished, or
failed and not tried again) is told once: a POST to an address, or a command of the person's own.
What a person cancelled is not told. Standard library and our own modules only: no torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slurm import scontrol
from slurm.allocation import Allocation, read_allocation
from slurm.claims import publish
from slurm.scontrol import Refused, Silent, say
from slurm.search_file import read_search
from slurm.trial import trial_config
from slurm.verdicts import asked_to_end, may_requeue
from slurm.worker import ended
from training.config import RunConfig, UsageError, load_config
from training.rundir import NOTICES, RunDir, earliest_cause, node_records, read_json, snapshot
from training.sweepdir import SWEEPS_FOLDER, SweepDir, read_trials

ADDRESS_SECONDS = 10.0
"""How long an address may take to answer; it is tried twice."""
COMMAND_SECONDS = 60.0
"""How long a command may take."""
LONGEST = 1000
"""Characters of a notice's text."""
ENDED = frozenset(("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"))
"""Slurm's states of a job that Slurm ended for good, while its batch script has its last word."""
BUSY = frozenset((429, 500, 502, 503, 504))
"""Answers of a server that may be another one later."""


@dataclass(frozen=True)
class Notice:
    """What is told of a run or a sweep that is over."""

    name: str
    kind: str
    """run or sweep."""
    state: str
    """finished, failed, or interrupted where it was queued again as often as it may be."""
    text: str
    """All of it in one line."""
    folder: str
    job: str
    attempt: int | None = None
    metric: str | None = None
    value: float | None = None
    cause: str | None = None
    trials: dict[str, int] | None = None
    """Of a sweep: how many trials ended how."""

    @property
    def key(self) -> str:
        """What tells it from the next one of the same run: a name for a file."""
        if self.trials is not None:
            return "-".join(f"{count}-{state}" for state, count in sorted(self.trials.items()))
        if self.attempt is None:
            return f"job-{self.job}-{self.state}"
        # Not by the job: the next one of a chain finds the run finished and ends at once.
        return f"{self.attempt}-{self.state}"

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON; `content` is what some chat servers call the text."""
        found = {key: value for key, value in asdict(self).items() if value is not None}
        return {**found, "content": self.text}


def notice_of_run(
    run: RunDir, config: RunConfig, allocation: Allocation, status: int
) -> Notice | None:
    """Return what there is to tell of a run at the end of a job; None while it is not over.

    Args:
        run: the run.
        config: its configuration.
        allocation: the job.
        status: exit status of the job.
    """
    last = max(run.attempt_numbers(), default=None)
    told = {"kind": "run", "folder": str(run.path), "job": allocation.job_id, "attempt": last}

    def over(state: str, words: str, **more: Any) -> Notice:
        text = f"{run.run_id} {state}" + (f": {words}" if words else "")
        return Notice(run.run_id, state=state, text=_short(text), **{**told, **more})

    results = read_json(run.results)
    if isinstance(results, dict):
        metric, value = results.get("primary_metric"), results.get("primary_value")
        score = f"{metric} {value:.4f}" if isinstance(value, (int, float)) else ""
        return over("finished", score, metric=metric, value=value)
    if asked_to_end(run):
        return None
    nodes = node_records(run, last) if last is not None else []
    if allocation.slurm:
        this = (allocation.job_id, allocation.restarts)
        nodes = [node for node in nodes if (node.get("job_id"), node.get("restarts")) == this]
    if last is None or not nodes:
        # Slurm may have taken the nodes back while Python started. And in a chain of jobs those
        # behind one that failed for good do not begin.
        if status == 0 or _follows(run, allocation) or not _ends(allocation):
            return None
        cause = "the job ended before the node agent wrote anything"
        return over("failed", cause, cause=cause, attempt=None)
    verdict = read_json(run.verdict(last))
    action = verdict.get("action") if isinstance(verdict, dict) else None
    if action == "stop" or (action is None and status and _failed(nodes) and _ends(allocation)):
        found = earliest_cause(nodes, last)
        why = verdict.get("why") if isinstance(verdict, dict) else "nobody said why"
        said = f"{found['host']}: {found['message']}" if found else str(why)
        cause = " ".join(said.split())
        return over("failed", cause, cause=cause)
    if all(node.get("end") == "interrupted" for node in nodes) and allocation.slurm:
        if may_requeue(config):
            again = allocation.restarts < config.cluster.max_requeues
            why = "cluster.max_requeues is reached"
        else:
            again, why = _has_successor(run, allocation), "no job comes after this one"
        if not again and _ends(allocation):
            return over("interrupted", why)
    return None


def _short(text: str) -> str:
    """Return a text that chat servers take: some refuse more than 2,000 characters."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _failed(nodes: list[dict[str, Any]]) -> bool:
    """Return whether an attempt failed, or an agent ended without a word."""
    return any(node.get("end") in ("failed", None) for node in nodes)


def _follows(run: RunDir, allocation: Allocation) -> bool:
    """Return whether a job was submitted behind another, which is told of already."""
    return any(e.get("after") and str(e["job_id"]) == allocation.job_id for e in snapshot(run).jobs)


def _has_successor(run: RunDir, allocation: Allocation) -> bool:
    return any(str(e.get("after")) == allocation.job_id for e in snapshot(run).jobs)


def _ends(allocation: Allocation) -> bool:
    """Return whether this job ends for good: Slurm does not queue it again, nobody cancelled it.

    Where Slurm cannot be asked from a node, what its exit status says holds; where it does not
    answer, nothing is said.
    """
    if not allocation.slurm:
        return True
    try:
        fields = scontrol.show_job(allocation.job_id)
    except Refused:
        return True
    except Silent:
        return False
    same = int(fields.get("Restarts") or 0) == allocation.restarts
    # That of a script that ends by itself is not known to Slurm yet.
    return same and (scontrol.runs(fields) or fields.get("JobState") in ENDED)


def notice_of_sweep(sweep: SweepDir, allocation: Allocation) -> Notice | None:
    """Return what there is to tell of a sweep at the end of a worker; None while it is not over.

    Raises:
        UsageError: the file of a search is damaged.
    """
    if (read_json(sweep.request) or {}).get("stop"):
        return None
    trials = read_trials(sweep)
    found = read_search(sweep)
    if found is not None:
        own = sum(trial.best_of is None for trial in trials)
        if own < found.search.target or (found.search.last_runs and own == len(trials)):
            return None
    runs = [sweep.run(trial) for trial in trials]
    if not runs or not all(map(ended, runs)):
        return None
    states = Counter(map(_trial_end, runs))
    said = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return Notice(
        sweep.name,
        kind="sweep",
        state="failed" if states["failed"] else "finished",
        text=f"sweep {sweep.name} is over: {said}",
        folder=str(sweep.path),
        job=allocation.job_id,
        trials=dict(states),
    )


def _trial_end(run: RunDir) -> str:
    if read_json(run.results) is not None:
        return "finished"
    return "ended early" if asked_to_end(run) else "failed"


def tell(notice: Notice, how: str) -> str | None:
    """Send a notice to an address or a command; return why that did not work.

    Args:
        notice: what is told.
        how: `cluster.notify`: `http(s)://…`, `@FILE` whose first line is one of the others, or a
            command for bash.
    """
    try:
        how = spelled_out(how)
    except UsageError as error:
        return str(error)
    body = json.dumps(notice.plain(), ensure_ascii=False)
    if how.startswith(("http://", "https://")):
        return _post(how, body)
    return _command(how, notice, body)


def spelled_out(how: str) -> str:
    """Return the address or command that `cluster.notify` means, out of the file if it names one.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    if not how.startswith("@"):
        return how
    path = Path(how[1:]).expanduser()
    try:
        found = path.read_text().strip().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {said}") from None
    if not found:
        raise UsageError(f"{path} is empty")
    return found


def _post(address: str, body: str) -> str | None:
    headers = {"Content-Type": "application/json", "User-Agent": "glueline"}
    said = ""
    for pause in (1.0, 0.0):
        try:
            request = urllib.request.Request(address, body.encode(), headers)
            with urllib.request.urlopen(request, timeout=ADDRESS_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            # Of the address no more than the host: the rest of a webhook's is a secret.
            said = f"{_host(address)} answers {error.code} {error.reason}"
            if error.code not in BUSY:
                break
            time.sleep(pause)
        except (OSError, ValueError) as error:
            said = f"{_host(address)} is not reached: {getattr(error, 'reason', error)}"
            time.sleep(pause)
    return said


def _host(address: str) -> str:
    return address.split("/")[2].rpartition("@")[2] or "the address"


def _command(command: str, notice: Notice, body: str) -> str | None:
    environment = {
        "GLUELINE_NAME": notice.name,
        "GLUELINE_STATE": notice.state,
        "GLUELINE_TEXT": notice.text,
        "GLUELINE_FOLDER": notice.folder,
    }
    try:
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            input=body,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the command did not end within {COMMAND_SECONDS:.0f} s"
    except OSError as error:
        return f"bash does not start: {error.strerror}"
    if done.returncode == 0:
        return None
    said = " ".join(done.stderr.split())[-200:]
    return f"the command ended with status {done.returncode}" + (f": {said}" if said else "")


def notify(folder: Path, status: int, environ: Mapping[str, str] = os.environ) -> str | None:
    """Tell that a run or a sweep is over, once; return what became of it in words.

    Args:
        folder: a run directory, or the folder of a sweep.
        status: exit status of the job that ends.
        environ: the job's variables.

    Returns:
        None where there is nothing to tell, or nobody to tell it.

    Raises:
        UsageError: a configuration cannot be read.
    """
    allocation = read_allocation(environ)
    if folder.parent.name == SWEEPS_FOLDER:
        sweep = SweepDir(folder)
        trials = read_trials(sweep)
        if not trials:
            return None
        how = trial_config(sweep, trials[0]).cluster.notify
        notice = notice_of_sweep(sweep, allocation) if how else None
    else:
        run = RunDir(folder)
        config = load_config(run.config)
        how = config.cluster.notify
        notice = notice_of_run(run, config, allocation, status) if how else None
    if how is None or notice is None:
        return None
    place = folder / NOTICES
    # Two workers may end at once, and a job may be started once more by mistake.
    try:
        place.mkdir(exist_ok=True)
        if not publish(place / f"{notice.key}.json", json.dumps(notice.plain()) + "\n"):
            return None
    except OSError as error:
        say(f"cannot write {place}: {error.strerror}")  # a full disk is to be told of, too
    problem = tell(notice, how)
    return f"told: {notice.text}" if problem is None else f"could not tell: {problem}"


def main() -> int:
    """Run it. The exit status of the job is not ours to change: always 0."""
    try:
        words = notify(Path(sys.argv[1]), int(sys.argv[2]))
        if words:
            say(words)
    except (UsageError, OSError) as error:
        say(f"could not tell: {error}")
    except Exception:
        say(f"could not tell:\n{traceback.format_exc()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
