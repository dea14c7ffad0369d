"""What finished jobs used: sacct's words of several Slurm versions, and the flags for next time."""

from pathlib import Path

import pytest

from launch.reporting.efficiency import GIB, efficiency
from launch.reporting.records import Attempt, Record
from launch.reporting.sacct import parse, parse_clock, parse_memory
from tests.present import present

MODERN = """\
12|COMPLETED|2026-11-20T10:00:00|600|60|00:00:00|16|2|64G||billing=16,cpu=16,mem=64G,node=2
12.batch|COMPLETED|2026-11-20T10:00:00|600||00:01:00|8|1||500M|cpu=8
12.0|COMPLETED|2026-11-20T10:00:00|590||01:20:00.500|16|2||6G|cpu=16
"""
OLD = "13|TIMEOUT|2026-11-20T10:00:00|3600|60|02:00:00|8|2|4000Mn||cpu=8,mem=8000M,node=2\n"
QUEUED_AGAIN = """\
14|REQUEUED|2026-11-20T10:00:00|100|60|00:01:40|4|1|2Gc||cpu=4,gres/gpu=2,node=1
14.0|CANCELLED by 1000|2026-11-20T10:00:00|100||00:01:40|4|1||3G|
14|COMPLETED|2026-11-20T11:00:00|200|60|00:03:20|4|1|2Gc||cpu=4,gres/gpu=2,node=1
14.0|COMPLETED|2026-11-20T11:00:00|200||00:03:20|4|1||2G|
"""


def test_a_job_of_a_modern_slurm():
    used = parse(MODERN)["12"]
    assert (used.cores, used.nodes, used.seconds, used.limit_seconds) == (16, 2, 600.0, 3600.0)
    assert used.cpu_seconds == pytest.approx(4860.5), "of its steps, where the job has none"
    assert used.requested_bytes == 32 * GIB and used.peak_bytes == 6 * GIB


def test_a_job_of_an_old_slurm_asks_by_node_or_by_core():
    used = parse(OLD)["13"]
    assert used.requested_bytes == 4000 * 2**20 and used.peak_bytes is None
    assert used.state == "TIMEOUT"
    assert parse(QUEUED_AGAIN)["14"].requested_bytes == 8 * GIB


def test_a_job_that_was_queued_again_is_one_job():
    used = parse(QUEUED_AGAIN)["14"]
    assert (used.seconds, used.cpu_seconds, used.gpus) == (300.0, 300.0, 2)
    assert used.peak_bytes == 3 * GIB and used.state == "COMPLETED"


def test_a_job_of_the_same_id_from_before_a_reset_is_another_one():
    import time

    since = time.mktime(time.strptime("2026-11-20T10:30:00", "%Y-%m-%dT%H:%M:%S"))
    used = parse(QUEUED_AGAIN, since)["14"]
    assert used.seconds == 200.0 and used.peak_bytes == 2 * GIB
    assert parse(OLD, since) == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("01:02", 62),
        ("1-00:00:01", 86401),
        ("00:00.250", 0.25),
        ("2:00:00", 7200),
        ("", None),
        ("INVALID", None),
    ],
)
def test_clocks(text, seconds):
    assert parse_clock(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512K", 512 * 1024), ("1.5G", 1.5 * GIB), ("7", 7), ("0", None), ("?", None)],
)
def test_memory(text, size):
    assert parse_memory(text) == size


def finished(**more):
    config = {"cluster.nodes": 2, "cluster.executor": "slurm", "cluster.time": "02:00:00"}
    values = {
        "job": "12",
        "ranks": 4,
        "unit": "core-hours",
        "config": config | {"cluster.mem": "48G"},
        "attempts": (Attempt(0, 0.0, 590.0, "finished", 4, 16),),
        "results": {"peak_memory_bytes": 2 * GIB},
    }
    return Record("r", Path("r"), "finished", **(values | more))


def test_accounting_tells_what_to_ask_for():
    found = present(efficiency(finished(), parse(MODERN)))
    assert found.source == "accounting" and found.core_share == pytest.approx(4860.5 / 9600)
    # 6 GiB and a quarter; 590 s and a quarter; half of the cores are used, and 2 ranks a node.
    assert found.ask == ("--mem 8G", "--time 00:15:00", "--cpus-per-node 5")


def test_without_accounting_the_run_directory_tells():
    found = present(efficiency(finished(), {}))
    assert found.source == "run directory" and found.cpu_seconds is None
    assert found.peak_bytes == 4 * GIB and found.requested_bytes == 48 * GIB
    assert found.limit_seconds == 7200.0 and found.ask == ("--mem 7G", "--time 00:15:00")


def test_trials_that_share_a_node_ask_for_all_of_them():
    shared = finished(worker=True, attempts=(Attempt(0, 0.0, 600.0, "finished", 4, 4, lanes=4),))
    assert "--mem 25G" in present(efficiency(shared, {})).ask


def test_a_gpu_run_without_accounting_says_nothing_of_the_nodes_memory():
    found = present(efficiency(finished(unit="GPU-hours"), {}))
    assert found.gpus == 4 and found.gpu_peak_bytes == 2 * GIB and found.peak_bytes is None
    assert found.ask == ("--time 00:15:00",)


def test_only_finished_runs_are_measured():
    assert efficiency(Record("r", Path("r"), "failed"), {}) is None
