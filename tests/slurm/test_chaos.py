"""Every fault with every engine, on a real Slurm: the run goes on by itself, or says why not."""

import pytest

from training.rundir import read_json

from . import chaos
from .arena import Arena, at_step
from .chaos import ENGINES, FAULTS, PRECISIONS, TRACKERS, Kind

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]

KINDS = {
    Kind("2", "bf16", "linuxproc"): FAULTS[::2],
    Kind("ddp", "fp32", "linuxproc"): FAULTS[1::2],
    Kind("3", "fp32", "pgid"): FAULTS[::2],
    Kind("1", "bf16", "cgroup"): FAULTS[1::2],
}
"""The faults that each meets, every fault two of them: under the tracker that most clusters have,
and under another one. `make chaos-full` plays every fault with every engine, precision and tracker.
"""


def test_every_fault_engine_precision_and_tracker_occurs():
    met = list(KINDS.values())
    for first, second in ((0, 1), (2, 3)):
        assert {*met[first], *met[second]} == set(FAULTS)
    assert {kind.engine for kind in KINDS} == set(ENGINES)
    assert {kind.precision for kind in KINDS} == set(PRECISIONS)
    assert {kind.tracker for kind in KINDS} == set(TRACKERS)


@pytest.fixture(scope="module")
def arenas(tmp_path_factory):
    """Return a function that gives the arena of a tracker; the one before is cleared away."""
    standing: dict[str, Arena] = {}

    def give(tracker: str) -> Arena:
        if tracker not in standing:
            for old in list(standing):
                standing.pop(old).__exit__()
            base = tmp_path_factory.mktemp(f"chaos-{tracker}")
            standing[tracker] = Arena(tracker, base).__enter__()
        return standing[tracker]

    yield give
    for old in standing.values():
        old.__exit__()


def test_a_job_that_is_queued_again_takes_what_there_is(arenas):
    """Two nodes of three are drained: with --min-nodes 1 the run goes on on the third."""
    place = arenas("linuxproc")
    run, job = place.submit("smaller", "2", "fp32", 60, "--min-nodes", "1")
    at_step(run, 13)
    assert len(set(place.hosts(run)) - {""}) == 2
    left = place.hosts(run)[0]
    drained = ",".join(sorted({"node1", "node2", "node3"} - {left}))
    change = ("scontrol", "update", f"NodeName={drained}")
    place.slurm(*change, "State=DRAIN", "Reason=test", check=True)
    try:
        chaos.timeout(place, run, job)
        place.attend(run, job)
    finally:
        place.slurm(*change, "State=RESUME", check=True)
    (resumed,) = chaos.events(run, "resumed")
    assert (resumed["from_world_size"], resumed["world_size"]) == (2, 1)
    (saved,) = chaos.events(run, "saved")
    for key in ("step", *chaos.RESTORED):
        assert saved[key] == resumed[key], key
    assert (read_json(run.results) or {})["world_size"] == 1, chaos.said(run)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_run_survives_faults(arenas, kind, record_property):
    outcomes = []
    turn = 3 * list(KINDS).index(kind)
    for outcome in chaos.play_all(arenas(kind.tracker), kind, turn, KINDS[kind]):
        record_property("chaos", outcome.row())
        outcomes.append(outcome)
    assert [o.row() for o in outcomes if o.wrong] == []
    assert {o.fault for o in outcomes} == set(KINDS[kind])
