import io
import socket
import subprocess
import sys
import threading
import time

import pytest

from launch.logs import start_of_last
from tests.launch.commandline import ROOT, assert_refused, clean_environment, glueline
from training.rundir import RunDir, write_json


@pytest.fixture
def run(tmp_path):
    """A failed run of two nodes with two ranks each, after an attempt that was interrupted."""
    run = RunDir(tmp_path / "runs" / "r")
    for attempt in (0, 1):
        run.logs(attempt).mkdir(parents=True)
        for rank in range(4):
            text = "".join(f"attempt {attempt} rank {rank} line {i}\n" for i in range(5))
            run.rank_log(attempt, rank // 2, rank).write_text(text)
        for node in (0, 1):
            run.torchrun_log(attempt, node).write_text(f"torchrun of node {node}\n")
    run.config.write_text("{}")
    entry = {"job_id": "1", "executor": "local", "first_attempt": 0}
    write_json(run.jobs, {"jobs": [entry | {"host": socket.gethostname()}]})
    run.submitit.mkdir()
    for node in (0, 1):
        (run.submitit / f"1_{node}_log.out").write_text(f"agent of node {node}\n")
    write_json(run.node(0, 0), {"end": "interrupted", "ended": 1.0, "host": "n0", "job_id": "1"})
    cause = {"time": 1.0, "kind": "ValueError", "message": "no rows", "rank": 3}
    cause |= {"log": "attempts/1/logs/1-3.log"}
    ended = {"end": "failed", "ended": 2.0, "host": "n1", "job_id": "1", "cause": cause}
    write_json(run.node(1, 1), ended)
    write_json(run.rank_error(1, 1, 3), {"traceback": "Traceback (…)\nValueError: no rows\n"})
    return run


def logs(run, *words):
    return glueline("logs", run.run_id, "--runs", str(run.path.parent), *words, cwd=run.path)


def test_what_is_asked_for_is_printed(run):
    assert logs(run).stdout.splitlines()[0] == "attempt 1 rank 0 line 0"
    assert logs(run, "--attempt", "0", "--lines", "2").stdout == (
        "attempt 0 rank 0 line 3\nattempt 0 rank 0 line 4\n"
    )
    assert "rank 3" in logs(run, "--rank", "3").stdout
    assert "rank 2" in logs(run, "--node", "1").stdout
    every = logs(run, "--all", "--lines", "1").stdout
    assert [line[-13:] for line in every.splitlines()[1::2]] == [
        f"rank {i} line 4" for i in range(4)
    ]
    agent = logs(run, "--agent", "--node", "1").stdout
    assert "torchrun of node 1" in agent and "agent of node 1" in agent
    assert "node 0\n" not in agent and "node 0\n" in logs(run, "--agent").stdout


def test_the_first_cause_with_its_traceback(run):
    done = logs(run, "--errors")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "attempt 1 failed: rank 3 on n1: ValueError: no rows"
    assert "ValueError: no rows" in lines[2] and lines[-1].endswith("attempts/1/logs/1-3.log")
    assert "left no error" in logs(run, "--errors", "--attempt", "0").stderr
    # Killed by a signal: no traceback, so the log's end is shown.
    run.rank_error(1, 1, 3).unlink()
    assert "attempt 1 rank 3 line 4" in logs(run, "--errors").stdout


def test_what_repeats_is_folded(run):
    """Other ranks with the same error, and earlier attempts, are a line each, not a traceback."""
    for rank, message in ((0, "no rows"), (1, "no rows"), (2, "another")):
        error = {"time": 2.0, "kind": "ValueError", "message": message, "traceback": "…"}
        write_json(run.rank_error(1, rank // 2, rank), error)
    ended = {"end": "failed", "ended": 1.0, "host": "n0", "job_id": "1"}
    for attempt, message in ((0, "no rows"), (2, "no memory"), (3, "no memory"), (4, "no rows")):
        cause = {"time": 1.0, "kind": "ValueError", "message": message, "rank": 0}
        cause |= {"log": f"attempts/{attempt}/logs/0-0.log"}
        run.logs(attempt).mkdir(parents=True, exist_ok=True)
        write_json(run.node(attempt, 0), ended | {"cause": cause})
    done = logs(run, "--first-error")
    lines = done.stdout.splitlines()
    assert lines[0] == "attempt 4 failed: rank 0 on n0: ValueError: no rows"
    assert lines[-2:] == [
        "attempts 0, 1 failed in the same way",
        "attempts 2, 3 failed: rank 0 on n0: ValueError: no memory",
    ]
    assert "the same on 2 other ranks: 0, 1" in logs(run, "--errors", "--attempt", "1").stdout


def test_a_cause_of_an_earlier_attempt_is_not_the_last_ones(run):
    """The last attempt was ended from outside; what failed before was tried again."""
    run.logs(2).mkdir(parents=True)
    write_json(run.node(2, 0), {"host": "n0", "job_id": "1", "end": None})
    lines = logs(run, "--errors").stdout.splitlines()
    assert lines == [
        "attempt 2 failed: the job was ended from outside: it left no cause",
        "attempt 1 failed: rank 3 on n1: ValueError: no rows",
    ]
    write_json(run.results, {"primary_metric": "accuracy", "primary_value": 0.5})
    done = logs(run, "--errors")
    assert done.returncode == 0  # it finished in the end
    assert done.stdout.startswith("attempt 1 failed: rank 3")


def test_wrong_requests(run):
    assert_refused(logs(run, "--rank", "9"), "no log of rank 9", "3 (node 1)")
    assert_refused(logs(run, "--rank", "3", "--node", "0"), "rank 3 on node 0")
    assert_refused(logs(run, "--attempt", "7"), "no attempt 7", "0, 1")
    assert_refused(logs(run, "--all", "--rank", "1"), "--all")
    assert_refused(logs(run, "--all", "-f"), "--follow")
    assert_refused(logs(run, "--errors", "-f"), "--errors")
    assert_refused(logs(run, "--agent", "--rank", "1"), "--node")


def test_a_run_that_has_not_started(tmp_path):
    run = RunDir(tmp_path / "runs" / "q")
    run.path.mkdir(parents=True)
    run.config.write_text("{}")
    done = logs(run)
    assert done.returncode == 0 and done.stdout == "" and "was not submitted" in done.stderr
    other = {"job_id": "1", "executor": "local", "first_attempt": 0, "host": "elsewhere"}
    write_json(run.jobs, {"jobs": [other]})
    done = logs(run)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "has not started: job 1 is queued" in done.stderr and "status.py q" in done.stderr
    # The job ended before any agent wrote: what the job printed is what there is.
    write_json(run.jobs, {"jobs": [other | {"host": socket.gethostname()}]})
    run.submitit.mkdir()
    (run.submitit / "1_0_log.out").write_text("bash: no such python\n")
    done = logs(run)
    assert done.returncode == 1 and done.stdout == "bash: no such python\n"
    assert "left no log of its ranks" in done.stderr


def test_following_goes_through_a_requeue_to_the_end(tmp_path):
    run = RunDir(tmp_path / "runs" / "f")
    run.logs(0).mkdir(parents=True)
    run.config.write_text("{}")
    job = {"job_id": "1", "executor": "local", "first_attempt": 0, "host": "elsewhere"}
    write_json(run.jobs, {"jobs": [job]})
    write_json(run.node(0, 0), {"host": "elsewhere"})
    log = run.rank_log(0, 0, 0)
    log.write_text("one\ntwo\n")
    command = [sys.executable, str(ROOT / "launch" / "logs.py"), "f", "--runs"]
    command += [str(run.path.parent), "--follow", "--lines", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    seen = []
    assert process.stdout
    reader = threading.Thread(target=lambda: seen.extend(process.stdout or []))
    reader.start()

    def shown(text):
        deadline = time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)

    shown("two\n")
    with log.open("a") as file:
        file.write("three\n")
    shown("three\n")
    run.logs(1).mkdir(parents=True)
    run.rank_log(1, 0, 0).write_text("four\n")
    shown("four\n")
    write_json(run.results, {"metrics": {}})
    assert process.wait(30) == 0
    reader.join()
    assert seen[:2] == ["two\n", "three\n"] and "==>" in seen[2]


@pytest.mark.parametrize("size", [0, 1, 7, 70_000])
def test_last_lines_are_found_from_behind(size):
    text = b"".join(b"%d %s\n" % (i, b"x" * size) for i in range(9))
    file = io.BytesIO(text)
    for lines in (1, 3, 9, 20):
        file.seek(start_of_last(file, lines))
        assert file.read().splitlines() == text.splitlines()[-lines:]
    cut = io.BytesIO(text[:-1])
    cut.seek(start_of_last(cut, 2))
    assert cut.read() == b"\n".join(text.splitlines()[-2:])
    assert start_of_last(io.BytesIO(b""), 3) == 0
