"""`submit --probe` on a real Slurm of three hosts, one of them taken."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from .commandline import assert_refused, tree
from .virtual_site import Site, virtual_site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

LINE = "--task demo --model tiny --global-batch 16 --max-steps 4 --tracker none --time 10"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three hosts, of which one works for half an hour; a partition that takes single nodes."""
    conf = (
        "PartitionName=single Nodes=node[1-3] MaxNodes=1 MaxTime=UNLIMITED State=UP",
        "EnforcePartLimits=ALL",
    )
    base = tmp_path_factory.mktemp("probe of a 'site'")
    with virtual_site(base, "probe", nodes=3, accounting=False, extra_conf=conf) as up:
        busy = "sbatch --nodes=1 --exclusive --time=30 --output=/dev/null --wrap".split()
        slurm(up, *busy, "sleep 600")
        deadline = time.monotonic() + 60
        while "R" not in slurm(up, "squeue", "-h", "-o", "%t").split():
            assert time.monotonic() < deadline, "the job that takes a node does not start"
            time.sleep(0.2)
        yield up


def slurm(site: Site, *line: str) -> str:
    env = os.environ | site.env
    done = subprocess.run(line, cwd=site.base, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def probe(site: Site, *more: str) -> subprocess.CompletedProcess[str]:
    return site.glueline("submit", *LINE.split(), "--probe", *more)


def test_shapes_that_start_now_go_before_one_that_waits_for_the_taken_node(site: Site) -> None:
    before, asked = tree(site.base), time.time()
    done = probe(site, "--nodes", "3", "--partition", "main", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["probe"]
    assert {(c["partition"], c["nodes"]) for c in found} == {("main", n) for n in (1, 2, 3)}
    by_nodes = {c["nodes"]: c for c in found}
    for nodes in (1, 2):
        assert by_nodes[nodes]["start"] < asked + 60, by_nodes[nodes]
        assert by_nodes[nodes]["finish"] > by_nodes[nodes]["start"]
    # The job that takes a node may keep it for half an hour.
    assert asked + 20 * 60 < by_nodes[3]["start"] < asked + 40 * 60
    assert found[-1]["nodes"] == 3
    assert all(c["hours"] > 0 and c["unit"] == "core-hours" for c in found)
    assert "--nodes 2" in by_nodes[2]["line"] and "--probe" not in by_nodes[2]["line"]
    assert by_nodes[1]["accumulation"] >= by_nodes[2]["accumulation"]
    assert tree(site.base) == before, "something was written"
    assert len(slurm(site, "squeue", "-h").strip().splitlines()) == 1, "something was submitted"


def test_a_refused_shape_carries_slurms_reason(site: Site) -> None:
    done = probe(site, "--partition", "single,main")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused: single")]
    assert len(refused) == 1 and "2 nodes" in refused[0] and "allows 1" in refused[0]
    lines = [line for line in done.stdout.splitlines() if "--partition single --nodes 1" in line]
    assert len(lines) == 1 and lines[0].split()[0].isdigit()


def test_it_only_asks(site: Site) -> None:
    assert_refused(probe(site, "--wait"), "--probe", "--wait")
    assert_refused(probe(site, "--executor", "local"), "--probe", "Slurm")
    assert_refused(probe(site, "--partition", "mian"), "mian", "main")
