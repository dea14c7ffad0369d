import itertools
import os
import subprocess
import sys
import time
from typing import Literal

import pytest

from slurm import container, processes
from training.config import ClusterConfig, EngineConfig, RunConfig, TaskConfig, UsageError

ARGV = ["/venv/bin/python", "-m", "torch.distributed.run"]


def config(device: Literal["cpu", "cuda"] = "cpu", **cluster):
    return RunConfig(
        cluster=ClusterConfig(**cluster),
        engine=EngineConfig(device=device),
        task=TaskConfig(path="/data/glue", files={"train": ("/rows/a.csv",)}),
    )


def test_without_a_container_nothing_changes():
    assert container.wrap(config(), ARGV, "/runs/r", {}) == ARGV


def test_apptainer(monkeypatch):
    monkeypatch.setenv("PATH", "/none")
    wanted = config("cuda", container="/i/x.sif", container_mounts=("/etc/ssl:/ssl:ro", "/opt/w"))
    words = container.wrap(wanted, ARGV, "/runs/r", {})
    assert words[:3] == ["apptainer", "exec", "--nv"]
    binds = [after for word, after in itertools.pairwise(words) if word == "--bind"]
    assert {"/runs:/runs", "/data/glue:/data/glue", "/rows:/rows"} < set(binds)
    assert {"/etc/ssl:/ssl:ro", "/opt/w:/opt/w"} < set(binds)
    assert words[words.index("/i/x.sif") + 1] == "sh"
    assert words[-3:] == ["python3", *ARGV[1:]]
    assert "--nv" not in container.wrap(config(container="x.sif"), ARGV, "/runs/r", {})


def test_pyxis_is_a_step_on_this_node():
    wanted = config("cuda", container="a#b:1", container_runtime="pyxis", gpus_per_node=2)
    words = container.wrap(
        wanted, ARGV, "/runs/r", {"SLURMD_NODENAME": "n7", "SLURM_CPUS_ON_NODE": "32"}
    )
    assert words[:2] == ["srun", "--overlap"]
    assert {"--nodelist=n7", "--cpus-per-task=32", "--gpus-per-node=2"} < set(words)
    assert "--container-image=a#b:1" in words
    (mounts,) = [w for w in words if w.startswith("--container-mounts=")]
    assert "/runs:/runs" in mounts


@pytest.mark.parametrize(
    ("image", "expected"),
    [("/a/b", True), ("x.sif", True), ("docker://a/b:1", False), ("nvcr.io#a:1", False)],
)
def test_which_images_are_files(image, expected):
    assert container.is_file(image) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"container_mounts": ("/a",)},
        {"container": "x", "container_mounts": ("a",)},
        {"container": "x", "container_runtime": "pyxis", "executor": "local"},
    ],
)
def test_contradictions(wrong):
    with pytest.raises(UsageError, match="container"):
        ClusterConfig(**wrong).check()


def test_ranks_are_found_behind_other_processes():
    mark = f"test-{os.getpid()}"
    code = (
        "import os, subprocess, sys; env = {**os.environ, 'LOCAL_RANK': '0'}; "
        "subprocess.run([sys.executable, '-c', 'input()'], env=env)"
    )
    words = [*container.DEAF, sys.executable, "-c", code]
    env = os.environ | {processes.MARK: mark}
    outer = subprocess.Popen(words, env=env, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while len(found := processes.ranks(mark)) != 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(found) == 1 and found[0] != outer.pid
        # The ones between are deaf: a signal to the whole step does not end them.
        outer.send_signal(12)
        outer.send_signal(15)
        time.sleep(0.2)
        assert outer.poll() is None
    finally:
        processes.kill_marked(mark)
        outer.wait()
