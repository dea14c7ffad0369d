"""One attempt on one node: what it is given, and the record that it leaves."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Literal

from slurm.allocation import Allocation
from slurm.scontrol import say
from slurm.verdicts import attempt_number
from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, write_json

End = Literal["finished", "failed", "interrupted"]


class NodeFailed(Exception):
    """This node's part of the job failed. The message is its first cause."""


class Attempt:
    """The run, the place in the job, and `node-<k>.json`."""

    def __init__(
        self, run_dir: str, allocation: Allocation, first_attempt: int, requeued: int
    ) -> None:
        """Read the configuration and number the attempt.

        Args:
            run_dir: of the run.
            allocation: this node's view of the job.
            first_attempt: the number that the job was submitted with.
            requeued: restarts that Slurm does not count.

        Raises:
            NodeFailed: the configuration cannot be read.
        """
        self.run_dir = RunDir(run_dir)
        self.allocation = allocation
        self.first_attempt = first_attempt
        self.restarts = allocation.restarts + requeued
        self.number = attempt_number(self.run_dir, allocation.job_id, first_attempt, self.restarts)
        self.node = allocation.node
        self.config = self._read_config()
        # What Slurm gave, which may be less than was asked for (cluster.min_nodes).
        self.nodes = len(allocation.hosts)
        self.procs = self.config.cluster.procs_per_node or 1
        self.record: dict[str, Any] = {
            "job_id": allocation.job_id,
            # As Slurm calls it, which may not be what the host calls itself: it is to be excluded.
            "host": allocation.hosts[self.node] if allocation.slurm else socket.gethostname(),
            "attempt": self.number,
            "restarts": self.restarts,
            "node": self.node,
            "nodes": self.nodes,
            "start": time.time(),
            "pid": os.getpid(),
            "cores": allocation.cores,
            "gpus": allocation.gpus,
            # Runs that share the node with this one, itself among them.
            "lanes": allocation.lanes,
        }

    def note(self, **values: Any) -> None:
        """Write down what became known."""
        self.record.update(values)
        path = self.run_dir.node(self.number, self.node)
        try:
            write_json(path, self.record)
        except OSError as error:
            # The ranks may still be well, and the job's own output says it too.
            say(f"cannot write {path}: {error.strerror}")

    def make_folder(self) -> None:
        """Make the folder of the attempt's logs.

        Raises:
            NodeFailed: it cannot be made.
        """
        try:
            self.run_dir.logs(self.number).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NodeFailed(self._unusable(f"cannot be written: {error.strerror}")) from None

    def _read_config(self) -> RunConfig:
        # A file of a network file system may show up late on a node that looked before.
        for patience in (1.0, 4.0, 0.0):
            try:
                return load_config(self.run_dir.config)
            except UsageError as error:
                if patience == 0.0 or self.run_dir.config.exists():
                    raise NodeFailed(self._unusable(str(error))) from None
                time.sleep(patience)
        raise AssertionError("unreachable")

    def _unusable(self, reason: str) -> str:
        return (
            f"node {socket.gethostname()}: run directory {self.run_dir.path}: {reason}. "
            "It must be on a file system that all nodes see: --runs DIR"
        )
