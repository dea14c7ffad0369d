"""Asking a run for a checkpoint."""

import time

from training.rundir import RunDir, read_json, write_json

from .commandline import assert_refused, glueline


def test_only_of_a_running_run(tmp_path):
    done = glueline("save", "none", cwd=tmp_path)
    assert_refused(done, "no run 'none'")


def test_a_running_run_saves_and_goes_on(tmp_path):
    done = glueline(
        "submit",
        *("--executor", "local", "--task", "demo", "--model", "tiny", "--name", "r"),
        *("--max-steps", "100000", "--log-every", "50", "--tracker", "none"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = RunDir(tmp_path / "runs" / "r")
    try:
        deadline = time.monotonic() + 90
        while not (read_json(run.progress) or {}).get("step"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        write_json(run.request, {"note": 1})
        done = glueline("save", "r", cwd=tmp_path)
        assert done.returncode == 0 and "asked for a checkpoint" in done.stdout, done.stderr
        assert (read_json(run.request) or {})["note"] == 1
        while (read_json(run.progress) or {}).get("checkpoint") is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        kept = read_json(run.progress) or {}
        assert kept["phase"] == "training" and kept["step"] >= kept["checkpoint"] > 0
    finally:
        glueline("cancel", "r", "--yes", cwd=tmp_path)
    while not (read_json(run.progress) or {})["interrupted"]:
        assert time.monotonic() < deadline + 30
        time.sleep(0.2)
    deadline = time.monotonic() + 30
    while glueline("save", "r", cwd=tmp_path).returncode == 0:
        assert time.monotonic() < deadline
    assert_refused(glueline("save", "r", cwd=tmp_path), "is not running: it is interrupted")
