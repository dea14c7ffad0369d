import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch import leftovers
from launch.clean import find, remove
from launch.garbage import FRESH_SECONDS, Asked
from tests.launch.commandline import assert_refused, glueline, tree
from training import checkpoints
from training.config import ModelConfig, RunConfig, TaskConfig
from training.rundir import RunDir, write_json
from training.sweepdir import SweepDir

HERE = socket.gethostname()
BASE = RunConfig(
    task=TaskConfig(name="t", text=("a",), label="b"),
    model=ModelConfig(name="m", architecture="bert"),
)


def checkpoint(run, name, size=1000, cut=0):
    folder = run.checkpoints / name
    folder.mkdir(parents=True)
    (folder / "shard-0.safetensors").write_bytes(b"x" * (size - cut))
    files = {"shard-0.safetensors": {"bytes": size, "sha256": "?"}}
    write_json(folder / checkpoints.MANIFEST, {"format": 1, "files": files})
    return folder


def made(runs, name, end=None, keep="model", host=HERE):
    """Make a run that ended so; None: it finished."""
    run = RunDir(runs / name)
    run.logs(0).mkdir(parents=True)
    run.config.write_text(replace(BASE, train=replace(BASE.train, keep=keep)).dump())
    job = {"job_id": "1", "executor": "local", "first_attempt": 0, "host": host}
    write_json(run.jobs, {"jobs": [job]})
    write_json(run.node(0, 0), {"host": HERE, "end": end or "finished", "ended": 1.0})
    if end is None:
        write_json(run.results, {"metrics": {}})
        run.model.mkdir()
        (run.model / "model.safetensors").write_bytes(b"w" * 500)
    return run


def names(runs, chosen=(), **asked):
    items, _ = find(runs, list(chosen), Asked(**asked), time.time())
    return sorted(str(Path(i.path).relative_to(runs)) for i in items)


def test_what_a_policy_or_a_resume_needs_stays(tmp_path):
    runs = tmp_path / "runs"
    done = made(runs, "done")
    checkpoint(done, "step-9")
    kept = made(runs, "kept", keep="all")
    checkpoint(kept, "step-9")
    failed = made(runs, "failed", "failed")
    for step in (2, 4):
        checkpoint(failed, f"step-{step}")
    checkpoint(failed, "best-3")
    checkpoint(failed, "best-4")
    write_json(failed.checkpoints / "step-4" / "state.json", {"progress": {"best_step": 3}})
    damaged = made(runs, "damaged", "interrupted")
    checkpoint(damaged, "step-2")
    checkpoint(damaged, "step-4", cut=1)
    broken = made(runs, "broken", "failed")
    checkpoint(broken, "step-2", cut=1)
    running = made(runs, "running", "failed", host="elsewhere")
    write_json(running.node(0, 0), {"host": "elsewhere"})
    checkpoint(running, "step-1")
    checkpoint(running, "step-2")
    scores = made(runs, "scores", keep="results")
    (failed.path / ".model.tmp").mkdir()

    assert names(runs) == [
        # The newest one is cut off: the run would go on from the one before.
        "damaged/checkpoints/step-4",
        "done/checkpoints/step-9",
        "failed/.model.tmp",
        "failed/checkpoints/best-4",
        "failed/checkpoints/step-2",
        "scores/model",
    ]
    assert names(runs, failed=True) == [
        "damaged/checkpoints/step-4",
        "failed/.model.tmp",
        "failed/checkpoints/best-4",
        "failed/checkpoints/step-2",
    ]
    assert names(runs, [done]) == ["done/checkpoints/step-9"]
    assert names(runs, [done], models=True) == ["done/checkpoints/step-9", "done/model"]
    assert names(runs, older_than=60.0) == []
    everything = names(runs, checkpoints=True)
    assert {"failed/checkpoints/step-4", "failed/checkpoints/best-3"} <= set(everything)
    assert {"kept/checkpoints/step-9", "broken/checkpoints/step-2"} <= set(everything)
    assert not any(name.startswith("running") for name in everything)
    assert names(runs, [running], checkpoints=True) == []
    assert scores.model.is_dir()


def test_the_command_shows_asks_and_frees(tmp_path):
    runs = tmp_path / "runs"
    run = made(runs, "done")
    checkpoint(run, "step-9", size=3 << 20)
    before = tree(runs)
    shown = glueline("clean", "--dry-run", cwd=tmp_path)
    assert shown.returncode == 0 and "3.0 MB  checkpoint  done/checkpoints/step-9" in shown.stdout
    told = json.loads(glueline("clean", "--json", cwd=tmp_path).stdout)
    assert told["bytes"] > 3 << 20 and told["freed"] == 0
    asked = glueline("clean", cwd=tmp_path)
    assert asked.returncode == 2 and "add --yes" in asked.stderr
    assert tree(runs) == before
    done = glueline("clean", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "freed 3.0 MB" in done.stdout
    assert not run.checkpoints.exists() and run.model.is_dir() and run.results.is_file()
    assert "nothing to remove" in glueline("clean", "--yes", cwd=tmp_path).stdout
    assert_refused(glueline("clean", "nope", cwd=tmp_path), "no run 'nope'")


def old(path):
    """Make something look as if nobody had touched it for long; ctime cannot be set."""
    os.utime(path, (1, 1))


@pytest.mark.parametrize("sweeps", [False, True])
def test_what_a_sweep_reads_stays(tmp_path, sweeps):
    """Its trials have no run directory before a worker takes them."""
    runs = tmp_path / "runs"
    cache = runs / ".cache"
    model = cache / "hub/models/m1"
    for name in ("code/aaaa", "code/bbbb", "tokens/t1", "tokenizers/k1", "hub/models/m1"):
        (cache / name).mkdir(parents=True)
    (cache / "prepared").mkdir()
    entry = {"format": 1, "tokens": "tokens/t1", "tokenizer": "tokenizers/k1", "files": []}
    write_json(cache / "prepared" / "e1.json", entry)
    if sweeps:
        sweep = SweepDir(runs / ".sweeps" / "s")
        sweep.submitit.mkdir(parents=True)
        write_json(sweep.manifest, {"code": "aaaa"})
        (sweep.submitit / "x.sh").write_text(f"export PYTHONPATH={cache}/code/bbbb")
        write_json(sweep.prepared("d"), {"entry": "e1"})
        sweep.base("d").write_text(BASE.with_paths(model=str(model)).dump())
    items, _ = find(runs, [], Asked(cache=True), time.time() + FRESH_SECONDS + 60)
    assert len(items) == (0 if sweeps else 6)


def test_a_sweep_that_may_run_keeps_all_tokens(tmp_path):
    runs = tmp_path / "runs"
    (runs / ".cache" / "tokens" / "t1").mkdir(parents=True)
    sweep = SweepDir(runs / ".sweeps" / "s")
    sweep.path.mkdir(parents=True)
    later = time.time() + FRESH_SECONDS + 60
    job = {"job_id": "1", "executor": "local", "host": "elsewhere", "sweep": "s"}
    write_json(sweep.jobs, {"jobs": [job]})
    assert find(runs, [], Asked(cache=True), later)[0] == []
    write_json(sweep.jobs, {"jobs": [job | {"host": HERE, "job_id": "0"}]})
    assert len(find(runs, [], Asked(cache=True), later)[0]) == 1


def test_the_cache_is_freed_of_what_no_run_names(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    cache = runs / ".cache"
    run = made(runs, "done")
    for kind, keep, lose in (
        ("code", "aaaa", "bbbb"), ("tokens", "t1", "t2"), ("tokenizers", "k1", "k2"),
        ("hub/models", "m1", "m2"),
    ):  # fmt: skip
        for name in (keep, lose):
            (cache / kind / name).mkdir(parents=True)
            (cache / kind / name / "f").write_bytes(b"x" * 100)
    entry = {"format": 1, "tokens": "tokens/t1", "tokenizer": "tokenizers/k1", "files": []}
    write_json(run.manifest, {"code": "aaaa"})
    write_json(run.prepared, {"entry": "e1"})
    run.config.write_text(BASE.with_paths(model=str(cache / "hub/models/m1")).dump())
    (cache / "prepared").mkdir()
    write_json(cache / "prepared" / "e1.json", entry)
    write_json(cache / "prepared" / "e2.json", entry | {"tokens": "tokens/t2"})
    assert names(runs, cache=True) == []  # all of it is young
    later = time.time() + FRESH_SECONDS + 60
    items, _ = find(runs, [], Asked(cache=True), later)
    gone = sorted(str(Path(i.path).relative_to(cache)) for i in items)
    expected = ["code/bbbb", "hub/models/m2", "prepared/e2.json", "tokenizers/k2", "tokens/t2"]
    assert gone == expected
    # A run that was not prepared may read any tokens while it lives.
    alive = made(runs, "alive", "failed", host="elsewhere")
    write_json(alive.node(0, 0), {"host": "elsewhere"})
    items, _ = find(runs, [], Asked(cache=True), later)
    assert {i.kind for i in items} == {"code", "hub", "prepared"}
    # Where its manifest is lost, the batch script still tells the code.
    run.manifest.unlink()
    run.submission.write_text(f"export PYTHONPATH={cache}/code/aaaa")
    items, _ = find(runs, [], Asked(cache=True), later)
    assert [Path(i.path).name for i in items if i.kind == "code"] == ["bbbb"]
    freed, kept = remove(items)
    assert freed > 0 and not kept and not (cache / "code" / "bbbb").exists()
    assert (cache / "code" / "aaaa").exists()


def test_what_dead_processes_left(tmp_path):
    cache = tmp_path / "runs" / ".cache"
    (cache / "tokens").mkdir(parents=True)
    dead = f"{HERE}.999999999.0123abcd.tmp"
    mine = f"{HERE}.{os.getpid()}.0123abcd.tmp"
    other = "elsewhere.7.0123abcd.tmp"
    for name in (f".x.{dead}", f".x.{mine}", f".x.{other}", "x"):
        (cache / "tokens" / name).mkdir()
    submission = tmp_path / "runs" / ".tmp-r-4711"
    submission.mkdir()
    assert [p.name for p in leftovers.leftovers(cache)] == [f".x.{dead}"]
    later = time.time() + leftovers.OLD_SECONDS + 60
    found = {p.name for p in leftovers.leftovers(cache, later)}
    assert found == {f".x.{dead}", f".x.{other}", submission.name}
    leftovers.remove_dead(cache)
    assert sorted(p.name for p in (cache / "tokens").iterdir()) == sorted(
        [f".x.{mine}", f".x.{other}", "x"]
    )


def test_a_run_is_left_alone_while_slurm_is_silent(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    run = made(runs, "r", "failed")
    job = {"job_id": "5", "executor": "slurm", "first_attempt": 0}
    write_json(run.jobs, {"jobs": [job]})
    checkpoint(run, "step-1")
    checkpoint(run, "step-2")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names(runs) == [] and "left alone" in capsys.readouterr().err


@pytest.mark.parametrize("keep", ["results", "model", "all"])
def test_what_is_kept_is_a_choice(keep):
    replace(BASE, train=replace(BASE.train, keep=keep)).train.check()
