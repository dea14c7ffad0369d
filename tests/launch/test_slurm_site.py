import subprocess
import time

import pytest

from launch import slurm_site
from launch.limits import parse_limit
from launch.slurm_site import (
    JobInfo,
    SlurmSilent,
    job_states,
    parse_gpus,
    parse_sacct,
    parse_scontrol,
    parse_sinfo,
    parse_squeue,
)

SINFO = """\
main*|up|1-00:00:00|3|64|257000|idle|n[01-03]|ib,a100|gpu:a100:4(S:0-1)
main*|up|1-00:00:00|1|48|128000|mix-|n04|ib|gpu:a100:2(S:0-1)
main*|up|1-00:00:00|2|64|257000|down*|n[05-06]|ib,a100|gpu:a100:4(S:0-1)
cpu|up|infinite|10|128|515000|alloc|c[1-10]|(null)|(null)
both|up|2:00:00|2|32|64000|idle|b[1-2]|v100,t4|gpu:v100:2,gpu:t4:1,mps:400
both|up|2:00:00|1|32|64000|idle~|b3|(null)|(null)
old|down|30:00|1|8|16000|drain|o1|(null)|gpu:2
empty|up|infinite|0|0|0|n/a|||(null)
"""


def test_partitions():
    found = {p.name: p for p in parse_sinfo(SINFO)}
    main = found["main"]
    assert main.default and main.up
    assert (main.nodes, main.usable) == (6, 4)
    assert (main.cpus_per_node, main.memory_mb, main.gpus_per_node) == (48, 128000, 2)
    assert main.gpu_types == ("a100",)
    assert [(k.nodes, k.usable, k.first) for k in main.kinds] == [
        (3, True, "n01"),
        (1, True, "n04"),
        (2, False, "n05"),
    ]
    assert main.kinds[0].features == {"ib", "a100"} and main.kinds[0].gpus == {"a100": 4}
    assert main.time_limit_minutes == 1440
    assert found["cpu"].gpus_per_node == 0
    assert found["cpu"].time_limit_minutes is None
    assert found["both"].gpus_per_node == 0  # the smallest node has none
    assert found["both"].gpu_types == ("t4", "v100")
    assert found["old"].gpus_per_node == 2
    assert not found["old"].up
    assert (found["old"].usable, found["empty"].nodes, found["empty"].cpus_per_node) == (0, 0, 0)


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:2", {"": 2}),
        ("gpu:2(S:0,2)", {"": 2}),
        ("(null)", {}),
        ("", {}),
        ("gpu", {"": 1}),
        ("gpu:h100", {"h100": 1}),
        ("gpu:v100:2,gpu:t4:1,mps:400", {"v100": 2, "t4": 1}),
        ("gpu:a100_3g.20gb:2(S:0),gpu:a100:1(IDX:0,3)", {"a100_3g.20gb": 2, "a100": 1}),
        ("shard:8,license:2", {}),
    ],
)
def test_gpus(gres, expected):
    assert parse_gpus(gres) == expected


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("30:00", 30),
        ("1:00:00", 60),
        ("2-00:00:00", 2880),
        ("30", 30),
        ("n/a", None),
    ],
)
def test_limits(text, minutes):
    assert parse_limit(text) == minutes


SQUEUE = """\
12|PENDING|2026-11-20T10:00:00|N/A|mnli-tiny|  |Resources
13|RUNNING|2026-11-20T10:00:00|2026-11-20T10:00:05|a|b|node[1-2]|None
14_3|COMPLETING|2026-11-20T10:00:00|2026-11-20T10:00:05|x|node1|None
15|OUT_OF_MEMORY|2026-11-20T10:00:00|2026-11-20T10:00:05|x|node1|OutOfMemory
"""


def test_squeue():
    lines = SQUEUE.replace("a|b|", "ab|")
    found = {j.id: j for j in parse_squeue(lines)}
    assert (found["12"].state, found["12"].reason) == ("queued", "Resources")
    assert found["12"].start is None
    assert (found["13"].state, found["13"].reason) == ("running", "")
    assert found["13"].nodes == ("node[1-2]",)
    assert found["14_3"].state == "running"  # on its way back to the queue, perhaps
    assert (found["15"].state, found["15"].slurm) == ("gone", "OUT_OF_MEMORY")
    assert found["13"].submitted == time.mktime((2026, 11, 20, 10, 0, 0, 0, 0, -1))


SACCT = """\
7|CANCELLED by 1000|0:15|2026-11-20T10:00:00|2026-11-20T10:00:01|x|node1|None
7|COMPLETED|0:0|2025-01-01T10:00:00|2025-01-01T10:00:01|other|node1|None
8|NODE_FAIL|1:0|2026-11-20T10:00:00|2026-11-20T10:00:01|x|node[1-2]|NodeDown
8.batch|FAILED|1:0|2026-11-20T10:00:00|2026-11-20T10:00:01|x|node1|
"""


def test_sacct():
    found = parse_sacct(SACCT)
    assert [j.slurm for j in found if j.id == "7"] == ["CANCELLED", "COMPLETED"]
    (lost,) = [j for j in found if j.id == "8"]
    assert (lost.state, lost.slurm, lost.exit_code, lost.reason) == (
        "gone",
        "NODE_FAIL",
        "1:0",
        "NodeDown",
    )


SCONTROL = (
    "JobId=5 JobName=mnli UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=1 "
    "JobState=TIMEOUT Reason=TimeLimit Dependency=(null) Requeue=1 Restarts=0 ExitCode=0:15 "
    "SubmitTime=2026-11-20T10:00:00 StartTime=2026-11-20T10:00:05 NodeList=node[1-2] "
    "Command=/a b/x.sh WorkDir=/runs"
)


def test_scontrol():
    (job,) = parse_scontrol(SCONTROL, "5")
    assert (job.state, job.slurm, job.reason, job.exit_code) == (
        "gone",
        "TIMEOUT",
        "TimeLimit",
        "0:15",
    )
    assert job.name == "mnli"
    assert parse_scontrol("", "5") == []


class Slurm:
    """Answers by the command's name; an exception or (status, stderr) too."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def __call__(self, command, **kwargs):
        self.asked.append(command[0])
        answer = self.answers.get(command[0], (1, "fatal"))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, tuple):
            return subprocess.CompletedProcess(command, answer[0], "", answer[1])
        return subprocess.CompletedProcess(command, 0, answer, "")


@pytest.fixture
def slurm(monkeypatch):
    def install(**answers):
        fake = Slurm(**answers)
        monkeypatch.setattr(slurm_site.subprocess, "run", fake)
        return fake

    slurm_site.partitions.cache_clear()
    yield install
    slurm_site.partitions.cache_clear()


INVALID = (1, "slurm_load_jobs error: Invalid job id specified")


def test_the_queue_knows_it(slurm):
    fake = slurm(squeue=SQUEUE.splitlines()[0])
    assert job_states(["12"])["12"].state == "queued"
    assert fake.asked == ["squeue"]


def test_accounting_knows_it(slurm):
    slurm(squeue=INVALID, sacct=SACCT)
    assert job_states(["8"])["8"].slurm == "NODE_FAIL"


def test_without_accounting_the_controller_is_asked(slurm):
    fake = slurm(
        squeue=INVALID, sacct=(1, "Slurm accounting storage is disabled"), scontrol=SCONTROL
    )
    assert job_states(["5"])["5"].slurm == "TIMEOUT"
    assert fake.asked == ["squeue", "sacct", "scontrol"]


def test_nobody_knows_it(slurm):
    slurm(squeue=INVALID)
    assert job_states(["5"]) == {"5": JobInfo("5", "gone", "UNKNOWN")}
    assert job_states([]) == {}


def test_an_id_that_was_used_before(slurm):
    old = "7|RUNNING|2025-01-01T10:00:00|2025-01-01T10:00:05|other|node1|None\n"
    slurm(squeue=old, sacct=SACCT)
    ours = time.mktime((2026, 11, 20, 10, 0, 1, 0, 0, -1))
    assert job_states(["7"], {"7": ours})["7"].slurm == "CANCELLED"


@pytest.mark.parametrize(
    "answer",
    [
        (1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        subprocess.TimeoutExpired("squeue", 10),
        FileNotFoundError(),
    ],
)
def test_a_silent_controller_is_one_clear_error(slurm, answer):
    slurm(squeue=answer, sinfo=answer)
    with pytest.raises(SlurmSilent, match=r"does not answer|is not on this machine"):
        job_states(["5"])
    with pytest.raises(SlurmSilent):
        slurm_site.partitions()
    assert slurm_site.sbatch_available() is False


def test_partitions_are_asked_once(slurm, monkeypatch):
    fake = slurm(sinfo=SINFO)
    monkeypatch.setattr(slurm_site.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert slurm_site.sbatch_available()
    assert len(slurm_site.partitions()) == 5
    assert fake.asked == ["sinfo"]


def test_a_thousand_jobs_are_a_few_questions(slurm, monkeypatch):
    """Command lines stay short, and what nobody knows is not asked for one by one."""
    asked = []

    def ask(*command):
        asked.append(command)
        if command[0] == "squeue":
            ids = command[command.index("-j") + 1].split(",")
            return "".join(f"{i}|RUNNING|N/A|N/A|x|n1|None\n" for i in ids if int(i) % 2)
        return ""

    monkeypatch.setattr(slurm_site, "_ask", ask)
    ids = [str(10_000_000 + i) for i in range(2500)]
    found = job_states(ids)
    assert {i.state for i in found.values()} == {"running", "gone"} and len(found) == 2500
    assert len(asked) <= 3 + 2 + slurm_site.ONE_BY_ONE
    assert max(len(" ".join(command)) for command in asked) < 20_000
