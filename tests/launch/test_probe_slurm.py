"""`submit --probe` on a real Slurm of three hosts, one of them taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.cluster import ClusterConfig as VirtualConfig
from slurm.cluster import VirtualCluster

from .commandline import ROOT, assert_refused, clean_environment, tree

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

LINE = "--task demo --model tiny --global-batch 16 --max-steps 4 --tracker none --time 10"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Three hosts, of which one works for half an hour; a partition that takes single nodes."""
    base = tmp_path_factory.mktemp("probe of a 'site'")
    shared = tuple(dict.fromkeys([base, Path(sys.prefix), Path(sys.base_prefix), ROOT]))
    config = VirtualConfig(
        state=Path(f"/var/tmp/glueline-probe-{os.getpid()}"),
        nodes=3,
        share=shared,
        accounting=False,
        extra_conf=(
            "PartitionName=single Nodes=node[1-3] MaxNodes=1 MaxTime=UNLIMITED State=UP",
            "EnforcePartLimits=ALL",
        ),
    )
    with VirtualCluster(config) as up:
        env = clean_environment(**up.env())
        env["PATH"] = f"{env['PATH']}:/usr/sbin:/sbin"
        busy = ["sbatch", "--nodes=1", "--exclusive", "--time=30", "--output=/dev/null"]
        subprocess.run([*busy, "--wrap", "sleep 600"], env=env, check=True, cwd=base)
        deadline = time.monotonic() + 60
        while (
            "R"
            not in subprocess.run(
                ["squeue", "-h", "-o", "%t"], env=env, capture_output=True, text=True, check=False
            ).stdout.split()
        ):
            assert time.monotonic() < deadline, "the job that takes a node does not start"
            time.sleep(0.2)
        yield base, env


def probe(site: tuple[Path, dict[str, str]], *more: str) -> subprocess.CompletedProcess[str]:
    base, env = site
    line = [sys.executable, str(ROOT / "launch" / "submit.py"), *LINE.split(), "--probe", *more]
    return subprocess.run(
        line, cwd=base, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_shapes_that_start_now_go_before_one_that_waits_for_the_taken_node(
    site: tuple[Path, dict[str, str]],
) -> None:
    base, env = site
    before, asked = tree(base), time.time()
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
    assert tree(base) == before, "something was written"
    queue = subprocess.run(["squeue", "-h"], env=env, capture_output=True, text=True, check=True)
    assert len(queue.stdout.strip().splitlines()) == 1, "something was submitted"


def test_a_refused_shape_carries_slurms_reason(site: tuple[Path, dict[str, str]]) -> None:
    done = probe(site, "--partition", "single,main")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused: single")]
    assert len(refused) == 1 and "2 nodes" in refused[0] and "allows 1" in refused[0]
    lines = [line for line in done.stdout.splitlines() if "--partition single --nodes 1" in line]
    assert len(lines) == 1 and lines[0].split()[0].isdigit()


def test_it_only_asks(site: tuple[Path, dict[str, str]]) -> None:
    assert_refused(probe(site, "--wait"), "--probe", "--wait")
    assert_refused(probe(site, "--executor", "local"), "--probe", "Slurm")
    assert_refused(probe(site, "--partition", "mian"), "mian", "main")
