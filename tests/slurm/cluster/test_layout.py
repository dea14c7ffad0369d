from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path

from slurm.cluster.layout import Host, Layout, hosts_of, outermost, subnet_candidates


def test_link_names_fit_and_differ_between_clusters() -> None:
    one, other = Layout(Path("/var/tmp/a")), Layout(Path("/var/tmp/b"))
    names = [one.bridge, one.veth(Host("node64", 64, "198.18.0.74"))]
    assert all(len(name) <= 15 and name.startswith(one.link_prefix) for name in names)
    assert one.link_prefix != other.link_prefix
    assert one.link_prefix == Layout(Path("/var/tmp/a")).link_prefix


def test_every_subnet_is_a_candidate_once_and_the_first_depends_on_the_cluster() -> None:
    candidates = list(subnet_candidates("00000f"))
    assert candidates[0] == IPv4Network("198.18.15.0/24")
    assert len(set(candidates)) == len(candidates) == 512
    assert next(islice(subnet_candidates("000010"), 1)) != candidates[0]


def test_hosts_have_addresses_of_their_own() -> None:
    hosts = hosts_of(IPv4Network("198.18.3.0/24"), ["node1", "node2"])
    assert [(h.name, h.number, h.address) for h in hosts] == [
        ("ctl", 0, "198.18.3.2"),
        ("node1", 1, "198.18.3.11"),
        ("node2", 2, "198.18.3.12"),
    ]


def test_a_folder_below_a_shared_one_needs_no_share() -> None:
    folders = ["/tmp/a/b", "/tmp/a", "/tmp/ab", "/tmp/a", "/x"]
    assert outermost([Path(f) for f in folders]) == [Path("/x"), Path("/tmp/a"), Path("/tmp/ab")]
