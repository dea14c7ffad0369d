import os
import subprocess
import sys

import pytest

from slurm import command
from slurm.command import Rendezvous, fixed_environment, rank_environment, rendezvous_port
from training.config import ClusterConfig, EngineConfig, RunConfig


def config(**cluster: object) -> RunConfig:
    return RunConfig(cluster=ClusterConfig(**cluster))  # type: ignore[arg-type]


def test_torchrun_line():
    argv = command.torchrun_argv(
        python="/env/bin/python",
        nodes=2,
        procs=3,
        node=1,
        meet=Rendezvous("node1", 20007, "7-1"),
        run_dir="/runs/a b",
        attempt=1,
    )
    line = (
        "/env/bin/python -m torch.distributed.run --nnodes 2 --nproc-per-node 3 --node-rank 1 "
        "--master-addr node1 --master-port 20007 --rdzv-backend static --rdzv-id 7-1 "
        "--max-restarts 0 --signals-to-handle SIGINT -m -- training.train --run"
    )
    assert argv == [*line.split(), "/runs/a b", "--attempt", "1"]


def test_torchrun_knows_every_flag():
    run = pytest.importorskip("torch.distributed.run")
    argv = command.torchrun_argv(
        python="python",
        nodes=2,
        procs=3,
        node=1,
        meet=Rendezvous("node1", 20007, "7-1"),
        run_dir="/r",
        attempt=0,
    )
    parsed = run.parse_args(argv[3:])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank) == ("2", "3", 1)
    assert parsed.module
    assert parsed.training_script == "training.train"
    assert parsed.training_script_args == ["--run", "/r", "--attempt", "0"]


@pytest.mark.parametrize(("job", "port"), [("7", 20007), (12345, 22345), ("4_1", 20041)])
def test_port(job, port):
    assert rendezvous_port(job) == port
    assert port < 32768


def test_threads_are_shared_out():
    env = rank_environment(config(procs_per_node=3), node=2, cores=8, inherited={})
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["GLUELINE_NODE"] == "2"
    assert (
        rank_environment(config(procs_per_node=3), node=0, cores=1, inherited={})["OMP_NUM_THREADS"]
        == "1"
    )


def test_a_run_of_this_machine_has_the_cores_that_were_asked_for():
    local = config(executor="local", cpus_per_node=2, procs_per_node=2)
    assert rank_environment(local, node=0, cores=16, inherited={})["OMP_NUM_THREADS"] == "1"
    on_slurm = config(executor="slurm", cpus_per_node=2, procs_per_node=2)
    assert rank_environment(on_slurm, node=0, cores=16, inherited={})["OMP_NUM_THREADS"] == "8"


def test_inherited_distributed_variables_are_dropped():
    inherited = {
        "RANK": "3",
        "MASTER_ADDR": "x",
        "PET_NNODES": "9",
        "TORCHELASTIC_RUN_ID": "x",
        "WANDB_API_KEY": "secret",
        "PATH": "/bin",
    }
    env = rank_environment(config(), node=0, cores=1, inherited=inherited)
    assert not {"RANK", "MASTER_ADDR", "PET_NNODES", "TORCHELASTIC_RUN_ID"} & set(env)
    assert env["PATH"] == "/bin"
    assert env["WANDB_API_KEY"] == "secret"  # for the ranks; fixed_environment has no secrets
    assert "WANDB_API_KEY" not in fixed_environment(config())


def test_the_persons_variables_win():
    env = fixed_environment(
        config(env={"HF_HUB_OFFLINE": "0", "NCCL_DEBUG": "INFO"}, interface="ib0")
    )
    assert env["HF_HUB_OFFLINE"] == "0"
    assert env["NCCL_DEBUG"] == "INFO"
    assert env["GLOO_SOCKET_IFNAME"] == env["NCCL_SOCKET_IFNAME"] == "ib0"


def test_deepspeed_variables():
    zero = RunConfig(engine=EngineConfig(zero=2, device="cpu"))
    assert fixed_environment(zero)["DS_ACCELERATOR"] == "cpu"
    assert fixed_environment(zero)["ACCELERATE_USE_DEEPSPEED"] == "true"
    gpus = RunConfig(engine=EngineConfig(zero=2, device="cuda"))
    assert "DS_ACCELERATOR" not in fixed_environment(gpus)
    plain = fixed_environment(RunConfig())
    assert "ACCELERATE_USE_DEEPSPEED" not in plain


def test_python_path_leads_to_our_packages(tmp_path):
    env = rank_environment(config(), node=0, cores=1, inherited=dict(os.environ))
    done = subprocess.run(
        [sys.executable, "-c", "import training.rundir; print(training.rundir.__file__)"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(command.project_root() / "training" / "rundir.py")
