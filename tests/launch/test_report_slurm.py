"""`report` of a sweep that ran on a real Slurm with accounting."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from .virtual_site import Site, virtual_site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

LINE = (
    "--task demo --model tiny --grid global_batch=128,256 --epochs 1 --tracker none --time 20 "
    "--eval-every 4 --mem 4G --max-parallel 1 --name pair --yes"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with virtual_site(tmp_path_factory.mktemp("report of a 'site'"), "report", nodes=1) as up:
        yield up


def typed(site: Site, name: str, *words: str) -> str:
    done = site.glueline(name, *words)
    assert done.returncode == 0, (name, done.stdout, done.stderr)
    return done.stdout


def test_a_sweep_on_slurm_is_told_while_it_runs_and_after(site):
    typed(site, "sweep", *LINE.split())
    before = json.loads(typed(site, "report", "pair", "--json"))
    assert set(before["states"]) <= {"queued", "running", "created"}, before["states"]
    deadline, found = time.monotonic() + 240, before
    while found["states"] != {"finished": 2}:
        assert time.monotonic() < deadline, found["states"]
        assert "failed" not in found["states"], found
        time.sleep(3)
        found = json.loads(typed(site, "report", "pair", "--json"))
    (task,) = found["tasks"]
    assert [c["axes"] for c in task["cells"]] == [{"global_batch": 128}, {"global_batch": 256}]
    assert all(c["score"]["value"] > 0.2 and c["hours"]["value"] > 0 for c in task["cells"])
    # The worker took both trials: what accounting knows is told of the worker. slurmdbd hears of
    # its end a little later.
    for _ in range(20):
        told = {e["run_id"]: e for e in found["tasks"][0]["efficiency"]}
        workers = [e for n, e in told.items() if n.startswith("job ")]
        if workers and all(w["peak_bytes"] and w["cpu_seconds"] for w in workers):
            break
        time.sleep(1.5)
        found = json.loads(typed(site, "report", "pair", "--json"))
    assert workers, told
    for worker in workers:
        assert worker["source"] == "accounting" and 0 < worker["core_share"] <= 1.2
        assert 100 * 2**20 < worker["peak_bytes"] < worker["requested_bytes"] == 4 * 2**30
        assert worker["limit_seconds"] == 1200 and worker["ask"][0].startswith("--mem ")
    runs = [e for n, e in told.items() if not n.startswith("job ")]
    assert len(runs) == 2 and all(e["source"] == "run directory" for e in runs)
    assert (site.base / "runs" / ".sweeps" / "pair" / "report.html").is_file()
