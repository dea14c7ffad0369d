import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from launch import lock
from launch.lock import locked, start_time
from training.config import UsageError

HOST = socket.gethostname()


def hold(path, **changes):
    """Write a lock as its holder does."""
    me = {"token": "t", "host": HOST, "pid": os.getpid(), "started": start_time(os.getpid())}
    path.write_text(json.dumps(me | changes))


def test_one_after_the_other(tmp_path):
    path, inside, most, said = tmp_path / "deep" / ".l.lock", [], [], []

    def work():
        with locked(path, said.append):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1] and list(path.parent.iterdir()) == []
    assert said and f"process {os.getpid()} on {HOST}" in said[0]


def test_a_dead_holder_is_not_waited_for(tmp_path):
    path = tmp_path / ".l.lock"
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    hold(path, pid=dead.pid)
    begin = time.monotonic()
    with locked(path):
        pass
    # The pid lives, but as another process than the one that took the lock.
    hold(path, pid=1, started="-1")
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert time.monotonic() - begin < 2


def test_a_holder_of_another_host_is_waited_for_while_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    path, said = tmp_path / ".l.lock", []
    hold(path, host="elsewhere", pid=7)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    threading.Timer(1.5, stop.set).start()
    begin = time.monotonic()
    with locked(path, said.append):
        took = time.monotonic() - begin
    thread.join()
    assert took > 1.5 and said == ["process 7 on elsewhere"]


def test_what_is_held_again_by_somebody_else_is_left_alone(tmp_path):
    path = tmp_path / ".l.lock"
    with locked(path):
        hold(path, token="another", host="elsewhere")
    assert json.loads(path.read_text())["token"] == "another"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write into"), locked(tmp_path / "file" / "l"):
        pass
