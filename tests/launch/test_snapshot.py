import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from launch import snapshot
from launch.executor import python_path_lines
from launch.snapshot import code_root, digest, keep_snapshot, read_tree, remove_snapshot
from tests.launch.commandline import ROOT, clean_environment, glueline
from training.config import RunConfig, UsageError
from training.rundir import RunDir, read_json

CONFIG = RunConfig()
OFF = replace(CONFIG, cluster=replace(CONFIG.cluster, snapshot=False))


@pytest.fixture
def fresh():
    snapshot.tree.cache_clear()
    yield
    snapshot.tree.cache_clear()


def test_one_folder_for_one_tree(tmp_path, fresh):
    cache = tmp_path / ".cache"
    place, made = keep_snapshot(CONFIG, cache)
    assert place and made and place == code_root(CONFIG, cache)
    assert keep_snapshot(CONFIG, cache) == (place, False)
    assert read_tree(place) == read_tree(ROOT)
    assert {p.name for p in place.iterdir()} == {"launch", "slurm", "training", "configs"}
    assert all(not p.stat().st_mode & 0o222 for p in place.rglob("*.py"))
    assert list(place.rglob("train.*.pyc"))
    # It works alone, and a traceback names its files, not those it was made from.
    code = "import training.train, slurm.agent; print(training.train.main.__code__.co_filename)"
    env = clean_environment(PYTHONPATH=str(place), PYTHONSAFEPATH="1")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(place / "training" / "train.py")
    assert python_path_lines(CONFIG, cache)[0].startswith(f"export PYTHONPATH={place}")
    # Somebody edits it: the next submission gets a true one.
    (place / "training" / "train.py").unlink()
    again, made = keep_snapshot(CONFIG, cache)
    assert again == place and made and digest(read_tree(place)) == place.name
    remove_snapshot(place)
    assert not cache.exists() or not (cache / "code" / place.name).exists()


def test_several_at_once(tmp_path, fresh):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(keep_snapshot(CONFIG, tmp_path)[0]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1 and [p.name for p in (tmp_path / "code").iterdir()] == [made[0].name]


def test_off_and_installed(tmp_path, monkeypatch, fresh):
    assert keep_snapshot(OFF, tmp_path) == (None, False)
    assert code_root(OFF, tmp_path) == ROOT
    monkeypatch.setattr(snapshot, "python_path", lambda: None)  # in site-packages
    assert keep_snapshot(CONFIG, tmp_path) == (None, False)
    assert code_root(CONFIG, tmp_path) is None and python_path_lines(CONFIG, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path, fresh):
    (tmp_path / "code").write_text("")
    with pytest.raises(UsageError, match="cannot write the code into"):
        keep_snapshot(CONFIG, tmp_path)


def stop(folder):
    """Cancel the run `r`, and wait for its end."""
    done = glueline("cancel", "r", "--yes", cwd=folder)
    assert done.returncode == 0, done.stderr
    seen = "running"
    while seen in ("running", "queued"):
        time.sleep(0.2)
        seen = json.loads(glueline("status", "r", "--json", cwd=folder).stdout)["state"]


@pytest.mark.timeout(600)
def test_a_local_run_is_resumed_with_the_code_as_it_is_then(tmp_path):
    """The run names the code of each submission; what changed is said."""
    clone = tmp_path / "clone"
    for name in ("launch", "slurm", "training", "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))

    def submit(*words):
        return subprocess.run(
            [sys.executable, str(clone / "launch" / "submit.py"), *words], cwd=tmp_path,
            env=clean_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    line = ["--executor", "local", "--task", "demo", "--model", "tiny", "--tracker", "none"]
    line += ["--max-steps", "100000", "--name", "r"]
    assert submit(*line).returncode == 0
    stop(tmp_path)
    with (clone / "training" / "train.py").open("a") as file:
        file.write("# another day\n")
    done = submit("--resume", "r")
    assert done.returncode == 0, done.stdout + done.stderr
    stop(tmp_path)
    run = RunDir(tmp_path / "runs" / "r")
    codes = [job["code"] for job in (read_json(run.jobs) or {})["jobs"]]
    assert len(set(codes)) == 2 and f"code: {codes[0]} → {codes[1]}" in done.stdout
    folders = {p.name for p in (run.cache / "code").iterdir()}
    assert folders == set(codes)
    assert f"code/{codes[1]}" in run.command.read_text()
    assert "code/" not in glueline("clean", "--cache", "--dry-run", cwd=tmp_path).stdout
