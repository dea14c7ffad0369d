"""On a real Slurm: what status says of a queue and a limit, and who is told of the end."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import glueline
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
        state=state, nodes=1, cpus=1, share=(shared,), extra_conf=(f"MailProg={mailer}",)
    )
    with VirtualCluster(config) as made:
        yield made


def test_a_requeued_run_and_a_failed_one(cluster, shared):
    runs, log = shared / "runs", shared / "told.jsonl"
    keep = f"cat >> {log}; echo >> {log}"
    words = ["--task", "demo", "--model", "tiny", "--tracker", "none", "--runs", str(runs)]
    words += ["--global-batch", "8", "--set", f"cluster.notify={keep}"]

    def submit(name, *more):
        done = glueline(
            "submit", *words, "--name", name, *more, cwd=shared, env=cluster.env(), timeout=120
        )
        assert done.returncode == 0, done.stderr
        run = RunDir(runs / name)
        return run, read_json(run.jobs)["jobs"][-1]["job_id"]

    def status(run):
        done = glueline("status", str(run.path), "--json", cwd=shared, env=cluster.env())
        return json.loads(done.stdout)

    long = ("--max-steps", "300", "--set", "cluster.mail=me@example.org", "--time", "30")
    first, job = submit("first", *long)
    second, other = submit("second", "--max-steps", "9", "--set", "train.fault=raise@2")
    third, _ = submit("third", "--max-steps", "9")
    wait_for("no steps", lambda: (read_json(first.progress) or {}).get("step", 0) > 2, 120)
    seen = status(first)
    assert seen["state"] == "running"
    assert 1200 < seen["left_seconds"] < 1800
    seen = status(third)
    assert (seen["state"], seen["place"]) == ("queued", 2)
    assert seen["queue"].startswith("place 2 of 2 in partition ")
    assert "place 2 of 2" in glueline(
        "status", "third", "--runs", str(runs), cwd=shared, env=cluster.env()
    ).stdout  # fmt: skip

    # Nobody is told of what goes on by itself.
    environment = os.environ | cluster.env()
    subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)
    wait_for("not queued again", lambda: status(first)["state"] == "queued", 60)
    assert not log.exists() or job not in {n["job"] for n in json_lines(log)}
    wait_for("no failure is told", log.exists, 120)
    wait_for("the third does not end", third.results.exists, 120)
    start_now(job, environment)
    wait_for("the first does not end", first.results.exists, 180)
    wait_for("not told", lambda: job in {n["job"] for n in json_lines(log)}, 60)
    told = {n["name"]: n for n in json_lines(log)}
    assert len(told) == len(list(json_lines(log))) == 3
    assert {name: n["state"] for name, n in told.items()} == {
        "first": "finished", "second": "failed", "third": "finished"
    }  # fmt: skip
    assert (told["first"]["attempt"], told["second"]["job"]) == (1, other)
    assert "pretended at step 2" in told["second"]["cause"]
    wait_for("no mail", lambda: "Ended" in (shared / "mails").read_text(), 30)
    mails = (shared / "mails").read_text()
    assert "me@example.org" in mails
    assert f"Id={other} " not in mails.replace("Job_id", "Id")

    done = glueline(
        *("list", "--runs", str(runs), "--where", "max_steps=9", "--sort", "name", "--json"),
        cwd=shared, env=cluster.env(),
    )  # fmt: skip
    assert [(r["run_id"], r["state"]) for r in json.loads(done.stdout)] == [
        ("second", "failed"), ("third", "finished")
    ]  # fmt: skip
