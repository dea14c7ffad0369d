"""The ranks of a node inside a container: the words before their command. Pure.

The agent stays outside: it needs Slurm's commands, which images do not have. What runs inside is
torchrun and its ranks; the folders that they use are seen at the same paths.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.command import is_amd, on_cpu, project_root

if TYPE_CHECKING:
    from training.config import RunConfig

DEAF = ("sh", "-c", "trap '' USR2 TERM; exec \"$@\"", "sh")
"""Signals reach the ranks from the agent alone; ignored ones stay ignored across exec, whatever
the runtime in between does to them."""


def is_file(image: str) -> bool:
    """Return whether an image is named by a path, not by a registry's name."""
    return image.startswith(("/", "./", "../", "~")) or image.endswith((".sif", ".sqsh", ".img"))


def mounts(config: RunConfig, run_dir: str) -> list[str]:
    """Return what the ranks must see, as /HOST:/INSIDE[:OPTIONS]: code, runs, data, weights."""
    task, model = config.task, config.model
    folders = [project_root(), Path(run_dir).parent]
    folders += [Path(p) for p in (task.path, model.path) if p]
    folders += [Path(file).parent for files in task.files.values() for file in files]
    kept: list[Path] = []
    for folder in sorted(set(folders), key=lambda f: (len(f.parts), f)):
        if not any(folder.is_relative_to(k) for k in kept):
            kept.append(folder)
    typed = [
        m if ":" in m else f"{m}:{m}" for m in (str(x) for x in config.cluster.container_mounts)
    ]
    return [*(f"{folder}:{folder}" for folder in kept), *typed]


def wrap(
    config: RunConfig, argv: Sequence[str], run_dir: str, environ: Mapping[str, str]
) -> list[str]:
    """Return the command that runs `argv` (Python first) in the container; as it is without one.

    Args:
        config: the run.
        argv: torchrun's argument list.
        run_dir: the run's folder.
        environ: of the agent: where it is, and what Slurm gave it.
    """
    cluster = config.cluster
    if cluster.container is None:
        return list(argv)
    inside = [*DEAF, cluster.container_python, *argv[1:]]
    binds = mounts(config, run_dir)
    if cluster.container_runtime == "apptainer":
        tool = shutil.which("apptainer") or shutil.which("singularity") or "apptainer"
        gpu = [] if on_cpu(config) else ["--rocm" if is_amd() else "--nv"]
        bound = [word for bind in binds for word in ("--bind", bind)]
        return [tool, "exec", *gpu, *bound, "--pwd", run_dir, cluster.container, *inside]
    # Pyxis is a plugin of srun: a step of this job, on this node, beside the agent's.
    step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--kill-on-bad-exit=1"]
    if node := environ.get("SLURMD_NODENAME"):
        step.append(f"--nodelist={node}")
    if cores := environ.get("SLURM_CPUS_ON_NODE"):
        step.append(f"--cpus-per-task={cores}")
    if cluster.gpus_per_node:
        step.append(f"--gpus-per-node={cluster.gpus_per_node}")
    return [
        *step,
        f"--container-image={cluster.container}",
        f"--container-mounts={','.join(binds)}",
        f"--container-workdir={run_dir}",
        *inside,
    ]
