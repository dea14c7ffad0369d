"""`reproduce` on a real Slurm: from a reference file to a verdict and a receipt, and `replay`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from training.rundir import read_json

from .commandline import assert_refused
from .virtual_site import Site, virtual_site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]

REFERENCE = """
model: tiny
source: nobody, for a test
unit: percent
statistic: mean
recipe: {global_batch: 64, lr: 2.0e-3, epochs: 5, schedule: linear, train.select: last}
tasks:
  demo: {scores: [{split: validation, metric: accuracy, value: 80}]}
"""
HOW = "--tracker none --time 20 --mem 4G --max-parallel 2 --cpus-per-node 1".split()
"""Two workers, one a core of this machine: what the nodes are made of."""
TERMS = "--seeds 5 --margin 80 --level 0.2".split()
"""Seeds of the demo end at 0.67 or at 1: a margin that holds both, so that three are enough."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("reproduce on a 'site'")
    (base / "demo.yaml").write_text(REFERENCE)
    with virtual_site(base, "reproduce", nodes=2) as up:
        yield up


def typed(site: Site, name: str, *words: str):
    return site.glueline(name, *words, timeout=700)


def run_folders(site: Site) -> set[str]:
    """Return the names of the runs that are there."""
    return {p.name for p in (site.base / "runs").iterdir() if not p.name.startswith(".")}


def test_a_reference_is_judged_and_its_receipt_replayed(site):
    done = typed(site, "reproduce", "--reference", "demo.yaml", *TERMS, *HOW)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "demo: reproduced after " in done.stdout and "receipt  " in done.stdout
    folder = site.base / "runs" / ".sweeps" / "reproduce-demo"
    receipt: Any = read_json(folder / "receipt.json")
    (verdict,) = receipt["verdicts"]
    (score,) = verdict["scores"]
    assert verdict["outcome"] == "reproduced" and not verdict["missing"], verdict
    count = verdict["stopped_after"]
    assert count in (3, 4) and score["ours"]["count"] == count  # decided early
    assert abs(score["difference"]["value"]) < score["margin"] == 0.8
    assert len(receipt["runs"]) == count and all(r["recipe"] for r in receipt["runs"])
    assert receipt["cost"]["hours"] > 0 and receipt["hardware"][0]["ranks"] == 1
    assert receipt["versions"]["torch"] and verdict["assumed"]["optim.beta1"]["value"] == 0.9
    for name in ("receipt.md", "receipt.html"):
        assert "reproduced" in (folder / name).read_text()

    # The same line again submits nothing, not even the seeds that were not needed.
    jobs = (folder / "jobs.json").read_text()
    again = typed(site, "reproduce", "--reference", "demo.yaml", *TERMS, *HOW)
    assert again.returncode == 0 and "nothing to submit" in again.stdout, again.stderr
    assert (folder / "jobs.json").read_text() == jobs
    other = typed(site, "reproduce", "--reference", "demo.yaml", *TERMS, "--margin", "3", *HOW)
    assert_refused(other, "another value of the margin", "--name")

    collected = typed(site, "reproduce", "--collect", "reproduce-demo", "--json")
    assert json.loads(collected.stdout)["verdicts"][0]["outcome"] == "reproduced"

    # A replay beside the runs that it repeats trains runs of its own.
    before = run_folders(site)
    assert {r["run_id"] for r in receipt["runs"]} <= before
    replayed = typed(site, "replay", str(folder), *HOW)
    assert replayed.returncode == 0, (replayed.stdout, replayed.stderr)
    assert "runs have exactly the scores of the receipt" in replayed.stdout
    new: Any = read_json(folder.with_name("replay-reproduce-demo") / "receipt.json")
    trained = {r["run_id"] for r in new["runs"]}
    # Seeds that were begun when the task was decided have a folder and do not count.
    assert len(trained) >= 3 and trained <= run_folders(site) - before
    for run_id in trained:
        assert (site.base / "runs" / run_id / "results.json").is_file()
    assert new["asked"]["anew"] and not receipt["asked"]["anew"]
    digests = [{(r["seed"], r["recipe"]) for r in some["runs"]} for some in (new, receipt)]
    assert digests[0] <= digests[1] or digests[1] <= digests[0]
    assert "demo: reproduced → reproduced" in replayed.stdout
    assert "another recipe" not in replayed.stderr
    # The same line again goes on with that replay: it does not begin a third time.
    after = run_folders(site)
    again = typed(site, "replay", str(folder), *HOW)
    assert again.returncode == 0 and "nothing to submit" in again.stdout, again.stderr
    assert run_folders(site) == after
    assert_refused(
        typed(site, "replay", str(folder), "--name", "reproduce-demo", *HOW),
        "reproduction reproduce-demo is no replay",
    )
    changed = typed(site, "replay", str(folder), "--set", "optim.lr=1")
    assert_refused(changed, "a replay is the receipt's recipe")
