"""Who is told when a run or a sweep is over: once, and only then."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from slurm.notice import Notice, notify, tell
from tests.launch.commandline import glueline
from tests.slurm.slurmtools import wait_for
from training.rundir import NOTICES, RunDir, write_json
from training.sweepdir import SweepDir, Trial


def a_run(folder: Path, **cluster: Any) -> RunDir:
    """Return a run directory with a configuration and nothing else."""
    run = RunDir(folder / "runs" / "mnli-1")
    run.path.mkdir(parents=True)
    write_json(run.config, {"cluster": cluster})
    return run


def node(run: RunDir, attempt: int, end: str, **more: Any) -> None:
    run.attempt(attempt).mkdir(parents=True, exist_ok=True)
    record = {"job_id": "7", "restarts": attempt, "host": "n1", "end": end}
    write_json(run.node(attempt, 0), record | more)


def told(folder: Path) -> list[dict[str, Any]]:
    path = folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}


@pytest.fixture
def keeps(tmp_path: Path) -> str:
    """Return a command that keeps what it is told."""
    return f"cat >> '{tmp_path}/told.jsonl'; echo >> '{tmp_path}/told.jsonl'"


def test_a_finished_run_is_told_once(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, "finished")
    write_json(run.results, {"primary_metric": "accuracy", "primary_value": 0.84321})
    assert notify(run.path, 0, SLURM) == "told: mnli-1 finished: accuracy 0.8432"
    assert notify(run.path, 0, SLURM) is None
    (notice,) = told(tmp_path)
    assert notice["state"] == "finished"
    assert notice["text"] == notice["content"] == "mnli-1 finished: accuracy 0.8432"
    assert (notice["job"], notice["value"], notice["folder"]) == ("7", 0.84321, str(run.path))
    assert [json.loads(p.read_text()) for p in (run.path / NOTICES).iterdir()] == [notice]


CAUSE = {"time": 1.0, "kind": "ValueError", "message": "a bad\n row", "rank": 0}


@pytest.mark.parametrize(
    ("end", "verdict", "request_", "says"),
    [
        ("failed", {"action": "stop", "why": "…"}, {}, "mnli-1 failed: n1: a bad row"),
        ("failed", {"action": "requeue", "why": "…"}, {}, None),
        ("interrupted", None, {}, None),
        ("failed", {"action": "stop", "why": "…"}, {"stop": True}, None),
    ],
)
def test_a_failure_is_told_when_it_is_not_tried_again(
    tmp_path, keeps, end, verdict, request_, says
):
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, end, cause=CAUSE)
    if verdict:
        write_json(run.verdict(0), verdict)
    if request_:
        write_json(run.request, request_)
    assert notify(run.path, 1, SLURM) == (f"told: {says}" if says else None)
    assert [n["text"] for n in told(tmp_path)] == ([says] if says else [])


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return what Slurm says of the job, to be changed."""
    fields = {"JobState": "RUNNING"}
    monkeypatch.setattr("slurm.scontrol.show_job", lambda job: fields)
    return fields


def test_a_resumed_run_is_told_of_again(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, "failed", cause=CAUSE)
    write_json(run.verdict(0), {"action": "stop", "why": "…"})
    notify(run.path, 1, SLURM)
    again = SLURM | {"SLURM_JOB_ID": "8"}
    assert "before the node agent wrote" in str(notify(run.path, 1, again))
    node(run, 1, "finished", job_id="9")
    write_json(run.results, {})
    notify(run.path, 0, SLURM | {"SLURM_JOB_ID": "9"})
    assert [n["state"] for n in told(tmp_path)] == ["failed", "failed", "finished"]


@pytest.mark.parametrize("slurm", ["RUNNING", "CANCELLED", "PENDING", "COMPLETING"])
def test_a_job_that_never_began_is_told_unless_it_comes_back(tmp_path, keeps, state, slurm):
    """Slurm may take the nodes back while Python starts; then it starts again."""
    state["JobState"] = slurm
    run = a_run(tmp_path, notify=keeps)
    assert notify(run.path, 0, SLURM) is None
    said = notify(run.path, 1, SLURM)
    assert ("before the node agent wrote" in str(said)) is (slurm == "RUNNING")


def test_a_later_start_that_never_began(tmp_path, keeps, state):
    """What an earlier start of the job left says nothing about this one."""
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, "interrupted")
    state["Restarts"] = "1"
    said = notify(run.path, 1, SLURM | {"SLURM_RESTART_COUNT": "1"})
    assert said == "told: mnli-1 failed: the job ended before the node agent wrote anything"


def test_a_failure_that_nobody_could_judge(tmp_path, keeps, state):
    """On a full disk the verdict cannot be written, nor the notice: it is told all the same."""
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, "failed", cause=CAUSE)
    (run.path / NOTICES).write_text("in the way")
    assert notify(run.path, 1, SLURM) == "told: mnli-1 failed: n1: a bad row"
    state["JobState"] = "PENDING"
    assert notify(run.path, 1, SLURM) is None


def test_the_last_requeue_is_told(tmp_path, keeps, state):
    run = a_run(tmp_path, notify=keeps, max_requeues=2)
    node(run, 2, "interrupted")
    node(run, 1, "interrupted")
    assert notify(run.path, 0, SLURM | {"SLURM_RESTART_COUNT": "1"}) is None
    last = SLURM | {"SLURM_RESTART_COUNT": "2"}
    assert notify(run.path, 0, last) is None  # Slurm itself queued it again
    state["Restarts"] = "2"
    assert notify(run.path, 0, last) == "told: mnli-1 interrupted: cluster.max_requeues is reached"


def test_a_chain_of_jobs_is_told_once(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps, requeue="no")
    chain = [{"job_id": "7"}, {"job_id": "8", "after": "7"}, {"job_id": "9", "after": "8"}]
    write_json(run.jobs, {"jobs": chain})
    jobs = [SLURM | {"SLURM_JOB_ID": str(n)} for n in (7, 8, 9)]
    node(run, 0, "interrupted")
    assert notify(run.path, 0, jobs[0]) is None
    node(run, 1, "failed", job_id="8", restarts=0, cause=CAUSE)
    write_json(run.verdict(1), {"action": "stop", "why": "…"})
    assert notify(run.path, 1, jobs[1]) == "told: mnli-1 failed: n1: a bad row"
    assert notify(run.path, 1, jobs[2]) is None
    write_json(run.results, {})
    assert [notify(run.path, 0, job) for job in jobs] == ["told: mnli-1 finished", None, None]


def test_the_end_of_a_chain_is_told(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps, requeue="no")
    node(run, 0, "interrupted")
    write_json(run.jobs, {"jobs": [{"job_id": "7"}]})
    said = notify(run.path, 0, SLURM)
    assert said == "told: mnli-1 interrupted: no job comes after this one"


def test_a_long_text_is_cut(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, "failed", cause=CAUSE | {"message": "x" * 5000})
    write_json(run.verdict(0), {"action": "stop", "why": "…"})
    notify(run.path, 1, SLURM)
    (notice,) = told(tmp_path)
    assert len(notice["content"]) < 1100
    assert len(notice["cause"]) > 5000


def test_nobody_to_tell(tmp_path):
    run = a_run(tmp_path)
    write_json(run.results, {})
    assert notify(run.path, 0, SLURM) is None
    assert not (run.path / NOTICES).exists()


@contextmanager
def server(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """Give an address and what was posted there."""
    found: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/secret", found
    finally:
        made.shutdown()
        made.server_close()


NOTICE = Notice("r", "run", "finished", "r finished", "/runs/r", "7")


def test_an_address_gets_a_post(tmp_path):
    with server() as (address, posted):
        assert tell(NOTICE, address) is None
        hidden = tmp_path / "address"
        hidden.write_text(address + "\n")
        assert tell(NOTICE, f"@{hidden}") is None
    assert posted == [("/secret", "application/json", NOTICE.plain())] * 2


def test_what_does_not_work_is_said_without_the_secret(tmp_path):
    with server(403) as (address, posted):
        said = str(tell(NOTICE, address))
        assert "answers 403" in said
        assert "secret" not in said
        assert len(posted) == 1
    with server(503) as (address, posted):
        assert "answers 503" in str(tell(NOTICE, address))
        assert len(posted) == 2
    assert "is not reached" in str(tell(NOTICE, address))
    assert "No such file" in str(tell(NOTICE, f"@{tmp_path}/none"))
    assert tell(NOTICE, "echo 'no such user' >&2; exit 3") == (
        "the command ended with status 3: no such user"
    )


def test_a_command_sees_the_words_as_variables(tmp_path):
    assert tell(NOTICE, f'echo "$GLUELINE_STATE $GLUELINE_TEXT" > {tmp_path}/said') is None
    assert (tmp_path / "said").read_text() == "finished r finished\n"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cluster.mail", "not an address", "write name@host"),
        ("cluster.mail", "a@b,c@d", "write name@host"),
        ("cluster.notify", " ", "must be one line"),
    ],
)
def test_a_wrong_address_is_refused(tmp_path, key, value, words):
    done = glueline(
        *("submit", "--task", "demo", "--model", "tiny", "--executor", "local", "--dry-run"),
        *("--set", f"{key}={value}"),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stdout
    assert words in done.stderr


def test_a_local_run_tells(tmp_path, keeps):
    done = glueline(
        *("submit", "--task", "demo", "--model", "tiny", "--executor", "local", "--wait"),
        *("--max-steps", "2", "--tracker", "none", "--set", f"cluster.notify={keeps}"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # The controller tells it after the run's last file.
    wait_for("nothing is told", lambda: told(tmp_path), 30)
    (notice,) = told(tmp_path)
    assert (notice["kind"], notice["state"]) == ("run", "finished")


def test_a_sweep_is_told_when_its_last_trial_is_over(tmp_path, keeps):
    sweep = SweepDir(tmp_path / "runs" / ".sweeps" / "lr")
    sweep.path.mkdir(parents=True)
    write_json(sweep.base("d"), {"cluster": {"notify": keeps}})
    trials = [Trial(k, f"r{k}", {"seed": k}, base="d") for k in range(3)]
    sweep.trials.write_text("".join(json.dumps(t.plain()) + "\n" for t in trials))
    first, second, third = map(sweep.run, trials)
    first.path.mkdir()
    write_json(first.results, {})
    node(second, 0, "failed", cause=CAUSE)
    write_json(second.verdict(0), {"action": "stop", "why": "…"})
    assert notify(sweep.path, 0, SLURM) is None
    third.path.mkdir()
    write_json(third.results, {})
    said = "told: sweep lr is over: 2 finished, 1 failed"
    assert notify(sweep.path, 0, SLURM) == said
    assert notify(sweep.path, 0, SLURM | {"SLURM_JOB_ID": "8"}) is None
    (notice,) = told(tmp_path)
    assert (notice["kind"], notice["state"]) == ("sweep", "failed")
    assert notice["trials"] == {"finished": 2, "failed": 1}
    # Tried again with success, it is told again.
    write_json(second.results, {})
    assert notify(sweep.path, 0, SLURM) == "told: sweep lr is over: 3 finished"
