"""Where things of one cluster lie and how they are named; nothing here touches the machine."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

CONTROLLER = "ctl"

# Inside the hosts' own network namespaces nothing else holds these. They are not Slurm's
# defaults, so that a wrong configuration never reaches a real Slurm, and they lie above the
# ephemeral ports, out of the way of what jobs listen on.
SLURMCTLD_PORT = 65017
SLURMD_PORT = 65018
SLURMDBD_PORT = 65019
SRUN_PORTS = "61000-64999"

# Set aside for tests between networks: seldom in use, and never routed.
_POOL = IPv4Network("198.18.0.0/15")

# Linux allows 107 bytes for the path of a socket, and munge's lies in the state folder.
# slurmstepd's are longer: so each host has its own /var/spool, and slurmd's is in there.
SPOOL = "/var/spool"
LONGEST_STATE = 107 - len("/munge/socket")


@dataclass(frozen=True)
class Host:
    """One host of the cluster: the controller or a node."""

    name: str
    """Its hostname."""

    number: int
    """0 for the controller, 1 and up for the nodes."""

    address: str
    """Its address on the cluster's bridge."""


@dataclass(frozen=True)
class Layout:
    """Paths and names of the cluster whose state folder (absolute, resolved) is `state`."""

    state: Path
    """The cluster's folder."""

    @property
    def tag(self) -> str:
        """Six characters that tell this cluster from others on the machine."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @property
    def link_prefix(self) -> str:
        """How the names of all its network links begin (names have at most 15 characters)."""
        return f"gl{self.tag}"

    @property
    def bridge(self) -> str:
        """The bridge that the hosts are plugged into."""
        return f"{self.link_prefix}br"

    def veth(self, host: Host) -> str:
        """The machine's end of the cable to `host`."""
        return f"{self.link_prefix}v{host.number}"

    @property
    def record(self) -> Path:
        """What the cluster was asked to be; a folder without it is not ours to remove."""
        return self.state / "cluster.json"

    @property
    def slurm_conf(self) -> Path:
        """Slurm's configuration."""
        return self.state / "slurm.conf"

    @property
    def hosts_file(self) -> Path:
        """What the hosts see as /etc/hosts."""
        return self.state / "hosts"

    @property
    def munge_socket(self) -> Path:
        """The socket of the cluster's own munged."""
        return self.state / "munge" / "socket"

    @property
    def database(self) -> Path:
        """MariaDB's folder."""
        return self.state / "db"

    @property
    def database_socket(self) -> Path:
        """MariaDB's only door."""
        return self.state / "db" / "socket"

    @property
    def gpu_devices(self) -> Path:
        """Folder of the device files that stand for GPUs."""
        return self.state / "gpu"

    @property
    def namespaces(self) -> Path:
        """Folder of the files that keep the network namespaces.

        Its name is no other's: what is kept here is the cluster's, even if the record is lost.
        """
        return self.state / f"netns-{self.tag}"

    def namespace(self, name: str) -> Path:
        """The file that keeps the network namespace of host `name`."""
        return self.namespaces / name

    def home(self, name: str) -> Path:
        """Folder of host `name`: its spool, its private /tmp, the pid of its keeper."""
        return self.state / "nodes" / name

    def log(self, daemon: str) -> Path:
        """Log of a daemon, such as `slurmctld` or `slurmd-node1`."""
        return self.state / "log" / f"{daemon}.log"

    @property
    def freezer(self) -> Path:
        """The cluster's own control group (only with proctrack/cgroup)."""
        return FREEZER / f"glueline-{self.tag}"


FREEZER = Path("/sys/fs/cgroup/freezer")


def subnet_candidates(tag: str) -> Iterator[IPv4Network]:
    """The /24 networks that a cluster may take, its favourite first."""
    subnets = list(_POOL.subnets(new_prefix=24))
    start = int(tag, 16) % len(subnets)
    yield from subnets[start:] + subnets[:start]


def login_address(subnet: IPv4Network) -> str:
    """The machine's own address on the bridge."""
    return str(subnet[1])


def hosts_of(subnet: IPv4Network, node_names: list[str]) -> list[Host]:
    """Controller and nodes with their addresses, the controller first."""
    nodes = [Host(name, i, str(subnet[10 + i])) for i, name in enumerate(node_names, start=1)]
    return [Host(CONTROLLER, 0, str(subnet[2])), *nodes]


def outermost(folders: list[Path]) -> list[Path]:
    """`folders` (absolute) without repeats and without those that lie below another of them."""
    kept: list[Path] = []
    for folder in sorted(set(folders), key=lambda f: (len(f.parts), f)):
        if not any(folder.is_relative_to(k) for k in kept):
            kept.append(folder)
    return kept
