"""The agent for real, on one machine without Slurm, over small ranks without torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm import processes, scontrol
from slurm.allocation import Allocation, meeting_point, read_allocation
from slurm.command import project_root
from slurm.failure import find_cause, parse_torchrun
from slurm.handover import is_left_to_us
from training.rundir import RunDir, first_cause, run_state, snapshot, write_json

STANDINS = Path(__file__).parent / "standins"
pytest.importorskip("torch")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("cluster: {procs_per_node: 2}\n")
    return RunDir(tmp_path / "run")


def start(run: RunDir, plan: str, seconds: float = 0, **env: str) -> subprocess.Popen[str]:
    """An agent as submitit would call it, in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SUBMITIT"))}
    code = (
        "import sys; from slurm.agent import NodeAgent; "
        "print(NodeAgent(sys.argv[1], module='standin')())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)],
        env=clean
        | {
            "PYTHONPATH": f"{project_root()}:{STANDINS}",
            "GLUELINE_STANDIN": plan,
            "GLUELINE_STANDIN_SECONDS": str(seconds),
        }
        | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen(run: RunDir, rank: int, patience: float = 60) -> dict:
    deadline = time.monotonic() + patience
    path = run.logs(0) / f"seen-{rank}.json"
    while not path.exists():
        assert time.monotonic() < deadline, "the rank did not start"
        time.sleep(0.05)
    return json.loads(path.read_text())


def node(run: RunDir, attempt: int = 0, number: int = 0) -> dict:
    return json.loads(run.node(attempt, number).read_text())


def assert_gone(run: RunDir, ranks: int = 2) -> None:
    for rank in range(ranks):
        path = run.logs(0) / f"seen-{rank}.json"
        if path.exists():
            assert not Path(f"/proc/{json.loads(path.read_text())['pid']}").exists()


def test_finishes(run):
    agent = start(run, "ok")
    out, err = agent.communicate(timeout=90)
    assert agent.returncode == 0, err
    assert out.strip() == "finished"
    told = node(run)
    assert told["end"] == "finished"
    assert told["exit_code"] == 0
    assert told["cause"] is None
    assert told["host"] == socket.gethostname()
    assert told["attempt"] == told["node"] == 0
    assert told["start"] < told["ended"]
    assert "rank 1 starts" in run.rank_log(0, 0, 1).read_text()
    one = seen(run, 1)
    assert one["OMP_NUM_THREADS"] == str(max(1, told["cores"] // 2))
    assert one["HF_HUB_OFFLINE"] == "1"
    assert_gone(run)


def test_a_rank_that_raises(run):
    agent = start(run, "raise:1")
    started = time.monotonic()
    _, err = agent.communicate(timeout=90)
    assert agent.returncode == 1
    assert time.monotonic() - started < 25
    assert "the data ran out" in err
    told = node(run)
    assert told["end"] == "failed"
    assert told["cause"]["kind"] == "ValueError"
    assert told["cause"]["rank"] == 1
    assert told["cause"]["log"] == "attempts/0/logs/0-1.log"
    assert told["cause"]["secondary"] is False
    assert_gone(run)


def test_a_rank_that_is_killed(run):
    run.config.write_text("cluster: {procs_per_node: 2, max_retries: 0}\n")
    agent = start(run, "kill:0")
    agent.communicate(timeout=90)
    assert agent.returncode == 1
    assert json.loads(run.verdict(0).read_text())["action"] == "stop"
    cause = node(run)["cause"]
    assert cause["kind"] == "SIGKILL"
    assert cause["message"].startswith("rank 0 was killed (signal 9)")
    assert cause["log"] == "attempts/0/logs/0-0.log"
    assert_gone(run)
    files = snapshot(run)
    found = first_cause(files)
    assert found
    assert found["rank"] == 0
    assert run_state(files, None) in ("failed", "created")


def test_a_failure_that_may_pass_is_tried_again_in_place(run):
    agent = start(run, "kill:0:once")
    out, err = agent.communicate(timeout=120)
    assert agent.returncode == 0, err
    assert out.strip() == "finished"
    assert node(run)["end"] == "failed"
    verdict = json.loads(run.verdict(0).read_text())
    assert (verdict["action"], verdict["exclude"]) == ("restart", [])
    assert verdict["why"] in err
    assert node(run, attempt=1)["end"] == "finished"
    assert run.attempt_numbers() == [0, 1]


def test_a_failure_that_comes_again_ends_the_job(run):
    run.config.write_text("cluster: {procs_per_node: 1, max_retries: 1}\n")
    agent = start(run, "kill:0")
    _, err = agent.communicate(timeout=120)
    assert agent.returncode == 1
    assert "failed 2 times at the same place (before the first checkpoint)" in err
    assert run.attempt_numbers() == [0, 1]


def test_nothing_is_tried_again_that_a_person_stopped(run):
    agent = start(run, "kill:99")
    seen(run, 0)
    pid = seen(run, 1)["pid"]
    write_json(run.request, {"stop": True})
    os.kill(pid, signal.SIGKILL)
    agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert run.attempt_numbers() == [0]


@pytest.mark.parametrize(
    ("path", "value", "end"),
    [("results", {}, "finished"), ("request", {"stop": True}, "interrupted")],
)
def test_a_job_of_a_chain_that_is_not_needed(run, path, value, end):
    write_json(getattr(run, path), value)
    agent = start(run, "ok")
    out, err = agent.communicate(timeout=30)
    assert (agent.returncode, out.strip()) == (0, end)
    assert "nothing to do" in err
    assert run.attempt_numbers() == []


def test_the_end_of_a_local_job_is_not_waited_for(run):
    # 24 s, of which at most a half is given up: told to stop after 12.
    write_json(run.progress, {"attempt": 0, "step_seconds": 1.0, "save_seconds": 60.0})
    begin = time.monotonic()
    agent = start(run, "ok", seconds=60, SUBMITIT_LOCAL_TIMEOUT_S="24")
    out, err = agent.communicate(timeout=60)
    assert out.strip() == "interrupted", err
    assert 11 < time.monotonic() - begin < 24
    assert "step and save need 12 s" in err
    told = node(run)
    assert (told["signal"], told["lead_seconds"]) == ("SIGUSR2", 12.0)


def test_slurm_is_asked_for_the_end_of_the_job(run, tmp_path):
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 50))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "squeue").write_text(f"#!/bin/sh\necho $* > {tools}/asked; echo {moment}\n")
    (tools / "squeue").chmod(0o755)
    run.config.write_text("cluster: {procs_per_node: 2, max_requeues: 0}\n")
    # Half of the 50 s is less than a step and a save need.
    write_json(run.progress, {"attempt": 0, "step_seconds": 9.0, "save_seconds": 60.0})
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost"}
    path = f"{tools}:{os.environ['PATH']}"
    agent = start(run, "ok", seconds=90, PATH=path, **environment)
    out, err = agent.communicate(timeout=80)
    assert out.strip() == "interrupted", err
    assert (tools / "asked").read_text() == "-h -o %e -j 7\n"
    assert "the job ends in 2" in err


@pytest.mark.parametrize("silent", [True, False])
def test_a_peer_that_is_gone_is_named(run, silent):
    run.config.write_text("cluster: {procs_per_node: 2, nodes: 2}\n")
    # The second node never comes, as if its agent had been killed; or it stops as this one does.
    run.logs(0).mkdir(parents=True)
    write_json(run.node(0, 1), {"node": 1} | ({} if silent else {"end": "interrupted"}))
    environment = {
        "SLURM_JOB_ID": str(os.getpid() + 1 + silent),
        "SLURM_JOB_NODELIST": "localhost,other",
    }
    agent = start(run, "ok", 0, **environment)
    while not run.torchrun_log(0, 0).exists():
        time.sleep(0.05)
    begin = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    if not silent:
        with pytest.raises(subprocess.TimeoutExpired):
            agent.communicate(timeout=12)
        agent.kill()
        agent.communicate()
        assert node(run)["end"] == "interrupted"
        return
    agent.communicate(timeout=25)
    assert time.monotonic() - begin < 20  # KillWait is 30 s
    told = node(run)
    assert (told["end"], told["cause"]["kind"], told["cause"]["blame"]) == (
        "failed",
        "PeerFailed",
        "other",
    )
    assert told["cause"]["message"].startswith("node 1 (other) is gone")


def test_fewer_nodes_than_asked_for(run):
    run.config.write_text("cluster: {procs_per_node: 2, nodes: 4, min_nodes: 1}\n")
    agent = start(run, "ok", SLURM_JOB_ID=str(os.getpid() + 3), SLURM_JOB_NODELIST="localhost")
    out, err = agent.communicate(timeout=60)
    assert out.strip() == "finished", err
    assert seen(run, 1)["WORLD_SIZE"] == "2"
    assert node(run)["nodes"] == 1


def test_a_rank_that_leaves(run):
    agent = start(run, "exit:1")
    agent.communicate(timeout=90)
    assert node(run)["cause"]["message"] == "rank 1 ended with exit status 3"


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_stop_reaches_the_ranks(run, number):
    agent = start(run, "ok", seconds=60)
    seen(run, 0)
    seen(run, 1)
    agent.send_signal(number)
    out, err = agent.communicate(timeout=60)
    assert agent.returncode == 0, err
    assert out.strip() == "interrupted"
    told = node(run)
    assert told["end"] == "interrupted"
    assert told["signal"] == number.name
    assert told["exit_code"] == 0
    assert json.loads(run.progress.read_text())["interrupted"] is True
    assert_gone(run)


def test_a_stop_reaches_ranks_that_were_still_importing(run):
    agent = start(run, "deaf", seconds=60)
    seen(run, 0)
    seen(run, 1)
    agent.send_signal(signal.SIGUSR2)
    out, err = agent.communicate(timeout=60)
    assert out.strip() == "interrupted", err


def test_no_rank_outlives_a_killed_agent(run):
    agent = start(run, "ok", seconds=60)
    pids = [seen(run, rank)["pid"] for rank in (0, 1)]
    agent.kill()
    agent.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "ranks are left"
        time.sleep(0.05)


def test_a_failed_peer_ends_a_stopped_node(run):
    run.config.write_text("cluster: {procs_per_node: 2, nodes: 2}\n")
    # The second node never comes; the first one waits for it in the rendezvous.
    run.logs(0).mkdir(parents=True)
    write_json(run.node(0, 1), {"end": "failed", "node": 1})
    environment = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost,other"}
    agent = start(run, "ok", 0, **environment)
    while not run.torchrun_log(0, 0).exists():
        time.sleep(0.05)
    agent.send_signal(signal.SIGTERM)
    agent.communicate(timeout=30)
    assert agent.returncode == 1
    assert node(run)["cause"]["secondary"] is True
    assert node(run)["cause"]["message"] == "node 1 failed"


def test_a_taken_port_is_said(run):
    run.config.write_text("cluster: {nodes: 2}\n")
    job = str(os.getpid())
    with socket.socket() as server:
        server.bind(("", 20000 + os.getpid() % 10000))
        server.listen()
        agent = start(run, "ok", SLURM_JOB_ID=job, SLURM_JOB_NODELIST="localhost,other")
        agent.communicate(timeout=30)
    assert agent.returncode == 1
    assert "is taken" in node(run)["cause"]["message"]


def test_an_unreadable_run_directory_is_said(run):
    run.config.unlink()
    agent = start(run, "ok")
    _, err = agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert "must be on a file system that all nodes see" in err


def test_a_single_node_moves_to_a_free_port():
    allocation = Allocation("7", "7", ("127.0.0.1",), 0, 1, 0, False)
    first = meeting_point(allocation, 0, 1)
    with socket.socket() as server:
        server.bind(("", first.port))
        server.listen()
        assert meeting_point(allocation, 0, 1).port > first.port


def test_agents_that_begin_together_do_not_meet_on_a_port():
    """Torchrun listens seconds after its agent looked: lanes of one job look at the same moment."""
    code = (
        "import sys; from slurm.allocation import Allocation, meeting_point;"
        "job = Allocation('7', '7', ('127.0.0.1',), 0, 1, 0, False);"
        "print(meeting_point(job, 0, 1).port, flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code]
    agents = [
        subprocess.Popen(
            words, cwd=project_root(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    ports = [int(a.stdout.readline()) for a in agents if a.stdout]
    for agent in agents:
        agent.communicate()
    assert len(set(ports)) == 6 and all(30000 <= port < 32768 for port in ports)


def test_allocation_of_an_array_element(monkeypatch):
    for key, value in {
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_JOB_ID": "15",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_JOB_NODELIST": "gpu[07-08,11],login1",
        "SLURM_NODEID": "3",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_CPUS_ON_NODE": "1",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    told = read_allocation()
    assert told == Allocation("15_2", "17", ("gpu07", "gpu08", "gpu11", "login1"), 3, 1, 2, True)


CANCELLED = "JobId=5 JobName=x JobState=COMPLETING Reason=None Restarts=1 PreemptTime=None"
PREEMPTED = "JobId=5 JobName=x JobState=RUNNING Reason=None PreemptTime=2026-01-02T03:04:05"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PREEMPTED, True),
        (PREEMPTED.replace("2026-01-02T03:04:05", "None"), True),
        (PREEMPTED.replace("RUNNING", "CANCELLED"), False),
        (PREEMPTED.replace("RUNNING", "PENDING"), False),
        # PreemptMode=CANCEL, then cancelled by a person, then queued again by Slurm itself
        (PREEMPTED.replace("RUNNING", "COMPLETING Restarts=1"), True),
        (PREEMPTED.replace("RUNNING", "PREEMPTED Restarts=1"), True),
        (CANCELLED, False),
        (CANCELLED.replace("Restarts=1", "Restarts=2").replace("PreemptTime=None", ""), False),
        ("", False),
    ],
)
def test_whose_it_is_to_queue_a_job_again(text, expected, monkeypatch):
    monkeypatch.setattr(scontrol, "ask", lambda *words, **how: text)
    assert is_left_to_us("5", 1) is expected


BLOCK = """
============================================================
training.train FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-20_22:10:02
  host      : node1
  rank      : 2 (local_rank: 0)
  exitcode  : 1 (pid: 4711)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-20_22:10:01
  host      : node1
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 4712)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 4712
============================================================
"""


def test_torchruns_block_is_read():
    assert [(d.rank, d.exitcode) for d in parse_torchrun(BLOCK)] == [(2, 1), (3, -9)]


def cause(run, text, **errors):
    run.logs(0).mkdir(parents=True)
    run.torchrun_log(0, 0).write_text(text)
    for rank, (when, secondary) in errors.items():
        error = {"time": when, "kind": "E", "message": rank, "secondary": secondary}
        write_json(run.rank_error(0, 0, int(rank[1:])), error)
    return find_cause(run, 0, 0, range(4), 1, 5.0)


def test_a_killed_rank_counts_before_its_complaining_peer(run):
    assert cause(run, BLOCK, r2=(1.0, True)).message.startswith("rank 3 was killed")


def test_an_exception_counts_before_all(run):
    assert cause(run, BLOCK, r2=(9.0, False), r1=(1.0, True)).message == "r2"


def test_peers_that_torchrun_killed_are_not_to_blame(run):
    text = BLOCK.replace("22:10:02", "22:10:12").replace("exitcode  : 1 ", "exitcode  : -9 ")
    text = text.replace("-9 (pid: 4712", "1 (pid: 4712")
    assert cause(run, text).message == "rank 3 ended with exit status 1"


def test_a_hang_names_the_rank_that_is_missing(run):
    run.logs(0).mkdir(parents=True)
    error = {"time": 1.0, "kind": "Hang", "message": "rank 3 is stuck", "rank": 3}
    write_json(run.rank_error(0, 0, 0), error)
    told = find_cause(run, 0, 0, range(2), 1, 5.0)
    assert (told.kind, told.rank) == ("Hang", 3)


def test_a_full_disk_is_seen_in_the_log(run):
    run.logs(0).mkdir(parents=True)
    run.torchrun_log(0, 0).write_text(BLOCK.replace("exitcode  : -9", "exitcode  : 1"))
    run.rank_log(0, 0, 3).write_text("Traceback\nOSError: [Errno 28] No space left on device\n\n")
    told = find_cause(run, 0, 0, range(4), 1, 5.0)
    assert (told.kind, told.rank) == ("DiskFull", 3)


def test_a_torchrun_without_ranks_speaks_for_itself(run):
    told = cause(run, "Traceback\nRuntimeError: address in use\n")
    assert told.rank is None
    assert told.message == "torchrun ended with exit status 1: RuntimeError: address in use"


def test_children():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in processes.children(os.getpid())
        child.kill()


def test_handlers_are_seen():
    code = (
        "import signal; signal.signal(12, lambda *_: 0); print(1, flush=True); input();"
        "signal.signal(12, signal.SIG_IGN); print(2, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        assert processes.catches(child.pid, signal.SIGUSR2)
        assert not processes.catches(child.pid, signal.SIGTERM)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        assert not processes.catches(child.pid, signal.SIGUSR2)
        child.kill()
    assert not processes.catches(child.pid, signal.SIGUSR2)


def test_no_torch_at_import():
    code = "import slurm.agent, sys; print([m for m in sys.modules if m.startswith('torch')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
