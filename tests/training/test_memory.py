"""Out of memory: recognised, agreed on, and the run goes on as one with a smaller budget."""

import numpy as np
import pytest
import torch

from training.batching import cut_step, measure
from training.distributed import World
from training.memory import MemoryGuard, OutOfMemory, Proven, StepAbandoned, is_out_of_memory


class OneRank(World):
    """A world of which this is the only rank, or whose others say `others`."""

    def __init__(self, others=False):
        self.others, self.asked = others, 0

    def any(self, flag):
        self.asked += 1
        return flag or self.others


def exhausted():
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_failed_rank_waits_for_the_meeting_and_does_nothing_until_then():
    guard = MemoryGuard(OneRank(), active=True)
    assert guard.alone(lambda: 1) == 1
    assert guard.alone(exhausted) is None
    assert guard.alone(lambda: pytest.fail("worked on")) is None
    with pytest.raises(StepAbandoned):
        guard.together(lambda: 1)


def test_ranks_that_fit_abandon_the_step_with_those_that_do_not():
    guard = MemoryGuard(OneRank(others=True), active=True)
    assert guard.alone(lambda: 1) == 1
    with pytest.raises(StepAbandoned):
        guard.together(lambda: 1)


def test_other_errors_pass():
    guard = MemoryGuard(OneRank(), active=True)
    with pytest.raises(ZeroDivisionError):
        guard.alone(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        guard.together(lambda: 1 // 0)


def test_too_late_to_agree_is_a_failure():
    with pytest.raises(OutOfMemory):
        MemoryGuard(OneRank(), active=True).together(exhausted)
    world = OneRank()
    with pytest.raises(OutOfMemory):
        MemoryGuard(world, active=False).alone(exhausted)
    assert world.asked == 0


def test_only_larger_micro_batches_than_ever_need_agreement():
    lengths = np.array([10, 20, 40, 40], dtype=np.int32)

    def cost(*ids):
        return measure(cut_step(np.array(ids), lengths, 1, 100), lengths)

    proven = Proven()
    assert not proven.holds(cost(0, 1))
    proven.add(cost(0, 1))
    assert proven.holds(cost(1)) and not proven.holds(cost(2, 3))
    proven.add(cost(2, 3))
    assert proven.holds(cost(0, 1))
