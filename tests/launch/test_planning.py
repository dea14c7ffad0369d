"""What a person sees of the plan's memory and time, by `glueline submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch import machine, submit
from launch.main import run_command
from training.rundir import RunDir, write_json

from . import fakes
from .commandline import assert_refused, glueline, tree
from .test_ledger import RESULTS

LINE = (
    "--executor local --task demo --model tiny --procs-per-node 2 --global-batch 64 "
    "--tracker none --precision fp32"
).split()


def plan_of(here: Path, *more: str) -> dict[str, Any]:
    done = glueline("submit", *LINE, "--dry-run", "--json", *more, cwd=here)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["plan"]


def test_a_dry_run_shows_memory_time_and_cost_and_touches_nothing(tmp_path: Path) -> None:
    done = glueline("submit", *LINE, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for words in ("memory a rank about", "(this machine)", "imports 520 MiB", "core-hours"):
        assert words in text, words
    assert "a guess from CPUs like this machine's, could be off by 2×" in text
    assert not tree(tmp_path)


def test_past_runs_take_the_place_of_the_guess(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    for n, rate in enumerate((0.95, 1.0, 1.05)):
        run = RunDir(tmp_path / "runs" / f"past{n}")
        run.path.mkdir(parents=True)
        write_json(run.plan, plan)
        same = {"world_size": 2, "precision": "fp32", "task": "demo", "zero_stage": None}
        speeds = RESULTS["throughput"] | {"real_tokens_per_second": 1500.0 * rate}
        write_json(run.results, RESULTS | same | {"throughput": speeds})
    before = tree(tmp_path)
    found = plan_of(tmp_path)["time"]
    assert "from 3 runs like it, ±5%" in found["words"]
    assert found["start_seconds"] == 25.0
    assert tree(tmp_path) == before


def test_what_does_not_fit_is_refused_before_submission(tmp_path: Path) -> None:
    more = ["--set", "model.layers=48", "--set", "model.hidden_size=8192"]
    more += ["--set", "model.heads=64", "--set", "model.intermediate_size=32768"]
    done = glueline("submit", *LINE, *more, cwd=tmp_path)
    assert_refused(done, "does not fit", "a rank needs at least", "GiB")
    assert not tree(tmp_path)


def test_auto_takes_the_highest_budget_that_fits_and_finds_the_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLUELINE_SHARED", str(tmp_path))
    monkeypatch.delenv("GLUELINE_RUNS", raising=False)
    monkeypatch.setattr(machine, "local_gpus", lambda: 0)
    job = fakes.executor(monkeypatch)
    line = "--task demo --model tiny --global-batch 64 --tracker none --precision fp32 --json"

    def typed(memory_mb: int, *more: str) -> dict[str, Any]:
        nodes = (fakes.Partition("cpu", default=True, memory_mb=memory_mb),)
        fakes.slurm(monkeypatch, nodes)
        with pytest.raises(SystemExit) as end:
            run_command(submit.submit, [*line.split(), *more])
        out, err = capsys.readouterr()
        assert end.value.code == 0, err
        return json.loads(out)

    large = typed(64_000, "--dry-run")
    small = typed(695, "--dry-run")
    assert large["plan"]["micro_tokens"] == 1024
    assert 64 <= small["plan"]["micro_tokens"] < 1024
    assert small["plan"]["memory"]["rank_bytes"] < 695 << 20
    assert large["run_id"] == small["run_id"], "the budget is no part of what is asked for"
    assert typed(695, "--dry-run", "--micro-tokens", "1024")["plan"]["micro_tokens"] == 1024
    first = typed(695)
    assert first["job_id"] and int(job.submitted[0][0].batch.micro_tokens) < 1024
    assert typed(64_000)["path"] == first["path"] and len(job.submitted) == 1
