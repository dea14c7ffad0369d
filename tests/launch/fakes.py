"""Stand-ins for Slurm and for the executor, for tests that run in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

import launch
from launch import preparation, slurm_site
from launch.node_kinds import NodeKind
from training.config import RunConfig, UsageError
from training.rundir import RunDir


@dataclass(frozen=True)
class Partition:
    """As `launch.slurm_site.Partition`."""

    name: str = "cpu"
    default: bool = False
    up: bool = True
    nodes: int = 4
    cpus_per_node: int = 8
    gpus_per_node: int = 0
    memory_mb: int = 32000
    time_limit_minutes: int | None = None
    others: tuple[NodeKind, ...] = ()
    """Further nodes, which are not counted in `nodes`."""

    @property
    def kinds(self) -> tuple[NodeKind, ...]:
        """Its nodes, all alike but for the others."""
        gpus = {"": self.gpus_per_node} if self.gpus_per_node else {}
        return (NodeKind(self.nodes, self.cpus_per_node, self.memory_mb, gpus), *self.others)


PARTITIONS = (
    Partition("cpu", default=True),
    Partition("gpu", nodes=2, cpus_per_node=32, gpus_per_node=4, time_limit_minutes=120),
    Partition("old", up=False),
)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Put a module of ours in the place of `launch.NAME` for one test."""
    module = ModuleType(f"launch.{name}")
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, f"launch.{name}", module)
    monkeypatch.setattr(launch, name, module, raising=False)


def slurm(
    monkeypatch: pytest.MonkeyPatch,
    partitions: tuple[Partition, ...] = PARTITIONS,
    answers: bool = True,
) -> None:
    """Pretend that Slurm reports these partitions, or does not answer."""
    # All else stays: a module that is imported during the test takes its names from here.
    members: dict[str, Any] = {k: v for k, v in vars(slurm_site).items() if k[:2] != "__"}
    members |= {"sbatch_available": lambda: answers, "partitions": lambda: list(partitions)}
    install(monkeypatch, "slurm_site", **members)


@dataclass
class Executor:
    """Pretends to submit; keeps what it was given."""

    refusal: str | None = None
    job_state: str | None = "running"
    queues_again: bool = True
    submitted: list[tuple[RunConfig, RunDir]] = field(default_factory=list)
    followed: list[RunDir] = field(default_factory=list)

    def submit_job(
        self,
        config: RunConfig,
        run: RunDir,
        first_attempt: int | None = None,
        after: str | None = None,
    ) -> str:
        """Answer with a job id, or refuse as Slurm does."""
        assert run.config.is_file() and run.submission.is_file() and run.command.is_file()
        run.submitit.mkdir(exist_ok=True)
        if self.refusal is not None:
            raise UsageError(self.refusal)
        self.submitted.append((config, run))
        return str(100 + len(self.submitted))

    def follow(self, run: RunDir, console: object = None) -> int:
        """Note that the run was followed; it fails."""
        self.followed.append(run)
        return 1


def executor(monkeypatch: pytest.MonkeyPatch) -> Executor:
    """Install a pretended executor, `follow` and the scheduler's answer about jobs."""
    fake = Executor()
    install(
        monkeypatch,
        "executor",
        submit_job=fake.submit_job,
        queues_again=lambda config: fake.queues_again,
        batch_script=lambda config, run: f"#!/bin/bash\n# batch of {run.path}\n",
        refused_in_advance=lambda config, run: None,
        node_command=lambda config, run: f"python -m torch.distributed.run {run.path}\n",
    )
    monkeypatch.setattr(preparation, "is_ready", lambda *args: True)
    monkeypatch.setattr(preparation, "provide", lambda *args: None)
    install(monkeypatch, "follow", follow=fake.follow)
    install(monkeypatch, "status", job_state=lambda files: fake.job_state)
    return fake
