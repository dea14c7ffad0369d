"""What the doctor makes of its figures, and the profile that follows, without a cluster."""

import pytest
import yaml

from launch import doctor_login, doctor_nodes, doctor_profile, presets
from launch.doctor_canary import Outcome, sample_ports
from launch.findings import any_problem
from training.config import ClusterConfig, UsageError

LOGIN = {"versions": {}, "python": "3.11.7", "code": "abc"}


def node(number, **more):
    ports = {str(p): "" for p in sample_ports()}
    value = {
        "node": number,
        "host": f"n{number}",
        "hosts": ["n0", "n1"],
        "folders": {"/s": {"sees": ["login", "node0", "node1"], "seconds": 0.1}},
        "connections": {
            "to": f"n{1 - number}", "address": "10.0.0.1", "through": "ib0", "clock": 0.001,
            "ports": ports,
        },
        "login": {"ahead": [-0.1, 0.3]},
        "signal": 1.0,
        "slurm": {"version": "slurm 24.05"},
        "allocated": 8, "machine_cores": 8, "cores": 8, "memory_mb": 64000,
        "interfaces": {"eth0": "192.168.0.1", "ib0": "10.0.0.1"},
        "ranks": {"exit": 0},
        **LOGIN,
    }  # fmt: skip
    return value | more


def rank(number, flops=1e11):
    return {
        "rank": number, "host": f"n{number}", "backend": "gloo", "device": "cpu",
        "matrix_flops": flops, "bus_bytes_per_second": 2e9, "reduced_right": True,
    }  # fmt: skip


def outcome(first=None, second=None, **more):
    values = {
        "job": "1", "folder": "/s", "started": True, "state": "RUNNING",
        "nodes": {0: node(0, **(first or {})), 1: node(1, **(second or {}))},
        "ranks": {0: rank(0), 1: rank(1)}, "requeue": {"accepted": True}, "queued_again": True,
        "seen": {"/s": ["login", "node0", "node1"]}, "signalled": True, "folders": ["/s"],
    }  # fmt: skip
    return Outcome(**values | more)


def problems(found):
    return {f.check: f"{f.text} {f.mend}" for f in found if f.level == "problem"}


def test_a_healthy_pair():
    assert not any_problem(doctor_nodes.findings(outcome(), LOGIN, 2))


@pytest.mark.parametrize(
    ("second", "check", "said"),
    [
        ({"versions": {"torch": "2.0"}}, "versions", "torch is 2.0 on n1, None here"),
        ({"slurm": {"error": "Munge encode failed"}}, "munge", "munge does not work on n1"),
        ({"signal": None}, "signals", "did not reach the program on n1"),
        ({"login": {"ahead": [-70.0, -60.0]}}, "clocks", "login node is 60.0 s behind that of n1"),
        ({"error": "x\nValueError: y"}, "canary", "the canary failed on n1: ValueError: y"),
        ({"ranks": {"exit": 1}}, "collective", "an all-reduce between the nodes (gloo) failed"),
        ({"unwritable": {"/s": "Read-only file system"}}, "folders", "n1 cannot write to /s"),
    ],
)
def test_one_thing_is_wrong(second, check, said):
    assert said in problems(doctor_nodes.findings(outcome(None, second), LOGIN, 2))[check]


def test_what_becomes_of_the_job():
    lost = outcome()
    del lost.nodes[1]
    assert "nothing was heard of n1" in problems(doctor_nodes.findings(lost, LOGIN, 2))["folders"]
    silent = outcome(nodes={}, output="no such python")
    assert "no such python" in problems(doctor_nodes.findings(silent, LOGIN, 2))["canary"]
    unseen = outcome(nodes={}, unseen=["/venv"])
    assert "/venv" in problems(doctor_nodes.findings(unseen, LOGIN, 2))["folders"]
    slow = outcome(ranks={0: rank(0), 1: rank(1, 1e10)})
    assert "n1 multiplies" in problems(doctor_nodes.findings(slow, LOGIN, 2))["speed"]


def test_a_slow_epilog_is_no_refusal():
    """Where nobody saw whether a job comes back, the profile does not forbid it."""
    for seen, accepted, expected in ((None, True, None), (False, True, "no"), (False, False, "no")):
        found = outcome(queued_again=seen, requeue={"accepted": accepted, "said": ""})
        findings = doctor_nodes.findings(found, LOGIN, 2)
        profile = doctor_profile.make_profile("c", ClusterConfig(), None, found, findings, set())
        assert profile["cluster"].get("requeue") == expected
        assert ("requeue" in problems(findings)) == (expected == "no")


def test_bridges_of_containers_are_no_other_way():
    both: dict = {"interfaces": {"eth0": "10.0.0.1", "docker0": "172.17.0.1"}}
    assert doctor_profile.interface(outcome(both, both)) is None
    both["interfaces"]["ib0"] = "10.1.0.1"
    assert doctor_profile.interface(outcome(both, both)) is not None


def test_the_range_of_blocked_ports():
    tried = [20000, 22000, 24000, 26000, 29999]
    assert doctor_nodes.blocked_range(tried, tried) == (20000, 29999)
    assert doctor_nodes.blocked_range([22000, 24000], tried) == (22000, 24000)
    assert doctor_nodes.blocked_range([26000, 29999], tried) == (26000, 29999)


def test_munge_is_looked_at_by_its_socket(tmp_path):
    conf = f"ClusterName=x\nAuthInfo=ttl=10,socket={tmp_path}/none\n"
    assert "munged does not answer" in (doctor_login.munge_is_down(conf) or "")
    assert doctor_login.munge_is_down("AuthType=auth/slurm\n") is None
    assert doctor_login.munge_is_down("") is None
    said = doctor_login.silence("Munge encode failed: x")
    assert said.check == "munge" and said.level == "problem"


def test_the_profile_has_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = doctor_nodes.findings(outcome(), LOGIN, 2)
    cluster = ClusterConfig(partition="gpu", account="a", qos="q")
    profile = doctor_profile.make_profile(
        "hpc1", cluster, "/s", outcome(), found, {"partition", "account"}
    )
    assert profile["cluster"] == {
        "executor": "slurm", "partition": "gpu", "account": "a", "requeue": "yes",
        "interface": "ib0",
    }  # fmt: skip
    assert profile["runs"] == "/s" and profile["measured"]["cores_per_node"] == 8
    path = doctor_profile.write_profile("mine", profile)
    # What a person adds stays; what doctor measures is replaced; the old file is kept.
    value = yaml.safe_load(path.read_text())
    value["cluster"] |= {"setup": ["module load x"], "requeue": "no"}
    value["defaults"] = {"engine.precision": "bf16"}
    path.write_text(yaml.safe_dump(value))
    doctor_profile.write_profile("mine", profile)
    again = yaml.safe_load(path.read_text())
    assert again["cluster"]["setup"] == ["module load x"]
    assert again["cluster"]["requeue"] == "yes"
    assert again["defaults"] == {"engine.precision": "bf16"}
    assert "'no'" in path.with_suffix(".yaml.old").read_text()
    # It is found by the cluster's name, whatever the file is called.
    monkeypatch.setattr(presets, "slurm_cluster", lambda: "hpc1")
    chosen = presets.chosen_cluster(None)
    assert chosen and chosen.values["cluster.profile"] == "mine" and chosen.runs == "/s"
    assert chosen.measured["cores_per_node"] == 8
    assert presets.chosen_cluster("none") is None
    assert presets.chosen_cluster(None, "local") is None
    monkeypatch.setattr(presets, "slurm_cluster", lambda: "other")
    assert presets.chosen_cluster(None) is None
    with pytest.raises(UsageError, match="unknown site profile"):
        presets.check_typed_cluster("nope")
