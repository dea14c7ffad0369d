from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launch import ledger
from training.rundir import RunDir, write_json

PLAN = {
    "model": "minilm 6×384×1536",
    "device": "cpu",
    "device_kind": "cpu: X",
    "cores_per_rank": 1,
    "steps": 20,
    "memory": {"rank_bytes": 1000, "increment_bytes": 400},
    "time": {"seconds": 80.0},
}
RESULTS: dict[str, Any] = {
    "task": "mrpc",
    "world_size": 2,
    "zero_stage": None,
    "precision": "bf16",
    "global_batch": 64,
    "steps": 20,
    "wall_seconds": 100.0,
    "peak_memory_bytes": 1100,
    "throughput": {
        "examples_per_second": 32.0,
        "real_tokens_per_second": 1500.0,
        "padding_efficiency": 0.75,
        "train_seconds": 60.0,
        "evaluation_seconds": 10.0,
        "checkpoint_seconds": 5.0,
    },
}


def finished(runs: Path, name: str, results: dict[str, Any] = RESULTS, **plan: Any) -> RunDir:
    run = RunDir(runs / name)
    run.path.mkdir(parents=True)
    write_json(run.plan, PLAN | plan)
    write_json(run.results, results)
    return run


def test_a_finished_runs_line(tmp_path: Path) -> None:
    line = ledger.entry(finished(tmp_path, "r"))
    assert line is not None
    assert line["tokens_per_second_rank"] == 1500 / 0.75 / 2
    assert line["step_seconds"] == 2.0 and line["start_seconds"] == 25.0
    assert ledger.seen_against_planned(line) == {
        "memory": pytest.approx(0.1),
        "time": pytest.approx(0.25),
    }


def test_a_gpus_peak_is_compared_without_what_cuda_takes(tmp_path: Path) -> None:
    line = ledger.entry(finished(tmp_path, "r", device="cuda"))
    assert line is not None and line["planned_memory_bytes"] == 400


def test_a_run_that_ended_early_says_nothing_about_time(tmp_path: Path) -> None:
    line = ledger.entry(finished(tmp_path, "r", RESULTS | {"steps": 5}))
    assert line is not None and set(ledger.seen_against_planned(line)) == {"memory"}


def test_unfinished_and_older_runs(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    assert ledger.gathered(tmp_path) == []
    short = RESULTS | {"throughput": {"train_seconds": 0.0}}
    line = ledger.entry(finished(tmp_path, "short", short, memory=None, time=None))
    assert line is not None and line["tokens_per_second_rank"] is None
    assert ledger.seen_against_planned(line) == {}


def test_gathering_writes_each_run_once_and_reading_writes_nothing(tmp_path: Path) -> None:
    assert ledger.gather(tmp_path / "none") == []
    finished(tmp_path, "a")
    assert [line["run_id"] for line in ledger.gathered(tmp_path)] == ["a"]
    assert not (tmp_path / ".cache").exists()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ledger.gather(tmp_path), range(16)))
    finished(tmp_path, "b")
    ledger.gather(tmp_path)
    text = (tmp_path / ".cache" / ledger.NAME).read_text()
    assert [json.loads(line)["run_id"] for line in text.splitlines()] == ["a", "b"]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    ledger.gather(tmp_path)
    with (tmp_path / ".cache" / ledger.NAME).open("a") as file:
        file.write('{"run_id": "b", "mod')
    assert [line["run_id"] for line in ledger.read(tmp_path)] == ["a"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    (tmp_path / ".cache").write_text("a file where the folder should be")
    assert [line["run_id"] for line in ledger.gather(tmp_path)] == ["a"]
