"""Faults on a real Slurm, and what becomes of the run that they meet.

    python -m tests.slurm.chaos random [--faults 20] [--seed N]
    python -m tests.slurm.chaos full [--only FAULT,…]

A virtual cluster is brought up, a small run of two nodes is submitted as a person does it, a fault
meets it, and in the end its weights, its metrics and the order of its examples are compared with
those of a run that nothing happened to. `random` is many faults over one run; `full` is every
fault with every engine, precision and process tracker. Needs root and Slurm's packages.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from slurm.cluster import ClusterConfig, VirtualCluster
from slurm.processes import children
from training.rundir import RunDir, first_cause, read_json, read_metrics, run_state, snapshot

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVE_EVERY = 60, 8
ENGINES = ("ddp", "1", "2", "3")
PRECISIONS = ("fp32", "bf16")
TRACKERS = ("linuxproc", "pgid", "cgroup")
DISK_MEGABYTES = 160
"""Of the file system that the runs lie on, so that it can be filled."""


@dataclass(frozen=True)
class Case:
    """One fault and the run that it meets."""

    fault: str
    engine: str
    precision: str
    tracker: str

    def __str__(self) -> str:
        return f"{self.fault}-{self.engine}-{self.precision}-{self.tracker}".replace(" ", "-")


@dataclass
class Outcome:
    """What became of a run."""

    state: str
    attempts: int
    resumed: list[int] = field(default_factory=list)
    """Steps from which it went on."""
    lost: int = 0
    """Steps made again."""
    same: bool | None = None
    """Whether it ended as the run that nothing happened to, bit for bit."""
    cause: str = ""
    seconds: float = 0.0


class Arena:
    """A virtual cluster with runs on a file system of their own."""

    def __init__(self, tracker: str, base: Path, steps: int = STEPS) -> None:
        self.base, self.steps = base, steps
        self.runs = base / "runs of 'chaos'"
        self.runs.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "none", str(self.runs)],
            check=True,
        )
        shared = tuple(dict.fromkeys([base, Path(sys.prefix), Path(sys.base_prefix), ROOT]))
        self.cluster = VirtualCluster(
            ClusterConfig(
                state=Path(f"/var/tmp/glueline-chaos-{os.getpid()}"),
                nodes=3,
                cpus=2,
                proctrack=tracker,
                preempt=True,
                share=shared,
                slurmd_timeout=8,
                extra_conf=("KillWait=20",),
            )
        )
        self.straight: dict[tuple[str, str], RunDir] = {}
        self.numbers = itertools.count()

    def __enter__(self) -> Arena:
        self.cluster.up()
        self.environment = dict(os.environ) | self.cluster.env()
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["scancel", "-f", "-u", "root"], env=self.environment, check=False)
        self.cluster.down()
        subprocess.run(["umount", "-l", str(self.runs)], check=False)

    def slurm(self, *words: str, check: bool = False) -> str:
        """Return what a Slurm command prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=check, timeout=60
        )
        return done.stdout.strip()

    def submit(self, case: Case, *more: str, local: bool = False) -> tuple[RunDir, str]:
        """Submit the small run, on two nodes or on this machine; return it and its job."""
        name = "straight" if local else str(case)
        name = f"{name}-{next(self.numbers)}"
        where = ("--nodes", "2", "--procs-per-node", "1", "--cpus-per-node", "1")
        where = ("--executor", "local", "--procs-per-node", "2") if local else where
        command = [sys.executable, str(ROOT / "launch" / "submit.py"), *where]
        command += ["--task", "demo", "--model", "tiny", "--runs", str(self.runs), "--name", name]
        command += [
            "--global-batch",
            "256",
            "--micro-tokens",
            "512",
            "--max-steps",
            str(self.steps),
        ]
        command += ["--log-every", "1", "--eval-every", "20", "--tracker", "none", "--time", "20"]
        command += ["--precision", case.precision, *more]
        command += [] if case.engine == "ddp" else ["--zero", case.engine]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        run = RunDir(self.runs / name)
        return run, snapshot(run).jobs[-1]["job_id"]

    def reference(self, case: Case) -> RunDir:
        """Return a run of the same kind that nothing happened to; made once."""
        key = (case.engine, case.precision)
        if key not in self.straight:
            run, _ = self.submit(case, local=True)
            wait_for("the reference run did not finish", run.results.exists, 240)
            self.straight[key] = run
        return self.straight[key]

    def state(self, job: str) -> str:
        """Return Slurm's word for a job."""
        return self.slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def attend(self, run: RunDir, job: str, seconds: float) -> None:
        """Wait until a run is over; lift the hold of its job whenever it is queued again."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.state(job)
            if state == "PENDING" and not _lingers(job):
                # Within the second in which it ended slurmd would refuse the new start.
                time.sleep(2.0)
                self.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
                time.sleep(1.0)
            if run.results.exists() and state != "RUNNING":
                return
            if state in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "COMPLETED"):
                return
            assert time.monotonic() < deadline, f"job {job} is {state} after {seconds:.0f} s"
            time.sleep(0.3)

    def agents(self, run: RunDir) -> list[int]:
        """Return the agents of the last attempt, by node."""
        number = max(run.attempt_numbers())
        return [(read_json(run.node(number, k)) or {}).get("pid", 0) for k in (0, 1)]

    def ranks(self, run: RunDir) -> list[int]:
        """Return the ranks' processes of the last attempt, by node."""
        found = []
        for agent in self.agents(run):
            below = [pid for child in children(agent) for pid in children(child)]
            found += [pid for pid in below if "training.train" in _command(pid)]
        return found

    def hosts(self, run: RunDir) -> list[str]:
        """Return the hosts of the last attempt, by node."""
        number = max(run.attempt_numbers())
        return [(read_json(run.node(number, k)) or {}).get("host", "") for k in (0, 1)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _lingers(job: str) -> bool:
    """Return whether anything of a job's last start is left; all hosts share a process table."""
    old = ["pgrep", "-f", rf"slurmstepd: \[{job}\."]
    return subprocess.run(old, capture_output=True, check=False).returncode == 0


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return a condition's first true value.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


def step(run: RunDir) -> int:
    """Return the last step that was logged."""
    lines = [line for line in read_metrics(run.metrics) if line["kind"] == "train"]
    return max((line["step"] for line in lines), default=0)


def at_step(run: RunDir, number: int) -> None:
    """Wait until a run has logged a step."""
    wait_for(f"{run.run_id} does not reach step {number}", lambda: step(run) >= number, 180)


def timeout(arena: Arena, run: RunDir, job: str) -> None:
    """The signal that sbatch's `--signal` sends ahead of the time limit."""
    arena.slurm("scancel", "--signal=USR2", job, check=True)


def preempt(arena: Arena, run: RunDir, job: str) -> None:
    """A job of a higher partition takes the nodes: TERM, then a requeue by Slurm itself."""
    words = ["sbatch", "-p", "urgent", "-N", "3", "--exclusive", "--parsable", "--chdir=/"]
    urgent = arena.slurm(*words, "--output=/dev/null", "--wrap=sleep 3", check=True)
    wait_for("not preempted", lambda: arena.state(job) != "RUNNING", 60)
    wait_for("the urgent job does not end", lambda: arena.state(urgent) == "COMPLETED", 90)


def rank_killed(arena: Arena, run: RunDir, job: str) -> None:
    """A rank is killed, as the kernel does it when memory runs out."""
    os.kill(arena.ranks(run)[-1], signal.SIGKILL)


def agent_killed(arena: Arena, run: RunDir, job: str) -> None:
    """The agent of the second node is killed."""
    os.kill(arena.agents(run)[1], signal.SIGKILL)


def head_agent_killed(arena: Arena, run: RunDir, job: str) -> None:
    """The agent of the first node, which answers for the job, is killed."""
    os.kill(arena.agents(run)[0], signal.SIGKILL)


def node_down(arena: Arena, run: RunDir, job: str) -> None:
    """The second node dies: slurmd, the step, the agent and the rank are gone at once."""
    host, agent, rank = arena.hosts(run)[1], arena.agents(run)[1], arena.ranks(run)[1]
    step_daemon = int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])
    arena.cluster.kill_slurmd(host)
    for pid in (step_daemon, agent, rank):
        os.kill(pid, signal.SIGKILL)
    wait_for("the job goes on", lambda: arena.state(job) != "RUNNING", 120)
    arena.cluster.start_slurmd(host)


def cut_off(arena: Arena, run: RunDir, job: str) -> None:
    """The network cable of the second node is pulled."""
    host = arena.hosts(run)[1]
    arena.cluster.cut(host)
    try:
        wait_for("the job goes on", lambda: arena.state(job) != "RUNNING", 120)
    finally:
        arena.cluster.mend(host)


def hang(arena: Arena, run: RunDir, job: str) -> None:
    """A rank is frozen: the others wait in a collective until the watchdog names it."""
    os.kill(arena.ranks(run)[-1], signal.SIGSTOP)


def controller_restarted(arena: Arena, run: RunDir, job: str) -> None:
    """slurmctld crashes and comes back; then the time limit's signal."""
    arena.cluster.restart_controller(crash=True)
    wait_for("slurmctld does not answer", lambda: arena.state(job) == "RUNNING", 60)
    timeout(arena, run, job)


def disk_full(arena: Arena, run: RunDir, job: str) -> None:
    """The file system is nearly full while a checkpoint is due, and has room again later."""
    filler = arena.runs / ".filler"
    stat = os.statvfs(arena.runs)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - 300_000)
    now = step(run)
    try:
        at_step(run, now + SAVE_EVERY + 4)
    finally:
        filler.unlink()


def nothing(arena: Arena, run: RunDir, job: str) -> None:
    """What meets the run is part of it (`train.fault`)."""


@dataclass(frozen=True)
class Fault:
    """How a fault is made, and what must come of it."""

    strike: Callable[[Arena, RunDir, str], None] = nothing
    options: tuple[str, ...] = ()
    state: str = "finished"
    resumes: bool = True
    same: bool = True
    steps_lost: int = SAVE_EVERY
    """Steps that may have to be made again, at most."""


FAULTS: dict[str, Fault] = {
    "timeout": Fault(timeout, steps_lost=0),
    "preemption": Fault(preempt, steps_lost=0),
    "rank raises": Fault(options=("--set", "train.fault=raise@13"), state="failed", resumes=False),
    "loss is NaN": Fault(options=("--set", "train.fault=nan@13"), state="failed", resumes=False),
    "rank killed": Fault(rank_killed),
    "agent killed": Fault(agent_killed),
    "head agent killed": Fault(head_agent_killed),
    "node down": Fault(node_down),
    "node cut off": Fault(cut_off),
    "hang": Fault(hang, options=("--set", "engine.hang_timeout=8")),
    "disk full": Fault(disk_full, resumes=False),
    "slurmctld restarted": Fault(controller_restarted, steps_lost=0),
    "out of memory": Fault(options=("--set", "train.fault=oom@13:500"), resumes=False, same=False),
}
RANDOM = ("timeout", "preemption", "rank killed", "agent killed", "head agent killed")
RANDOM += ("slurmctld restarted",)


def play(arena: Arena, case: Case) -> Outcome:
    """Let a fault meet a run and return what became of it."""
    fault = FAULTS[case.fault]
    begin = time.monotonic()
    run, job = arena.submit(case, "--save-every", str(SAVE_EVERY), *fault.options)
    if fault.strike is not nothing:
        at_step(run, 13)
        fault.strike(arena, run, job)
    arena.attend(run, job, 300)
    wait_for("the job lingers", lambda: not _lingers(job), 60)
    return judge(arena, case, run, time.monotonic() - begin)


def judge(arena: Arena, case: Case, run: RunDir, seconds: float) -> Outcome:
    """Return what became of a run that is over."""
    files = snapshot(run)
    cause = first_cause(files) or {}
    outcome = Outcome(
        state=run_state(files, "gone"),
        attempts=len(run.attempt_numbers()),
        resumed=[e["step"] for e in read_metrics(run.metrics) if e.get("event") == "resumed"],
        lost=steps_lost(run),
        cause=f"{cause['host']}: {cause['message']}" if cause else "",
        seconds=seconds,
    )
    if outcome.state == "finished":
        outcome.same = same(run, arena.reference(case))
    return outcome


def steps_lost(run: RunDir) -> int:
    """Return the most steps that an attempt had to make again."""
    lines = [line for line in read_metrics_raw(run) if line["kind"] == "train"]
    lost = 0
    for number in run.attempt_numbers()[1:]:
        before = max((e["step"] for e in lines if e["attempt"] < number), default=0)
        first = min((e["step"] for e in lines if e["attempt"] == number), default=before + 1)
        lost = max(lost, before + 1 - first)
    return lost


def read_metrics_raw(run: RunDir) -> list[dict[str, Any]]:
    """Return every line of metrics.jsonl, those that were made again too."""
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def told(run: RunDir) -> list[tuple[Any, ...]]:
    """Return what the log says of the training, without times and speeds."""
    keys = ("kind", "step", "epoch", "split", "loss", "lr", "grad_norm", "accuracy", "macro_f1")
    lines = [line for line in read_metrics(run.metrics) if line["kind"] != "event"]
    return [tuple(line.get(key) for key in keys) for line in lines]


def same(run: RunDir, other: RunDir) -> bool:
    """Return whether two runs ended the same, bit for bit: weights, metrics, examples."""
    files = [r.model / "model.safetensors" for r in (run, other)]
    results = [read_json(r.results) or {} for r in (run, other)]
    alike = ("metrics", "examples_seen", "steps", "best_step")
    return (
        files[0].read_bytes() == files[1].read_bytes()
        and told(run) == told(other)
        and all(results[0][key] == results[1][key] for key in alike)
    )


def check(case: Case, outcome: Outcome) -> list[str]:
    """Return what is not as it should be."""
    fault, wrong = FAULTS[case.fault], []
    if outcome.state != fault.state:
        wrong.append(f"it {outcome.state}: {outcome.cause}")
    if fault.state == "failed" and not outcome.cause:
        wrong.append("no cause is named")
    if bool(outcome.resumed) != fault.resumes:
        wrong.append(f"went on from {outcome.resumed}")
    if outcome.lost > fault.steps_lost:
        wrong.append(f"{outcome.lost} steps lost")
    if fault.state == "finished" and fault.same and outcome.same is not True:
        wrong.append("it ended otherwise than the run that nothing happened to")
    return wrong


def row(case: Case, outcome: Outcome) -> str:
    """Return a line of the table."""
    end = {True: "same bits", False: "other bits", None: outcome.cause[:60]}[outcome.same]
    went = ", ".join(map(str, outcome.resumed)) or "–"
    return (
        f"| {case.fault} | {case.engine} | {case.precision} | {case.tracker} | {outcome.state} "
        f"| {outcome.attempts} | {went} | {outcome.lost} | {end} | {outcome.seconds:.0f} |"
    )


HEAD = (
    "| fault | engine | precision | tracker | outcome | attempts | went on from | steps again "
    "| end | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
)


@contextmanager
def arena(tracker: str, steps: int = STEPS) -> Iterator[Arena]:
    """Give an arena, and clear it away."""
    folder = tempfile.TemporaryDirectory(prefix="chaos-")
    with folder as path, Arena(tracker, Path(path), steps) as found:
        yield found


@click.group()
def main() -> None:
    """Let faults meet runs on a virtual cluster."""


@main.command("full")
@click.option("--only", default="", help="Faults, by commas; all if none.")
@click.option("--trackers", default=",".join(TRACKERS), show_default=True)
@click.option("--engines", default=",".join(ENGINES), show_default=True)
@click.option("--precisions", default=",".join(PRECISIONS), show_default=True)
def full(only: str, trackers: str, engines: str, precisions: str) -> None:
    """Play every fault with every engine, precision and process tracker; print a table."""
    names = only.split(",") if only else list(FAULTS)
    bad = 0
    print(HEAD, flush=True)
    for tracker in trackers.split(","):
        with arena(tracker) as place:
            for product in itertools.product(names, engines.split(","), precisions.split(",")):
                case = Case(*product, tracker)
                outcome = play(place, case)
                wrong = check(case, outcome)
                bad += bool(wrong)
                print(row(case, outcome) + (f" {'; '.join(wrong)}" if wrong else ""), flush=True)
                for run in place.runs.glob(f"{case}-*"):
                    shutil.rmtree(run, ignore_errors=True)
    sys.exit(1 if bad else 0)


@main.command("random")
@click.option("--faults", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--tracker", type=click.Choice(TRACKERS), default="linuxproc", show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="2", show_default=True)
def many(faults: int, seed: int, tracker: str, engine: str) -> None:
    """Let many faults meet one run at random steps; the weights must be as without them."""
    rng = random.Random(seed)
    case = Case("many", engine, "fp32", tracker)
    # Far enough apart that the run is still on its way when the last one comes.
    steps = faults * 12 + 20
    wanted = sorted(rng.sample(range(3, steps - 20), faults))
    begin = time.monotonic()
    with arena(tracker, steps) as place:
        run, job = place.submit(case, "--save-every", "2", "--set", "cluster.max_requeues=100")
        for number, moment in enumerate(wanted, 1):
            name = rng.choice(RANDOM)
            while True:
                at_step(run, moment)
                before = len(run.attempt_numbers())
                here = step(run)
                try:
                    FAULTS[name].strike(place, run, job)
                    break
                except (ProcessLookupError, IndexError):
                    # The last fault still had something to follow: it is about to start again.
                    _revive(place, run, job, before)
            print(f"{number:2d}. step {here:3d}: {name}", flush=True)
            _revive(place, run, job, before)
        place.attend(run, job, 600)
        outcome = judge(place, case, run, time.monotonic() - begin)
        print(
            f"{faults} faults, {outcome.attempts} attempts, {outcome.state}; weights, metrics and "
            f"examples {'equal' if outcome.same else 'DIFFER FROM'} the uninterrupted run's "
            f"({outcome.seconds:.0f} s)"
        )
    sys.exit(0 if outcome.same else 1)


def _revive(place: Arena, run: RunDir, job: str, before: int) -> None:
    """Wait until the run trains again after a fault, or is over."""
    deadline = time.monotonic() + 240
    while not run.results.exists():
        numbers = run.attempt_numbers()
        if len(numbers) > before and place.ranks(run) and len(place.ranks(run)) == 2:
            lines = [e for e in read_metrics_raw(run) if e["attempt"] == max(numbers)]
            if any(e["kind"] == "train" for e in lines):
                return
        if place.state(job) == "PENDING" and not _lingers(job):
            time.sleep(2.0)
            place.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(1.0)
        assert time.monotonic() < deadline, f"job {job} is {place.state(job)}: it does not go on"
        time.sleep(0.3)


if __name__ == "__main__":
    main()
