from ipaddress import IPv4Network
from pathlib import Path

from slurm.cluster import ClusterConfig, render
from slurm.cluster.layout import Layout, hosts_of

SUBNET = IPv4Network("198.18.3.0/24")
LAYOUT = Layout(Path("/state"))


def conf(**asked) -> list[str]:
    config = ClusterConfig(state=LAYOUT.state, **asked)
    return render.slurm_conf(config, LAYOUT, hosts_of(SUBNET, config.node_names)).splitlines()


def test_hosts_are_named_with_their_addresses() -> None:
    lines = conf(nodes=2, cpus=3, memory=500)
    assert "SlurmctldHost=ctl(198.18.3.2)" in lines
    assert [line for line in lines if line.startswith("NodeName")] == [
        f"NodeName=node{i} NodeAddr=198.18.3.1{i} CPUs=3 Boards=1 SocketsPerBoard=1"
        " CoresPerSocket=3 ThreadsPerCore=1 RealMemory=500 State=UNKNOWN"
        for i in (1, 2)
    ]


def test_nothing_points_outside_the_state_folder() -> None:
    pairs = [line.partition("=") for line in conf()]
    paths = [value for key, _, value in pairs if key.endswith(("File", "Location", "Pass"))]
    assert len(paths) == 6
    assert all(path.startswith("/state/") for path in paths)
    assert "AuthInfo=socket=/state/munge/socket" in conf()


def test_options_leave_no_trace_unless_asked_for() -> None:
    plain = "\n".join(conf(accounting=False))
    for word in ("Accounting", "JobAcct", "Gres", "Preempt", "MaxArraySize", "urgent"):
        assert word not in plain


def test_options_reach_slurm_conf() -> None:
    lines = conf(
        gpus=2, preempt=True, max_array=50, slurmd_timeout=9, proctrack="pgid", extra_conf=("A=b",)
    )
    for line in (
        "GresTypes=gpu",
        "AccountingStorageTRES=gres/gpu",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "MaxArraySize=50",
        "SlurmdTimeout=9",
        "ProctrackType=proctrack/pgid",
        "A=b",
    ):
        assert line in lines
    assert all("Gres=gpu:2" in line for line in lines if line.startswith("NodeName"))
    main, urgent = (line for line in lines if line.startswith("PartitionName"))
    assert "PartitionName=main" in main and "Default=YES PriorityTier=1" in main
    assert "PartitionName=urgent" in urgent and "PriorityTier=10" in urgent


def test_gpus_are_numbered_from_zero() -> None:
    def gres(gpus: int) -> str:
        return render.gres_conf(ClusterConfig(gpus=gpus), LAYOUT)

    assert gres(0) == ""
    assert gres(1) == "AutoDetect=off\nName=gpu File=/state/gpu/gpu0\n"
    assert gres(4).endswith("File=/state/gpu/gpu[0-3]\n")


def test_hosts_file_knows_the_login_side() -> None:
    hosts = hosts_of(SUBNET, ["node1"])
    text = render.hosts_file(SUBNET, "desk.example.org", hosts)
    assert text.splitlines()[2:] == [
        "198.18.3.1 desk.example.org desk",
        "198.18.3.2 ctl",
        "198.18.3.11 node1",
    ]


def test_a_machine_named_like_a_node_does_not_shadow_it() -> None:
    text = render.hosts_file(SUBNET, "node1", hosts_of(SUBNET, ["node1"]))
    assert [line for line in text.splitlines() if "node1" in line] == ["198.18.3.11 node1"]


def test_slurmdbd_and_database_agree_on_the_password() -> None:
    dbd = render.slurmdbd_conf(LAYOUT, hosts_of(SUBNET, [])[0], "secret")
    assert "StoragePass=secret" in dbd and "DbdAddr=198.18.3.2" in dbd
    assert "IDENTIFIED BY 'secret'" in render.database_init("secret")
