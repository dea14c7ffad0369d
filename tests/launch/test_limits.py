import pytest

from launch import limits
from launch.limits import Limits, check_limits, parse_rows, read_limits, tres_nodes
from slurm.scontrol import Refused
from training.config import ClusterConfig, UsageError

PARTITION = (
    "PartitionName=gpu AllowAccounts=bio,chem AllowQos=ALL QoS=short MaxNodes=4 MaxTime=1-00:00:00"
)
QOS = (
    "normal|2-00:00:00||\nshort|02:00:00|cpu=64,node=2|\nlong|7-00:00:00||DenyOnLimit\n"
    "free|||PartitionMaxNodes,PartitionTimeLimit\n"
)
PARENTS = {"phys": "root", "bio_lab1": "bio_lab", "bio_lab": "bio"}
ASSOC = "bio||01:00:00|\nchem|gpu||node=1\nchem|cpu|00:10:00|\n"


@pytest.fixture
def slurm(monkeypatch):
    def ask(*command, seconds):
        if command[0] == "scontrol":
            return PARTITION
        named = [word.partition("=")[2] for word in command if word.startswith("account=")]
        if named:
            return f"{named[0]}|{PARENTS.get(named[0], '')}\n{named[0]}|\n"
        return QOS if "qos" in command else ASSOC

    monkeypatch.setattr(limits, "ask", ask)


def check(**cluster):
    wanted = ClusterConfig(partition="gpu", **cluster)
    check_limits(wanted, {"gpu": read_limits(wanted, "gpu")})


def test_a_job_that_fits(slurm):
    check(time="01:00:00", nodes=2, account="bio")
    check(time="02:00:00", nodes=1, account="chem")


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ({"time": "03:00:00"}, "QOS short allows 2:00:00"),
        ({"time": "02:00:00", "account": "bio"}, "account bio allows 1:00:00"),
        ({"nodes": 3}, "QOS short allows 2 a job"),
        ({"nodes": 2, "account": "chem"}, "account chem allows 1 a job"),
        ({"qos": "shrot"}, "unknown QOS 'shrot': did you mean 'short'"),
        ({"account": "phys"}, "--account phys: partition gpu does not take it"),
    ],
)
def test_what_a_job_exceeds_is_one_line(slurm, cluster, said):
    with pytest.raises(UsageError) as caught:
        check(**cluster)
    assert said in str(caught.value)


def test_an_account_below_one_that_is_taken_is_taken(slurm):
    check(time="01:00:00", account="bio_lab1")


def test_a_qos_may_lift_what_a_partition_limits(slurm, monkeypatch):
    monkeypatch.setattr(limits, "ask", lambda *words, seconds: _without_qos(words))
    check(time="3-00:00:00", nodes=9, qos="free")
    with pytest.raises(UsageError, match="partition gpu allows 24:00:00"):
        check(time="3-00:00:00", qos="long")


def _without_qos(words):
    return PARTITION.replace("QoS=short ", "") if words[0] == "scontrol" else QOS


def test_of_several_partitions_one_is_enough():
    wanted = ClusterConfig(time="02:00:00")
    short = Limits(minutes=((60, "partition a"),))
    check_limits(wanted, {"a": short, "b": Limits()})
    with pytest.raises(UsageError, match="partition a allows 1:00:00"):
        check_limits(wanted, {"a": short})


def test_a_slurm_that_does_not_tell(monkeypatch):
    def ask(*command, seconds):
        raise Refused("no accounting")

    monkeypatch.setattr(limits, "ask", ask)
    assert read_limits(ClusterConfig(qos="x", account="y"), "gpu") == Limits()


def test_rows():
    assert parse_rows("a|b|\nc\n", 2) == [["a", "b"]]
    assert [tres_nodes(t) for t in ("cpu=1,node=3", "node=2", "", "gres/gpu=1")] == [
        3,
        2,
        None,
        None,
    ]
