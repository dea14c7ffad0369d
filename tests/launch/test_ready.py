import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from launch import ready
from launch.ready import check_unaltered, entry_name, prepare_inputs
from tests.launch.commandline import ROOT, assert_refused, clean_environment, glueline
from training import prepared
from training.config import ModelConfig, RunConfig, TaskConfig, UsageError
from training.prepared import altered, open_prepared, read_entry
from training.rundir import RunDir, write_json

ROWS = "text,label\n" + "".join(f"good {i},yes\nbad {i},no\n" for i in range(30))
TINY = ModelConfig(
    name="tiny", architecture="bert", layers=1, hidden_size=32, heads=2, vocab_size=200
)


def config_of(rows):
    task = TaskConfig(
        name="mine", text=("text",), label="label", train="train", validation=(), test=(),
        holdout=0.2, files={"train": (str(rows),)},
    )  # fmt: skip
    return RunConfig(task=task, model=TINY)


@pytest.fixture
def made(tmp_path):
    """Rows, prepared with a real proof."""
    rows = tmp_path / "rows.csv"
    rows.write_text(ROWS)
    cache = tmp_path / "runs" / ".cache"
    config = config_of(rows)
    said = []
    entry = prepare_inputs(config, cache, said.append)
    return config, cache, entry, said


def test_what_was_prepared_is_kept_found_and_watched(made, tmp_path):
    config, cache, entry, said = made
    assert entry.value["proved"]["rows"] == {"train": 48, "validation": 12}
    assert entry.value["proved"]["network"] in ("namespace", "guard")
    assert any("network forbidden" in line for line in said)
    name = entry_name(config, cache)
    assert name and name.startswith("mine-tiny-") and read_entry(cache, name) == entry
    said.clear()
    assert prepare_inputs(config, cache, said.append) == entry and said == []

    # A cache that is moved as one is still true; so is one whose times were lost in a copy.
    moved = tmp_path / "elsewhere" / ".cache"
    moved.parent.mkdir()
    cache.rename(moved)
    for path in moved.rglob("*.npy"):
        os.utime(path)
    there = read_entry(moved, name)
    assert there and altered(there) is None and altered(there, full=True) is None

    # What is wrong is named: another size, another byte of the same time, a file that is gone.
    victim = there.tokens / "train" / "labels.npy"
    content = victim.read_bytes()
    (file,) = [f for f in there.files if f["path"].endswith("train/labels.npy")]
    victim.chmod(0o644)
    victim.write_bytes(content + b"x")
    assert f"{victim} has {len(content) + 1} bytes" in (altered(there) or "")
    victim.write_bytes(content[:-1] + b"x")
    assert "holds other bytes" in (altered(there) or "")
    os.utime(victim, ns=(0, file["mtime_ns"]))
    assert altered(there) is None and "holds other bytes" in (altered(there, full=True) or "")
    run = RunDir(moved.parent / "r")
    run.path.mkdir()
    assert open_prepared(run) is None
    write_json(run.prepared, {"entry": name})
    with pytest.raises(UsageError, match=r"was altered.*holds other bytes.*prepare --run r"):
        open_prepared(run)
    victim.unlink()
    with pytest.raises(UsageError, match=r"is gone: make it anew with type this"):
        check_unaltered(there, "type this")

    # Prepared once more, it is whole again; under another name nothing is found.
    again = prepare_inputs(config, moved, said.append)
    assert any("made anew" in line for line in said) and altered(again, full=True) is None
    opened = open_prepared(run)
    assert opened and opened.tokens == again.tokens
    write_json(run.prepared, {"entry": "none"})
    with pytest.raises(UsageError, match=r"is gone.*submit --resume r"):
        open_prepared(run)
    write_json(run.prepared, {"entry": "none", "job": "12", "output": "/o"})
    with pytest.raises(UsageError, match=r"job 12 ended without it, its output is /o"):
        open_prepared(run)


def test_names_follow_from_content(tmp_path):
    rows, cache = tmp_path / "rows.csv", tmp_path / ".cache"
    rows.write_text(ROWS)
    config = config_of(rows)
    name = entry_name(config, cache)
    assert entry_name(replace(config, model=replace(TINY, dropout=0.3)), cache) == name
    assert entry_name(replace(config, model=replace(TINY, vocab_size=99)), cache) != name
    rows.write_text(ROWS.replace("good 1,", "fine 1,"))
    assert entry_name(config, cache) != name
    rows.unlink()
    with pytest.raises(UsageError, match="does not exist"):
        entry_name(config, cache)
    hub = replace(config, model=ModelConfig(name="m", hub="org/m"))
    rows.write_text(ROWS)
    assert entry_name(hub, cache) is None


def test_sums_are_kept_by_size_and_time(tmp_path, monkeypatch):
    cache = tmp_path / ".cache"
    prepared.folder(cache).mkdir(parents=True)
    path = tmp_path / "rows"
    path.write_text("one")
    sums = ready.Sums(cache)
    first = sums.of(path)
    path.write_text("two")  # too young to be believed
    assert sums.of(path) != first
    os.utime(path, (1, 1))
    old = sums.of(path)
    sums.keep()
    monkeypatch.setattr(ready, "file_sha256", lambda p: pytest.fail("read twice"))
    assert ready.Sums(cache).of(path) == old


def test_a_model_that_does_not_load_is_one_line(tmp_path):
    (tmp_path / "rows.csv").write_text(ROWS)
    config = config_of(tmp_path / "rows.csv")
    bad = replace(config, model=replace(TINY, architecture="bertt"))
    with pytest.raises(UsageError, match="job would fail: unknown architecture 'bertt'"):
        prepare_inputs(bad, tmp_path / ".cache", lambda text: None)
    assert not list((tmp_path / ".cache" / "prepared").glob("mine*"))


def test_killed_at_any_moment_and_typed_again(tmp_path):
    """Killed as soon as each step shows, the next one goes on; two at once end with one entry."""
    (tmp_path / "rows.csv").write_text(ROWS)
    words = ["--train-file", "rows.csv", "--text-columns", "text", "--label-column", "label"]
    words += ["--model", "tiny", "--json"]
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), *words]
    cache = tmp_path / "runs" / ".cache"
    for seen in ("prepared/.*.lock", "tokenizers/*", "tokens/*"):
        process = subprocess.Popen(
            command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE
        )
        while not list(cache.glob(seen)) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not list(cache.glob("prepared/*-tiny-*.json"))
    answers = []

    def go():
        answers.append(glueline("prepare", *words, cwd=tmp_path))

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.returncode for a in answers] == [0, 0], [a.stderr for a in answers]
    assert sum("waiting for it" in a.stderr for a in answers) == 1
    assert len({json.loads(a.stdout)["prepared"] for a in answers}) == 1
    left = [p for p in cache.rglob(".*") if p.name.endswith((".tmp", ".lock"))]
    assert not left, left
    check = glueline("prepare", *words[:-1], "--check", cwd=tmp_path)
    assert check.returncode == 0 and "as they were written" in check.stdout


def test_requests_that_contradict_each_other(tmp_path):
    line = ["--task", "demo", "--model", "tiny"]
    for words, said in (
        ([*line, "--wait"], "--submit"),
        ([*line, "--submit", "--check"], "--submit cannot be used"),
        (["--run", "x"], "no run 'x'"),
        ([*line, "--check"], "not prepared yet"),
    ):
        assert_refused(glueline("prepare", *words, cwd=tmp_path), said)
    assert not (tmp_path / "runs").exists()
