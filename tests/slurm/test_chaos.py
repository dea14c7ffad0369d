"""Every fault once, on a real Slurm: the run goes on by itself, or says what ended it."""

import os

import pytest

from training.rundir import RunDir

from . import chaos
from .chaos import FAULTS, Case

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SPREAD = [
    ("linuxproc", "timeout", "ddp", "fp32"),
    ("linuxproc", "rank killed", "2", "bf16"),
    ("linuxproc", "head agent killed", "ddp", "fp32"),
    ("linuxproc", "rank raises", "1", "fp32"),
    ("linuxproc", "slurmctld restarted", "ddp", "fp32"),
    ("pgid", "preemption", "3", "fp32"),
    ("pgid", "agent killed", "3", "fp32"),
    ("pgid", "disk full", "1", "bf16"),
    ("pgid", "loss is NaN", "3", "fp32"),
    ("cgroup", "node down", "1", "bf16"),
    ("cgroup", "node cut off", "ddp", "bf16"),
    ("cgroup", "hang", "ddp", "bf16"),
    ("cgroup", "out of memory", "2", "fp32"),
]
CASES = [Case(fault, engine, precision, tracker) for tracker, fault, engine, precision in SPREAD]


def test_every_fault_occurs_and_every_engine_precision_and_tracker():
    assert {c.fault for c in CASES} == set(FAULTS)
    assert {c.engine for c in CASES} == set(chaos.ENGINES)
    assert {c.precision for c in CASES} == set(chaos.PRECISIONS)
    assert {c.tracker for c in CASES} == set(chaos.TRACKERS)


@pytest.fixture(scope="module")
def arenas(tmp_path_factory):
    """Return a function that gives the arena of a tracker; the one before is cleared away."""
    if os.geteuid() != 0:
        pytest.fail("the virtual cluster needs root") if os.environ.get("CI") else pytest.skip(
            "the virtual cluster needs root"
        )
    standing: dict[str, chaos.Arena] = {}

    def give(tracker: str) -> chaos.Arena:
        if tracker not in standing:
            for old in list(standing):
                standing.pop(old).__exit__()
            base = tmp_path_factory.mktemp(f"chaos-{tracker}")
            standing[tracker] = chaos.Arena(tracker, base).__enter__()
        return standing[tracker]

    yield give
    for old in standing.values():
        old.__exit__()


def test_a_job_that_is_queued_again_takes_what_there_is(arenas):
    """Two nodes of three are drained: with --min-nodes 1 the run goes on on the third."""
    place = arenas("linuxproc")
    case = Case("smaller", "2", "fp32", "linuxproc")
    run, job = place.submit(case, "--min-nodes", "1")
    chaos.at_step(run, 13)
    assert len(set(place.hosts(run)) - {""}) == 2
    left = place.hosts(run)[0]
    drained = ",".join(sorted({"node1", "node2", "node3"} - {left}))
    change = ("scontrol", "update", f"NodeName={drained}")
    place.slurm(*change, "State=DRAIN", "Reason=test", check=True)
    try:
        chaos.timeout(place, run, job)
        place.attend(run, job, 240)
    finally:
        place.slurm(*change, "State=RESUME", check=True)
    (resumed,) = [e for e in chaos.read_metrics(run.metrics) if e.get("event") == "resumed"]
    assert (resumed["from_world_size"], resumed["world_size"]) == (2, 1)
    (saved,) = [e for e in chaos.read_metrics(run.metrics) if e.get("event") == "saved"]
    for key in ("step", "next_ids", "lr", "optimizer", "weights"):
        assert saved[key] == resumed[key], key
    assert (chaos.read_json(run.results) or {})["world_size"] == 1, said(place, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_survives(arenas, case, record_property):
    place = arenas(case.tracker)
    outcome = chaos.play(place, case)
    record_property("chaos", chaos.row(case, outcome))
    assert chaos.check(case, outcome) == [], said(place, case)


def said(place: chaos.Arena, case: Case) -> str:
    """Return what the job itself printed."""
    runs = sorted(place.runs.glob(f"{case}-*"))
    if not runs:
        return ""
    texts = [p.read_text(errors="replace") for p in RunDir(runs[-1]).submitit.glob("*.out")]
    return "".join(texts)[-4000:]
