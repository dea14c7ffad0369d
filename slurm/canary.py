"""What `glueline doctor` runs on the nodes: one process per node, as the agent of a run.

It measures and writes down; what the figures mean is said on the login node. Standard library
only, so that it stands where torch does not import.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from slurm import machine_facts, scontrol, wires
from slurm.allocation import Allocation, read_allocation
from slurm.command import Rendezvous, rendezvous_port
from slurm.scontrol import Refused, Silent, say
from slurm.start import ranks_of_node
from training.config import load_config
from training.rundir import RunDir, read_json, write_json

T = TypeVar("T")

MODULE = "training.canary"
"""What torchrun starts in every rank of the measurement."""
POLL_SECONDS = 0.2
MEET_SECONDS = 45.0
"""How long machines wait for each other's files: NFS may show them half a minute late."""
FOLDER_SECONDS = 35.0
SIGNAL_SECONDS = 12.0
TORCH_SECONDS = 100.0


class CanaryDir:
    """Paths of one canary job's folder. Nothing is created by naming it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    @property
    def request(self) -> Path:
        """Written by doctor: what to look at."""
        return self.path / "request.json"

    @property
    def login(self) -> Path:
        """Written by doctor once it saw the nodes: the login node's clock."""
        return self.path / "login.json"

    @property
    def requeue(self) -> Path:
        """Written by node 0, last: whether the job could be queued again."""
        return self.path / "requeue.json"

    def node(self, number: int) -> Path:
        """Written by that node: what it found so far."""
        return self.path / f"node-{number}.json"

    def rank(self, number: int) -> Path:
        """Written by that rank: what torch measured."""
        return self.path / f"rank-{number}.json"

    def torchrun_log(self, number: int) -> Path:
        """Output of one node's torchrun and its ranks."""
        return self.path / f"torchrun-{number}.log"

    def unseen(self) -> Path:
        """Written by the batch script, before any Python: folders that the first node lacks."""
        return self.path / "unseen.txt"


def marker(folder: str, nonce: str, who: str) -> Path:
    """Return the file by which one machine shows the others that a folder is shared."""
    return Path(folder) / f".glueline-doctor-{nonce}-{who}"


class Canary:
    """What submitit pickles and calls on every node: a path."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> str:
        """Measure this node; what goes wrong is written down, not raised."""
        allocation = read_allocation()
        place = CanaryDir(self.folder)
        if allocation.restarts or place.requeue.exists():
            return "queued again, as was asked for"  # doctor was killed before it cancelled us
        node = _Node(place, allocation)
        try:
            node.measure()
        except Exception:
            node.note(error=traceback.format_exc())
        node.note(done=time.time())
        if allocation.node == 0:
            node.requeue()
        return "measured"


class _Node:
    """One node's part."""

    def __init__(self, place: CanaryDir, allocation: Allocation) -> None:
        self.place, self.allocation = place, allocation
        self.number, self.count = allocation.node, len(allocation.hosts)
        self.asked: dict[str, Any] = read_json(place.request) or {}
        self.nonce = str(self.asked.get("nonce"))
        self.signalled: float | None = None
        self.present = set(range(self.count))
        """Nodes that are waited for: those that did not show up at first are not."""
        self.found: dict[str, Any] = {"node": self.number, "host": socket.gethostname()}
        self._lock = threading.Lock()

    def note(self, **values: Any) -> None:
        """Add to what this node found and write it down."""
        with self._lock:
            self.found |= values
            with contextlib.suppress(OSError):
                write_json(self.place.node(self.number), self.found, durable=False)

    def measure(self) -> None:
        """Do all that needs no privileges, in an order in which one fault hides no other."""
        signal.signal(signal.SIGUSR2, self._on_signal)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue's own
        self._mark_folders()
        ports = [*self.asked.get("ports", ()), rendezvous_port(self.allocation.raw_id)]
        with wires.Listeners(ports) as listeners:
            internet = _later(lambda: wires.internet(self.asked.get("internet", "")))
            self.note(
                hosts=self.allocation.hosts,
                allocated=_number(os.environ.get("SLURM_CPUS_ON_NODE")),
                taken_ports=listeners.taken,
                time_port=listeners.time_port,
                written=time.time(),
                **machine_facts.facts(self.asked.get("packages", ())),
            )
            peers = self._meet()
            self._see_login()
            jobs = [
                _later(self._look_at_folders),
                _later(lambda: self._ask_slurm()),
                _later(lambda: self._connect(peers, ports)),
            ]
            for job in jobs:
                job()
            self.note(internet=internet())
            self._await("signal", lambda: self.signalled, SIGNAL_SECONDS)
            self.note(signal=self.signalled)
            # Nobody closes its ports before all have tried them.
            self._await_peers("connections")
        self._torch(peers)
        self._await_peers("ranks")

    def _on_signal(self, number: int, frame: object) -> None:
        self.signalled = time.time()

    def _await(self, what: str, true: Callable[[], T], seconds: float = MEET_SECONDS) -> T:
        """Return the first true value, or the last one after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (value := true()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if not value:
            say(f"waited {seconds:.0f} s in vain for {what}")
        return value

    def _peers(self) -> dict[int, dict[str, Any]]:
        # Listing a folder shows new files earlier on NFS than looking for them by name.
        there = {p.name for p in self.place.path.iterdir()}
        numbers = [n for n in range(self.count) if self.place.node(n).name in there]
        return {n: v for n in numbers if (v := read_json(self.place.node(n)))}

    def _await_peers(self, key: str) -> dict[int, dict[str, Any]]:
        def told() -> dict[int, dict[str, Any]] | None:
            found = self._peers()
            told = {n for n, value in found.items() if key in value}
            return found if self.present <= told else None

        return self._await(f"the other nodes' {key}", told, MEET_SECONDS) or self._peers()

    def _meet(self) -> dict[int, dict[str, Any]]:
        before = time.monotonic()
        found = self._await_peers("written")
        self.present = set(found)
        self.note(met=sorted(found), met_seconds=time.monotonic() - before)
        return found

    def _see_login(self) -> None:
        """Bound the login node's clock: it looked between our writing and our reading."""
        told = self._await("the login node's file", lambda: read_json(self.place.login))
        seen = time.time()
        if isinstance(told, dict):
            first, last = told["time"] - seen, told["time"] - float(self.found["written"])
            self.note(login={"ahead": [first, last]})

    def _mark_folders(self) -> None:
        failed = {}
        for folder in self.asked.get("folders", ()):
            try:
                marker(folder, self.nonce, f"node{self.number}").touch()
            except OSError as error:
                failed[folder] = error.strerror or str(error)
        self.found["unwritable"] = failed

    def _look_at_folders(self) -> None:
        """See whose marks this node sees in every folder, and how long it took."""
        wanted = {"login", *(f"node{n}" for n in range(self.count))}
        began, seen = time.monotonic(), {}
        for folder in self.asked.get("folders", ()):
            seen[folder] = {"sees": [], "seconds": 0.0}
        pending = {str(folder) for folder in self.asked.get("folders", ())}
        while pending and time.monotonic() < began + FOLDER_SECONDS:
            for folder in sorted(pending):
                with contextlib.suppress(OSError):
                    names = {p.name for p in Path(folder).iterdir()}
                    here = [w for w in wanted if marker(folder, self.nonce, w).name in names]
                    seen[folder] = {"sees": sorted(here), "seconds": time.monotonic() - began}
                    if len(here) == len(wanted):
                        pending.discard(folder)
            # A folder that shows no stranger's mark after some seconds is this node's own, or
            # that of a peer which says so: its mark will never come.
            if time.monotonic() > began + FOLDER_SECONDS / 4:
                lonely = {f for f in pending if len(seen.get(f, {}).get("sees", ())) <= 1}
                told = [v["folders"] for v in self._peers().values() if "folders" in v]
                lonely |= {f for f in pending for t in told if "login" not in t[f]["sees"]}
                pending -= lonely
            time.sleep(POLL_SECONDS)
        self.note(folders=seen)

    def _ask_slurm(self) -> None:
        # The signal that the login node tries goes to all processes of the job: also to these.
        for _ in range(3):
            try:
                version = scontrol.ask("scontrol", "--version", seconds=20.0).strip()
                fields = scontrol.show_job(self.allocation.job_id, seconds=20.0)
            except (Refused, Silent) as error:
                said: dict[str, Any] = {"error": str(error)}
            else:
                said = {"version": version, "fields": fields}
                break
        self.note(slurm=said)

    def _connect(self, peers: dict[int, dict[str, Any]], ports: list[int]) -> None:
        """Try the ports of the next node, and compare its clock with ours."""
        following = (self.number + 1) % self.count
        if self.count == 1 or following not in peers:
            self.note(connections=None)
            return
        host = self.allocation.hosts[following]
        taken = set(peers[following].get("taken_ports", ()))
        self.note(
            connections={
                "to": host,
                "address": wires.address_of(host),
                "through": wires.way_to(host),
                "clock": wires.clock_ahead(host, int(peers[following]["time_port"])),
                "ports": wires.connect_all(host, [p for p in ports if p not in taken]),
            }
        )

    def _torch(self, peers: dict[int, dict[str, Any]]) -> None:
        """Have torchrun start the ranks that measure, as the agent of a run does."""
        connections = self._await_peers("connections")
        port = rendezvous_port(self.allocation.raw_id)
        blocked = [
            n
            for n, value in connections.items()
            if (value.get("connections") or {}).get("ports", {}).get(str(port), "") != ""
        ]
        if len(peers) < self.count or blocked:
            self.note(ranks={"skipped": "the nodes do not reach each other"})
            return
        config = load_config(RunDir(self.place.path).config)
        meet = Rendezvous(self.allocation.hosts[0], port, f"{self.allocation.raw_id}-doctor")
        argv, environment = ranks_of_node(
            config,
            meet,
            self.place.path,
            node=self.number,
            nodes=self.count,
            cores=self.allocation.cores,
            module=MODULE,
        )
        with self.place.torchrun_log(self.number).open("ab") as log:
            began = time.monotonic()
            ranks = subprocess.Popen(
                argv,
                env=environment,
                cwd=self.place.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = ranks.wait(TORCH_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(ranks.pid, signal.SIGKILL)
                ranks.wait()
        self.note(ranks={"exit": code, "seconds": time.monotonic() - began})

    def requeue(self) -> None:
        """Ask Slurm to queue this job again, as the agent of a run would."""
        try:
            scontrol.ask("scontrol", "requeue", self.allocation.job_id, seconds=30.0)
            answer: dict[str, Any] = {"accepted": True}
        except (Refused, Silent) as error:
            answer = {"accepted": False, "said": str(error)}
        write_json(self.place.requeue, answer | {"time": time.time()})


def _later(call: Callable[[], T]) -> Callable[[], T]:
    """Start a call in a thread; what is returned waits for its value."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((True, call()))
        except Exception as error:
            box.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> T:
        thread.join()
        good, value = box[0]
        if not good:
            raise value
        return value

    return result


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
