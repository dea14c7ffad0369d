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
from training.rundir import RunDir, write_json


def a_run(folder: Path, **cluster: Any) -> RunDir:
    """Return a run directory with a configuration and nothing else."""
    run = RunDir(folder / "runs" / "mnli-1")
    run.path.mkdir(parents=True)
    write_json(run.config, {"cluster": cluster})
    return run


def node(run: RunDir, attempt: int, end: str, **more: Any) -> None:
    run.attempt(attempt).mkdir(parents=True, exist_ok=True)
    write_json(run.node(attempt, 0), {"job_id": "7", "host": "n1", "end": end, **more})


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
    assert [json.loads(p.read_text()) for p in run.notices.iterdir()] == [notice]


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


def test_a_resumed_run_is_told_of_again(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps)
    node(run, 0, "failed", cause=CAUSE)
    write_json(run.verdict(0), {"action": "stop", "why": "…"})
    notify(run.path, 1, SLURM)
    node(run, 1, "finished", job_id="8")
    write_json(run.results, {})
    notify(run.path, 0, SLURM | {"SLURM_JOB_ID": "8"})
    assert [n["state"] for n in told(tmp_path)] == ["failed", "finished"]


def test_a_job_that_never_began_is_told(tmp_path, keeps):
    """Also a resumed one, whose folder has the attempts of another job."""
    run = a_run(tmp_path, notify=keeps)
    assert notify(run.path, 0, SLURM) is None
    assert "before the node agent wrote" in str(notify(run.path, 1, SLURM))
    node(run, 0, "interrupted")
    assert "before the node agent" in str(notify(run.path, 1, SLURM | {"SLURM_JOB_ID": "8"}))


def test_the_last_requeue_is_told(tmp_path, keeps):
    run = a_run(tmp_path, notify=keeps, max_requeues=2)
    node(run, 2, "interrupted")
    assert notify(run.path, 0, SLURM | {"SLURM_RESTART_COUNT": "1"}) is None
    said = notify(run.path, 0, SLURM | {"SLURM_RESTART_COUNT": "2"})
    assert said == "told: mnli-1 interrupted: cluster.max_requeues is reached"


def test_nobody_to_tell(tmp_path):
    run = a_run(tmp_path)
    write_json(run.results, {})
    assert notify(run.path, 0, SLURM) is None
    assert not run.notices.exists()


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
