"""Process groups, and what ranks agree on."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from .config import RunConfig

T = TypeVar("T")


class World:
    """The ranks of a run.

    Collectives of the model run on the default group (NCCL or gloo). Everything else (flags,
    predictions, waiting for data) runs on a gloo group of its own, whose time-out is long: one
    process may tokenise for an hour while the others wait.
    """

    def __init__(self, config: RunConfig) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.node = int(os.environ.get("GLUELINE_NODE", os.environ.get("GROUP_RANK", "0")))
        cuda = config.engine.device == "cuda"
        if cuda:
            torch.cuda.set_device(self.local_rank)
        dist.init_process_group(
            "nccl" if cuda else "gloo", timeout=timedelta(seconds=config.engine.timeout)
        )
        self.control: Any = dist.new_group(backend="gloo", timeout=timedelta(days=1))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier(group=self.control)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, by rank, on rank 0; an empty list on others."""
        box: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, box, dst=0, group=self.control)
        return box or []

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the element-wise sum over ranks."""
        tensor = torch.from_numpy(np.array(values, dtype=np.float64))
        dist.all_reduce(tensor, group=self.control)
        return tensor.numpy()

    def gather_all(self, value: T) -> list[T]:
        """Return every rank's value, by rank, on every rank."""
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.control)
        return box

    def any(self, flag: bool) -> bool:
        """Return whether any rank has the flag."""
        return bool(self.sum(np.array([float(flag)]))[0] > 0)

    def close(self) -> None:
        """Leave the process groups."""
        if dist.is_initialized():
            dist.destroy_process_group()


class Agreement:
    """Flags that any rank may raise, agreed on at a step boundary.

    The all-reduce starts when a rank has its gradients and is read when it has stepped, so that
    it costs no time of its own: what was raised before a step's update stops all ranks after it.
    """

    def __init__(self, world: World, flags: int = 1) -> None:
        self._group = world.control
        self._value = torch.zeros(flags, dtype=torch.int32)
        self._work: Any = None

    def start(self, *raised: bool) -> None:
        """Begin to agree."""
        self._value.copy_(torch.tensor(raised, dtype=torch.int32))
        self._work = dist.all_reduce(
            self._value, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )

    def result(self) -> tuple[bool, ...]:
        """Return for each flag whether any rank had raised it."""
        self._work.wait()
        return tuple(bool(value) for value in self._value.tolist())
