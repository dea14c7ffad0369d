"""Checkpoint folders: what counts as one, and what is kept."""

import json

import pytest

from training import checkpoints
from training.rundir import RunDir, write_json


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    return run


def write(run, step, best=None, text="numbers"):
    final = checkpoints.step_folder(run, step)
    temporary = checkpoints.temporary_folder(final)
    temporary.mkdir()
    (temporary / "shard").write_text(text)
    write_json(temporary / checkpoints.STATE, {"progress": {"best_step": best}})
    names = ("shard", checkpoints.STATE)
    checkpoints.seal(final, step, {n: checkpoints.describe_file(temporary / n) for n in names})
    return final


def write_best(run, step):
    final = checkpoints.best_folder(run, step)
    checkpoints.temporary_folder(final).mkdir()
    checkpoints.seal(final, step, {})


def respell(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


def test_complete_ones_newest_first(run):
    for step in (9, 10, 100):
        write(run, step)
    (run.checkpoints / "step-200").mkdir()  # no manifest
    (run.checkpoints / ".step-300.tmp").mkdir()
    (run.checkpoints / "step-x").mkdir()
    assert [checkpoints.step_of(p) for p in checkpoints.complete(run)] == [100, 10, 9]
    assert checkpoints.last_step(run) == 100


def test_none(tmp_path):
    assert checkpoints.complete(RunDir(tmp_path)) == []
    assert checkpoints.last_step(RunDir(tmp_path)) is None


def test_whole(run):
    folder = write(run, 3)
    assert checkpoints.damage(folder) is None
    assert [checkpoints.damage(folder, part, 2) for part in (0, 1)] == [None, None]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "shard").write_text("numberz"), "holds other bytes"),
        (lambda f: (f / "shard").write_text("number"), "6 bytes, not 7"),
        (lambda f: (f / "shard").unlink(), "is gone"),
        (lambda f: (f / checkpoints.MANIFEST).unlink(), "no manifest"),
        (lambda f: (f / checkpoints.MANIFEST).write_text("{"), "no manifest"),
        (lambda f: respell(f / checkpoints.MANIFEST, "sha256", "sia256"), "manifest.json: its"),
        (lambda f: respell(f / checkpoints.MANIFEST, "format", "formau"), "manifest.json: its"),
        (lambda f: (f / checkpoints.MANIFEST).write_text('{"format": 7, "files": {}}'), "newer"),
    ],
)
def test_damage(run, harm, words):
    folder = write(run, 3)
    harm(folder)
    assert words in (checkpoints.damage(folder) or "")


def test_ranks_share_the_reading(run):
    folder = write(run, 3)
    (folder / "shard").write_text("numberz")
    found = [checkpoints.damage(folder, part, 2) for part in (0, 1)]
    assert sum(text is not None for text in found) == 1


def test_one_of_that_name_is_replaced(run):
    write(run, 3)
    folder = write(run, 3, text="new")
    assert (folder / "shard").read_text() == "new" and checkpoints.damage(folder) is None


def test_the_last_two_and_the_best_they_know_stay(run):
    for step in (2, 4, 6, 8):
        write_best(run, step)
    write(run, 3, best=2)
    write(run, 5, best=4)
    write(run, 7, best=6)
    checkpoints.prune(run, best=8)
    kept = sorted(p.name for p in run.checkpoints.iterdir())
    assert kept == ["best-4", "best-6", "best-8", "step-5", "step-7"]


def test_best_weights_found_meanwhile_stay(run):
    """A checkpoint is sealed in the background, while training has gone on."""
    write_best(run, 6)
    write(run, 4)
    checkpoints.prune(run, best=None)
    assert checkpoints.best_folder(run, 6).exists()


def test_the_manifest_goes_first(run, monkeypatch):
    folder = write(run, 3)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda *a, **k: None)
    checkpoints.remove([folder])
    assert folder.exists() and checkpoints.complete(run) == []
    json.loads((folder / checkpoints.STATE).read_text())


def test_the_newest_sound_one_is_told_by_sizes(tmp_path):
    run = RunDir(tmp_path)
    assert checkpoints.newest_sound(run) == (None, [])
    for step, cut in ((2, 0), (4, 1), (6, 5)):
        folder = run.checkpoints / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "shard-0.safetensors").write_bytes(b"x" * (5 - cut))
        files = {"shard-0.safetensors": {"bytes": 5, "sha256": "?"}}
        write_json(folder / checkpoints.MANIFEST, {"format": 1, "files": files})
    (run.checkpoints / "step-6" / "shard-0.safetensors").unlink()
    step, damaged = checkpoints.newest_sound(run)
    assert step == 2
    assert damaged == [
        "step-6/shard-0.safetensors is gone",
        "step-4/shard-0.safetensors has 4 bytes, not 5",
    ]
