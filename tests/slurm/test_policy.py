from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.policy import LOST, Means, blamed_hosts, classify, decide

MEANS = Means(can_exclude=True, micro_tokens=1024, resume="glueline submit --resume r")


def cause(kind: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "message": message, **more}


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("UsageError", "connection refused", "code"),
        ("FloatingPointError", "the loss is not finite", "code"),
        ("ValueError", "bad labels", "code"),
        ("KeyError", "'x'", "code"),
        ("FileNotFoundError", "[Errno 2] No such file or directory: 'x'", "code"),
        ("PermissionError", "[Errno 13] Permission denied: 'x'", "code"),
        ("Exit", "rank 1 ended with exit status 3", "code"),
        ("NoResults", "the ranks ended without an error", "code"),
        ("Torchrun", "torchrun ended with exit status 1: ImportError: x", "code"),
        ("Torchrun", "torchrun ended with signal 9", "transient"),
        ("Torchrun", "torchrun ended with exit status 1: [Errno 98] Address already in use",
         "transient"),
        ("OSError", "port 20007 of n1, where the nodes of job 7 would meet, is taken: submit",
         "transient"),
        ("OutOfMemory", "evaluation needs more memory", "memory"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB", "memory"),
        ("MemoryError", "", "memory"),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory: 8 bytes", "memory"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "memory"),
        ("OSError", "[Errno 12] Cannot allocate memory", "memory"),
        ("SIGKILL", "rank 0 was killed (signal 9): out of memory?", "killed"),
        ("SIGSEGV", "rank 0 was killed", "killed"),
        ("SIGABRT", "rank 0 was killed", "killed"),
        ("SIGILL", "rank 0 was killed", "code"),
        ("SIGBUS", "rank 0 was killed", "hardware"),
        ("Hang", "no progress for 600 s: rank 3 is stuck", "hardware"),
        (LOST, "the agent on n1 ended without a word", "hardware"),
        ("OSError", "[Errno 5] Input/output error: 'x'", "hardware"),
        ("AcceleratorError", "CUDA error: uncorrectable ECC error encountered", "hardware"),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", "hardware"),
        ("RuntimeError", "CUDA error: device-side assert triggered", "code"),
        ("RuntimeError", "CUDA error: no kernel image is available", "code"),
        ("RuntimeError", "CUDA error: out of memory", "memory"),
        ("OSError", "[Errno 116] Stale file handle", "transient"),
        ("OSError", "[Errno 100] Network is down", "transient"),
        ("TimeoutError", "[Errno 110] Connection timed out", "transient"),
        ("ConnectionResetError", "", "transient"),
        ("DistBackendError", "NCCL error in: x", "transient"),
        ("RuntimeError", "[../gloo/transport/tcp/pair.cc:547] Read error", "transient"),
        ("DiskFull", "[Errno 28] No space left on device", "disk"),
        ("OSError", "[Errno 122] Disk quota exceeded", "disk"),
        ("SafetensorError", "I/O error: No space left on device (os error 28)", "disk"),
    ],
)  # fmt: skip
def test_causes(kind, message, expected):
    assert classify(cause(kind, message)) == expected


def test_what_only_follows_from_another_death_is_no_error_of_the_code():
    assert classify(cause("RuntimeError", "strange", secondary=True)) == "transient"
    assert classify(cause("PeerFailed", "node 1 failed", secondary=True)) == "transient"
    assert classify(cause("PeerFailed", "node 1 (n1) is gone")) == "hardware"


def test_errors_in_the_code_stop_at_once():
    verdict = decide(cause("ValueError", "bad labels"), [], MEANS, checkpoint=4, blamed=["n1"])
    assert verdict.action == "stop"
    assert verdict.why == (
        "ValueError: bad labels: it would fail again; once mended, glueline submit --resume r"
    )
    assert verdict.exclude == ()
    assert verdict.checkpoint == 4


def test_a_full_disk_says_what_to_free():
    verdict = decide(cause("DiskFull", "[Errno 28] No space left"), [], MEANS)
    assert verdict.action == "stop"
    assert "free space in the runs folder" in verdict.why
    assert verdict.why.endswith("glueline submit --resume r")


def test_a_killed_rank_is_tried_again_where_it_was():
    told = cause("SIGKILL", "rank 2 was killed (signal 9): out of memory?")
    verdict = decide(told, [], MEANS, blamed=["n1"])
    assert (verdict.action, verdict.exclude, verdict.micro_tokens) == ("requeue", (), None)
    assert verdict.why.endswith("retry 1 of 3")


def history(*told: tuple[str, int | None], kind: str = "SIGSEGV", **more: Any) -> list[dict]:
    return [{"action": a, "checkpoint": c, "kind": kind, **more} for a, c in told]


@pytest.mark.parametrize(
    ("earlier", "now", "action"),
    [
        ([], None, "requeue"),
        ([("requeue", None)] * 2, None, "requeue"),
        ([("requeue", None)] * 3, None, "stop"),
        ([("requeue", None)] * 3, 5, "requeue"),  # it got further
        ([("requeue", 5)] * 3, 5, "stop"),
        ([("requeue", 5), ("requeue", 5), ("requeue", 8)], 8, "requeue"),
        ([("restart", 5), ("requeue", 5), ("restart", 5)], 5, "stop"),
        ([("requeue", 5)] * 3 + [("stop", 5)], 5, "requeue"),  # a person had it go on
    ],
)
def test_the_budget_of_retries(earlier, now, action):
    verdict = decide(cause("SIGSEGV", "killed"), history(*earlier), MEANS, checkpoint=now)
    assert verdict.action == action
    if action == "stop":
        assert "failed 4 times at the same place" in verdict.why


def test_no_retries_at_all():
    verdict = decide(cause("SIGSEGV", "killed"), [], Means(max_retries=0))
    assert (verdict.action, verdict.why[:11]) == ("stop", "failed once")


def test_memory_halves_the_budget_of_tokens():
    told = cause("OutOfMemoryError", "CUDA out of memory")
    first = decide(told, [], MEANS)
    assert (first.action, first.micro_tokens) == ("requeue", 512)
    second = decide(told, [first.plain(1.0)], MEANS)
    assert second.micro_tokens == 256
    assert "micro-batches of 256 tokens" in second.why
    assert decide(told, [], Means(micro_tokens=32)).micro_tokens == 16
    last = decide(told, [], Means(micro_tokens=31))
    assert (last.action, last.micro_tokens) == ("stop", None)


def test_killed_twice_without_progress_halves_it_too():
    told = cause("SIGKILL", "rank 0 was killed (signal 9): out of memory?")
    once = history(("requeue", 5), kind="SIGKILL")
    assert decide(told, once, MEANS, checkpoint=5).micro_tokens == 512
    assert decide(told, once, MEANS, checkpoint=6).micro_tokens is None
    other = history(("requeue", 5), kind="SIGSEGV")
    assert decide(told, other, MEANS, checkpoint=5).micro_tokens is None
    assert decide(told, once, Means(micro_tokens=20), checkpoint=5).action == "requeue"


def test_a_bad_host_is_avoided_where_there_are_others():
    told = cause("OSError", "[Errno 5] Input/output error")
    assert decide(told, [], MEANS, blamed=["n1"]).exclude == ("n1",)
    assert decide(told, [], Means(), blamed=["n1"]).exclude == ()
    # One node: on another one if that can be, else here.
    alone = Means(can_restart=True, can_exclude=True)
    assert decide(told, [], alone, blamed=["n1"]).action == "requeue"
    assert decide(told, [], Means(can_restart=True), blamed=["n1"]).action == "restart"
    here = Means(can_restart=True, can_requeue=False, can_exclude=True)
    assert decide(told, [], here, blamed=["n1"]).action == "restart"


def test_where_nothing_can_be_done():
    verdict = decide(cause("SIGSEGV", "killed"), [], Means(can_requeue=False))
    assert verdict.action == "stop"
    assert "cannot be queued again here" in verdict.why


NODES = [{"node": 0, "host": "a", "end": "failed"}, {"node": 1, "host": "b"}]


def test_who_is_to_blame():
    assert blamed_hosts(cause("SIGBUS", host="a"), NODES, 2) == ["a"]
    assert blamed_hosts(cause("PeerFailed", host="a", blame="b"), NODES, 2) == ["b"]
    assert blamed_hosts(cause("Hang", host="a", rank=3), NODES, 2) == ["b"]
    assert blamed_hosts(cause("Hang", host="a", rank=None), NODES, 2) == []
    assert blamed_hosts(cause(LOST), NODES, 2) == ["b"]


@given(
    st.sampled_from("ValueError SIGKILL SIGBUS OutOfMemory Hang DiskFull OSError X".split()),
    st.text(max_size=40),
    st.lists(st.tuples(st.sampled_from(["restart", "requeue", "stop"]), st.integers(0, 9))),
    st.integers(0, 9) | st.none(),
    st.booleans(),
    st.booleans(),
)
def test_never_more_than_the_budget_and_never_below_the_least(
    kind, message, earlier, now, restart, requeue
):
    means = Means(can_restart=restart, can_requeue=requeue, micro_tokens=64, can_exclude=True)
    told: list[dict[str, Any]] = []
    for _ in range(10):
        verdict = decide(cause(kind, message), [*history(*earlier), *told], means, checkpoint=now)
        assert verdict.micro_tokens is None or verdict.micro_tokens >= 16
        assert "\n" not in verdict.why
        assert verdict.action != "restart" or restart
        assert verdict.action != "requeue" or requeue
        if verdict.action == "stop":
            break
        told.append(verdict.plain(0.0))
    else:
        raise AssertionError("it goes on for ever")
