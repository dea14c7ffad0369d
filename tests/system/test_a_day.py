"""A day on a cluster without accounting: every command around a run, on a real Slurm."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import glueline
from tests.present import present
from tests.slurm.slurmtools import start_now, wait_for
from training.rundir import RunDir, json_lines, read_json

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

MAILER = """#!/bin/bash
echo "$*" >> {log}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder that all hosts see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared):
    """Start one host of one core, whose mail is a line of a file."""
    mailer = shared / "mailer"
    mailer.write_text(MAILER.format(log=shared / "mails"))
    mailer.chmod(0o755)
    (shared / "mails").touch(mode=0o666)
    (shared / "mails").chmod(0o666)
    state = Path(f"/var/tmp/glueline-told-{os.getpid()}")
    config = ClusterConfig(
        state=state,
        nodes=1,
        cpus=1,
        accounting=False,
        share=(shared,),
        extra_conf=(f"MailProg={mailer}",),
    )
    with VirtualCluster(config) as made:
        yield made


WORDS = ["--task", "demo", "--model", "tiny", "--tracker", "none", "--global-batch", "8"]


@pytest.fixture(scope="module")
def typed(cluster, shared):
    """Return a function that runs a command in the runs folder of the cluster."""

    def run(name, *words, code=0):
        more = ("--runs", str(shared / "runs"))
        done = glueline(name, *words, *more, cwd=shared, env=cluster.env(), timeout=400)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def submit(typed, shared):
    """Return a function that submits a run and returns it with its job."""

    def submitted(name, *more):
        typed("submit", *WORDS, "--name", name, *more)
        run = RunDir(shared / "runs" / name)
        return run, present(read_json(run.jobs))["jobs"][-1]["job_id"]

    return submitted


@pytest.fixture(scope="module")
def status(typed):
    """Return a function that returns what status says of a run."""
    return lambda run: json.loads(typed("status", run.run_id, "--json"))


def at_step(run, number):
    wait_for("no steps", lambda: (read_json(run.progress) or {}).get("step", 0) >= number, 300)


def test_a_queue_a_requeue_and_who_is_told(cluster, shared, typed, submit, status):
    log = shared / "told.jsonl"
    tells = ("--set", f"cluster.notify=cat >> {log}; echo >> {log}")
    long = (*tells, "--max-steps", "1000", "--set", "cluster.mail=me@example.org", "--time", "30")
    first, job = submit("first", *long)
    _, other = submit("second", *tells, "--max-steps", "9", "--set", "train.fault=raise@2")
    third, _ = submit("third", *tells, "--max-steps", "9")
    at_step(first, 3)
    seen = status(first)
    assert seen["state"] == "running"
    assert 1200 < seen["left_seconds"] < 1800
    seen = status(third)
    assert (seen["state"], seen["place"]) == ("queued", 2)
    assert seen["queue"].startswith("place 2 of 2 in partition ")
    assert "place 2 of 2" in typed("status", "third")
    assert "third" in typed("status")

    # Nobody is told of what goes on by itself.
    environment = os.environ | cluster.env()
    subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)
    wait_for("not queued again", lambda: status(first)["state"] == "queued", 300)
    assert not log.exists() or job not in {n["job"] for n in json_lines(log)}
    wait_for("no failure is told", log.exists, 300)
    wait_for("the third does not end", third.results.exists, 300)
    start_now(job, environment)
    wait_for("the first does not end", first.results.exists, 600)
    wait_for("not told", lambda: job in {n["job"] for n in json_lines(log)}, 300)
    told = {n["name"]: n for n in json_lines(log)}
    assert len(told) == len(list(json_lines(log))) == 3
    assert {name: n["state"] for name, n in told.items()} == {
        "first": "finished", "second": "failed", "third": "finished"
    }  # fmt: skip
    assert (told["first"]["attempt"], told["second"]["job"]) == (1, other)
    assert "pretended at step 2" in told["second"]["cause"]
    wait_for("no mail", lambda: "Ended" in (shared / "mails").read_text(), 300)
    mails = (shared / "mails").read_text()
    assert "me@example.org" in mails
    assert f"Id={other} " not in mails.replace("Job_id", "Id")

    found = json.loads(typed("list", "--where", "max_steps=9", "--sort", "name", "--json"))
    assert [(r["run_id"], r["state"]) for r in found] == [
        ("second", "failed"), ("third", "finished")
    ]  # fmt: skip
    said = typed("logs", "second", "--first-error", code=1)
    assert "RuntimeError: pretended at step 2" in said
    assert "Traceback" in said
    assert typed("logs", "first", "--lines", "1").count("\n") == 1
    assert "it breathes water" in typed("predict", "first", "it has fins", "it breathes water")
    assert "accuracy" in typed("report", "first")


def test_save_cancel_clean(cluster, typed, submit, status):
    running, _ = submit("running", "--max-steps", "5000")
    queued, _ = submit("queued", "--max-steps", "9")
    at_step(running, 3)
    typed("logs", "queued")  # says why there is none
    assert "asked for a checkpoint" in typed("save", "running")
    wait_for("it does not save", lambda: list(running.checkpoints.glob("step-*")), 300)
    typed("cancel", "queued", "--yes")
    typed("cancel", "running", "--yes")
    wait_for("it does not end", lambda: status(running)["state"] == "interrupted", 300)
    assert status(queued)["state"] == "interrupted"
    assert not queued.attempt_numbers()
    listed = subprocess.run(
        ["squeue", "-h", "-o", "%i"], env=os.environ | cluster.env(), capture_output=True, text=True
    )
    assert listed.stdout.split() == []
    assert list(running.checkpoints.glob("step-*"))
    typed("clean", "running", "--checkpoints", "--yes")
    assert not list(running.checkpoints.glob("step-*"))


def test_a_rehearsal(typed):
    said = typed("rehearse", "timeout", *WORDS[:-2])
    assert said.rstrip().endswith("resumed as it should")
