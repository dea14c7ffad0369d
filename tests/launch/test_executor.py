import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import executor
from launch.executor import (
    batch_script,
    make_executor,
    node_command,
    queues_again,
    refusal,
    sbatch_options,
    scrubbed_environment,
    submit_job,
)
from launch.executor_local import visible_gpus
from launch.jobs import local_job
from launch.snapshot import keep_snapshot
from launch.submit import submit_jobs
from training.config import ClusterConfig, EngineConfig, RunConfig, UsageError
from training.rundir import RunDir, read_json, snapshot

STANDINS = Path(__file__).parents[1] / "slurm" / "standins"


def config(**cluster: object) -> RunConfig:
    values = {"executor": "slurm", **cluster}
    return RunConfig(cluster=ClusterConfig(**values), engine=EngineConfig(device="cpu"))  # type: ignore[arg-type]


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A machine that has Slurm's commands; sbatch says what the test wrote to its answer."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/sh\n")
    (tools / "sbatch").write_text(f"#!/bin/sh\n. {tools}/answer\n")
    (tools / "answer").write_text("echo Submitted batch job 4711\n")
    (tools / "scontrol").write_text("#!/bin/sh\n")
    for tool in ("srun", "sbatch", "scontrol"):
        (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tools


def flags(script: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH --"):
            name, _, value = line[10:].partition("=")
            assert name not in found, f"{name} stands twice"
            found[name] = shlex.split(value)[0] if value else None
    return found


def test_batch_script(srun, tmp_path):
    run = RunDir(tmp_path / "my runs" / "mnli-x")
    full = config(
        nodes=4,
        procs_per_node=2,
        cpus_per_node=16,
        gpus_per_node=2,
        mem="32G",
        partition="gpu",
        account="acc",
        qos="high",
        constraint="a100&ib",
        time="01:30:00",
        sbatch={"reservation": "maintenance", "exclusive": "", "mail-user": "a@b.c"},
        setup=("module load python",),
        env={"NCCL_DEBUG": "it's $HOME"},
    )
    script = batch_script(full, run)
    told = flags(script)
    assert told["nodes"] == "4"
    assert told["ntasks-per-node"] == "1"
    assert told["cpus-per-task"] == "16"
    assert told["gpus-per-node"] == "2"
    assert told["mem"] == "32G"
    assert (told["partition"], told["account"], told["qos"]) == ("gpu", "acc", "high")
    assert told["constraint"] == "a100&ib"
    assert told["time"] == "90"
    assert told["signal"] == "USR2@90"
    assert told["requeue"] is None
    assert told["exclusive"] is None
    assert told["reservation"] == "maintenance"
    assert told["mail-user"] == "a@b.c"
    assert told["job-name"] == "mnli-x"
    assert told["chdir"] == str(run.path)
    assert told["output"] == f"{run.submitit}/%j_0_log.out"
    assert "wckey" not in told
    assert "error" not in told
    assert "module load python" in script
    assert "export NCCL_DEBUG='it'\"'\"'s $HOME'" in script
    assert "--kill-on-bad-exit=1" in script
    assert "unset RANK" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert not run.path.exists()  # looking touches nothing


def test_the_persons_sbatch_keys_win(srun, tmp_path):
    run = RunDir(tmp_path / "r")
    told = flags(
        batch_script(
            config(
                gpus_per_node=2,
                sbatch={"gres": "gpu:a100:2", "job_name": "mine", "time": "5", "requeue": "false"},
            ),
            run,
        )
    )
    assert told["gres"] == "gpu:a100:2"
    assert "gpus-per-node" not in told
    assert told["job-name"] == "mine"
    assert told["time"] == "5"
    assert "no-requeue" in told
    assert "requeue" not in told


def test_options_that_stand_beside_ours(srun, tmp_path):
    def told(**cluster):
        return flags(batch_script(config(**cluster), RunDir(tmp_path / "r")))

    assert told()["propagate"] == "NONE", "limits of a login shell are not a job's"
    assert told(sbatch={"propagate": "ALL"})["propagate"] == "ALL"
    # A local disk is no GPU: those are asked for all the same.
    disk = told(gpus_per_node=2, sbatch={"gres": "lscratch:100"})
    assert (disk["gres"], disk["gpus-per-node"]) == ("lscratch:100", "2")
    each = told(gpus_per_node=2, cpus_per_node=12, sbatch={"cpus_per_gpu": "6"})
    assert each["cpus-per-gpu"] == "6" and "cpus-per-task" not in each
    with pytest.raises(UsageError, match="clusters is set by glueline"):
        told(sbatch={"clusters": "other"})


def test_the_job_that_prepares_asks_for_what_it_needs(srun, tmp_path):
    from launch.preparation import preparation_config

    def told(**own):
        run = config(
            nodes=4,
            gpus_per_node=4,
            cpus_per_node=64,
            mem="0",
            partition="gpu",
            constraint="a100",
            qos="gpuq",
            account="acc",
            sbatch={"gres": "gpu:a100:4", "licenses": "scratch"},
            prepare_sbatch=own,
        )
        return flags(batch_script(preparation_config(run), RunDir(tmp_path / "r")))

    here = told()
    assert (here["partition"], here["constraint"], here["qos"]) == ("gpu", "a100", "gpuq")
    assert (here["cpus-per-task"], here["nodes"], here["licenses"]) == ("8", "1", "scratch")
    assert not {"mem", "gres", "gpus-per-node"} & here.keys()
    there = told(partition="cpu", time="30", mem="8G")
    assert (there["partition"], there["time"], there["mem"]) == ("cpu", "30", "8G")
    assert not {"constraint", "qos"} & there.keys() and there["account"] == "acc"
    assert {"qos", "account", "licenses"}.isdisjoint(told(qos="", account="", licenses=""))
    assert told(exclusive="")["exclusive"] is None


def test_fewer_nodes_may_do(srun, tmp_path):
    run = RunDir(tmp_path / "r")
    wanted = config(nodes=4, min_nodes=2)
    assert flags(batch_script(wanted, run))["nodes"] == "2-4"
    assert '--nnodes "$SLURM_JOB_NUM_NODES"' in node_command(wanted, run)
    assert flags(batch_script(config(nodes=4, min_nodes=4), run))["nodes"] == "4"


def test_where_requeue_is_forbidden(srun, tmp_path, monkeypatch):
    run = RunDir(tmp_path / "r")
    script = batch_script(config(requeue="no"), run)
    assert "no-requeue" in flags(script)
    assert "requeue" not in flags(script)
    assert "export GLUELINE_REQUEUE=no" in script
    assert "export GLUELINE_REQUEUE=yes" in batch_script(config(requeue="yes"), run)
    assert queues_again(config())
    assert not queues_again(config(sbatch={"no-requeue": ""}))
    with pytest.raises(UsageError, match="leave one of them out"):
        queues_again(config(requeue="yes", sbatch={"requeue": "false"}))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not queues_again(config())
    with pytest.raises(UsageError, match="scontrol is not on this machine's PATH"):
        queues_again(config(requeue="yes"))


def test_a_chain_of_jobs(srun, tmp_path, capsys):
    (srun / "answer").write_text(
        f"n=$(cat {srun}/number 2>/dev/null || echo 10); n=$((n + 1)); echo $n > {srun}/number\n"
        f'cp "$1" {srun}/script$n\n[ $n -lt 14 ] || {{ echo "sbatch: error: limit">&2; exit 1; }}\n'
        "echo Submitted batch job $n\n"
    )
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    wanted = config(requeue="no", successors=5, sbatch={"dependency": "afterok:3"})
    assert submit_jobs(wanted, run, 2, changed={"a": [1, 2]}) == "11"
    jobs = snapshot(run).jobs
    assert [(j["job_id"], j.get("after"), j["first_attempt"]) for j in jobs] == [
        ("11", None, 2),
        ("12", "11", 2),
        ("13", "12", 2),
    ]
    assert [j.get("changed") for j in jobs] == [{"a": [1, 2]}, None, None]
    assert flags((srun / "script11").read_text())["dependency"] == "afterok:3"
    assert flags((srun / "script12").read_text())["dependency"] == "afterany:11,afterok:3"
    assert flags((srun / "script13").read_text())["dependency"] == "afterany:12,afterok:3"
    assert "note: no successor 3 of job 11: Slurm refused the job: limit" in capsys.readouterr().err


def test_one_job_where_it_may_be_queued_again(srun, tmp_path):
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    submit_jobs(config(successors=5), run, 0)
    assert len(snapshot(run).jobs) == 1


def test_short_limits_are_told_later():
    assert [executor.signal_seconds(m) for m in (1, 4, 5, 600)] == [18, 72, 90, 90]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"output": "x"}, "output"),
        ({"array": "0-3"}, "array"),
        ({"comment": "a\nrm -rf /"}, "one line"),
        ({"a b": "x"}, "option of sbatch"),
    ],
)
def test_bad_sbatch_keys(given, word):
    with pytest.raises(UsageError, match=word):
        sbatch_options(given)


def test_a_path_that_slurm_would_change(srun, tmp_path):
    with pytest.raises(UsageError, match="'%'"):
        make_executor(config(), RunDir(tmp_path / "100%" / "r"))


def test_submission(srun, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("WANDB_API_KEY", "top-secret")
    (srun / "answer").write_text(
        f'env > {srun}/env; cp "$1" {srun}/script; echo Submitted batch job 4711\n'
    )
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    assert submit_job(config(), run) == "4711"
    assert capfd.readouterr() == ("", "")
    seen = (srun / "env").read_text()
    assert "SLURM_JOB_ID" not in seen
    assert "PMI_RANK" not in seen
    assert os.environ["SLURM_JOB_ID"] == "1"
    # What a dry run shows is what sbatch gets, and no secret is written anywhere.
    assert (srun / "script").read_text() == batch_script(config(), run)
    for path in run.path.rglob("*"):
        assert path.is_dir() or b"top-secret" not in path.read_bytes()
    delayed = pickle.loads((run.submitit / "4711_submitted.pkl").read_bytes())
    assert vars(delayed.function) == {
        "run_dir": str(run.path),
        "first_attempt": 0,
        "requeued": 0,
        "module": "training.train",
    }
    run.attempt(0).mkdir(parents=True)
    submit_job(config(), run)
    delayed = pickle.loads((run.submitit / "4711_submitted.pkl").read_bytes())
    assert delayed.function.first_attempt == 1


def test_a_refusal_is_one_line_and_leaves_nothing(srun, tmp_path, capfd):
    (srun / "answer").write_text(
        "echo 'sbatch: error: invalid partition specified: x' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name' >&2\nexit 1\n"
    )
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        submit_job(config(), run)
    assert str(caught.value) == (
        "Slurm refused the job: invalid partition specified: x; "
        "Batch job submission failed: Invalid partition name"
    )
    assert capfd.readouterr() == ("", "")
    assert list(run.path.iterdir()) == []


def test_a_limit_of_submissions_names_the_flag(srun, tmp_path):
    (srun / "answer").write_text("echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2\nexit 1\n")
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"MaxSubmitJobPerUserLimit; of a sweep, --workers N"):
        submit_job(config(), run)


def test_other_errors_are_not_slurms():
    assert refusal(ValueError("x")) is None
    assert "not on this machine" in (refusal(FileNotFoundError(2, "no", "sbatch")) or "")


def test_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("SLURM_CPU_BIND", "x")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("RANK", "0")
    leaks = {"SLURM_CPU_BIND", "OMPI_COMM_WORLD_RANK", "RANK"}
    for name in ("SBATCH_PARTITION", "SALLOC_ACCOUNT", "SRUN_CPUS_PER_TASK", "PMIX_RANK",
                 "GLUELINE_NODE", "GLUELINE_MARK", "CUDA_VISIBLE_DEVICES",
                 "ACCELERATE_USE_DEEPSPEED"):  # fmt: skip
        monkeypatch.setenv(name, "1")
        leaks.add(name)
    for name in ("SLURM_CONF", "SLURM_CLUSTERS", "GLUELINE_RUNS", "WANDB_MODE"):
        monkeypatch.setenv(name, "mine")
    with scrubbed_environment():
        assert not leaks & set(os.environ)
        assert os.environ["SLURM_CONF"] == os.environ["SLURM_CLUSTERS"] == "mine"
        assert os.environ["GLUELINE_RUNS"] == os.environ["WANDB_MODE"] == "mine"
    assert leaks <= set(os.environ)
    with scrubbed_environment(slurm=False):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("device", "gpus", "ours", "expected"),
    [
        ("cpu", 0, None, ""),
        ("cuda", 2, None, "0,1"),
        ("cuda", 2, "4,6,7", "4,6"),
        ("cuda", None, "3", "3"),
    ],
)
def test_visible_gpus(device, gpus, ours, expected):
    wanted = RunConfig(
        cluster=ClusterConfig(executor="local", gpus_per_node=gpus),
        engine=EngineConfig(device=device),
    )
    assert visible_gpus(wanted, ours) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_node_command_runs_by_hand(tmp_path):
    pytest.importorskip("torch")
    run = RunDir(tmp_path / "a 'b" / "r")
    run.path.mkdir(parents=True)
    wanted = config(procs_per_node=2, env={"PYTHONPATH_EXTRA": "x y"})
    keep_snapshot(wanted, run.cache)
    text = node_command(wanted, run).replace("training.train", "standin")
    (run.path / "command.sh").write_text(text)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    env |= {"PYTHONPATH": str(STANDINS), "RANK": "9", "ATTEMPT": "3"}
    done = subprocess.run(
        ["bash", str(run.path / "command.sh")], env=env, cwd="/", timeout=120, check=False
    )
    assert done.returncode == 0
    assert run.results.exists()
    seen = read_json(run.logs(3) / "seen-1.json")
    assert seen
    assert (seen["RANK"], seen["WORLD_SIZE"]) == ("1", "2")
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_node_command_of_several_nodes(tmp_path):
    text = node_command(config(nodes=3, procs_per_node=2), RunDir(tmp_path / "r"))
    assert 'scontrol show hostnames "$SLURM_JOB_NODELIST"' in text
    assert "--nnodes 3 --nproc-per-node 2" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


SUBMIT = """
import sys
from pathlib import Path
from launch import executor
from slurm import agent
from training.config import load_config
from training.rundir import RunDir
run = RunDir(sys.argv[1])
agent.NodeAgent.__init__.__kwdefaults__["module"] = "standin"
print(executor.submit_job(load_config(run.config), run))
"""


def local_run(
    tmp_path: Path, plan: str, seconds: float, time_limit: str = "10"
) -> tuple[RunDir, str]:
    run = RunDir(tmp_path / "runs" / "local-1")
    run.path.mkdir(parents=True)
    run.config.write_text(
        f"cluster: {{executor: local, procs_per_node: 1, time: '{time_limit}'}}\n"
        "engine: {device: cpu}\n"
    )
    root = Path(__file__).parents[2]
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    env |= {
        "PYTHONPATH": f"{root}:{STANDINS}",
        "GLUELINE_STANDIN": plan,
        "GLUELINE_STANDIN_SECONDS": str(seconds),
    }
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, str(run.path)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return run, done.stdout.strip()


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def has_gone(job: str) -> bool:
    info = local_job("local-1", {"job_id": job})
    return info is not None and info.state == "gone"


def test_a_local_job_outlives_its_submission(tmp_path):
    pytest.importorskip("torch")
    run, job = local_run(tmp_path, "ok", 2)
    entry = {"job_id": job, "executor": "local"}
    info = local_job("local-1", entry)
    assert info
    assert info.state == "running"
    assert os.getsid(int(job)) == int(job)
    wait_for(run.results.exists)
    wait_for(lambda: has_gone(job))
    told = read_json(run.node(0, 0))
    assert told
    assert (told["end"], told["job_id"]) == ("finished", job)


def test_a_local_job_that_is_told_to_stop(tmp_path):
    pytest.importorskip("torch")
    run, job = local_run(tmp_path, "ok", 60)
    wait_for((run.logs(0) / "seen-0.json").exists)
    os.kill(int(job), 15)
    wait_for(lambda: has_gone(job))
    told = read_json(run.node(0, 0))
    assert told
    assert told["end"] == "interrupted"


def test_a_local_job_at_its_time_limit_starts_again(tmp_path):
    pytest.importorskip("torch")
    # One minute: told to stop after 42 s, started again, and then done at once.
    run, job = local_run(tmp_path, "once", 55, time_limit="1")
    wait_for(run.results.exists, 90)
    wait_for(lambda: "ended" in (read_json(run.node(1, 0)) or {}))
    first, second = read_json(run.node(0, 0)), read_json(run.node(1, 0))
    assert first
    assert second
    assert (first["end"], second["end"]) == ("interrupted", "finished")
    assert first["job_id"] == second["job_id"] == job


def test_local_jobs_of_others(tmp_path):
    assert local_job("r", {"job_id": "1", "host": "elsewhere"}) is None
    gone = local_job("r", {"job_id": str(os.getpid())})  # alive, but not ours
    assert gone
    assert gone.state == "gone"
