"""What the agent was given: job, nodes, cores, and where the nodes meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from slurm.command import Rendezvous, rendezvous_port

FIRST_ALONE = 30000
PORTS_ALONE = 2700
"""Ports of jobs of one node, apart from those that several nodes derive; still below the ephemeral
range."""
LANE = "GLUELINE_LANE"
"""Variable of a worker that shares its node with others of the same job: `2/4`."""
LANE_CORES = "GLUELINE_LANE_CORES"
"""Variable of such a worker: how many cores it has."""


@dataclass(frozen=True)
class Allocation:
    """One node's view of the job."""

    job_id: str
    """As a person types it: `12`, or `12_3` of an array element."""
    raw_id: str
    """Unique number of the job or array element; the pid of a local job's controller."""
    hosts: tuple[str, ...]
    """Host names in the order of the node numbers."""
    node: int
    """Number of this node."""
    cores: int
    """Cores of this node that belong to the job."""
    restarts: int
    """How often Slurm has started the job before."""
    slurm: bool
    """False on one machine without Slurm."""
    lane: int | None = None
    """Which of several lanes of the job this is, None where it has one."""
    lanes: int = 1
    gpus: float | None = None
    """GPUs of this node that the job holds, a lane's share of them; None where Slurm gave none."""


def read_allocation(environ: Mapping[str, str] = os.environ) -> Allocation:
    """Return the allocation from Slurm's variables, submitit's local ones, or neither."""
    lane, _, lanes = environ.get(LANE, "").partition("/")
    # A lane's affinity is narrowed to its share already, unless there are fewer cores than lanes.
    own = environ.get(LANE_CORES, "") if lane else ""
    cores = int(own) if own.isdigit() else len(os.sched_getaffinity(0))
    shared = {"lane": int(lane), "lanes": int(lanes)} if lane else {}
    raw = environ.get("SLURM_JOB_ID")
    if raw is None or environ.get("SUBMITIT_EXECUTOR") == "local":
        job = environ.get("SUBMITIT_LOCAL_JOB_ID", str(os.getpid()))
        return Allocation(job, job, ("127.0.0.1",), 0, cores, 0, False, **shared)
    given = environ.get("SLURM_CPUS_ON_NODE", "")
    if lane and given.isdigit():
        given = str(max(1, int(given) // int(lanes)))
    gpus = environ.get("SLURM_GPUS_ON_NODE", "")
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return Allocation(
        job_id=f"{array}_{task}" if array and task else raw,
        raw_id=raw,
        hosts=expand_hosts(environ.get("SLURM_JOB_NODELIST", "")) or (socket.gethostname(),),
        node=int(environ.get("SLURM_NODEID", 0)),
        # Where tasks are not bound to cores the affinity is the whole machine.
        cores=min(cores, int(given)) if given.isdigit() and int(given) else cores,
        # Unset on the first run, not 0.
        restarts=int(environ.get("SLURM_RESTART_COUNT") or 0),
        slurm=True,
        gpus=int(gpus) / int(lanes or 1) if gpus.isdigit() and int(gpus) else None,
        **shared,
    )


def expand_hosts(text: str) -> tuple[str, ...]:
    """Return the host names in Slurm's short form, `gpu[07-08,11],login1`."""
    from submitit.slurm.slurm import _parse_node_list

    return tuple(_parse_node_list(text)) if text else ()


def can_bind(port: int) -> bool:
    """Return whether a server could listen on this port, on all addresses, now."""
    with socket.socket() as probe:
        # A port in TIME_WAIT from the attempt before can be bound by torch too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def meeting_point(allocation: Allocation, attempt: int, nodes: int) -> Rendezvous:
    """Return where the nodes meet.

    All nodes of a job derive the same port, so it cannot be moved. A job of one node takes one that
    is free, and no other agent of this machine gets it until this process asks again or ends:
    torchrun listens only seconds later. All lie below the ephemeral range, where an outgoing
    connection could take a port between this look and torchrun's.

    Raises:
        OSError: the port is taken on the head node.
    """
    global _hold
    identity = f"{allocation.raw_id}-{attempt}"
    if nodes > 1:
        port = rendezvous_port(allocation.raw_id)
        if allocation.node == 0 and not can_bind(port):
            raise OSError(
                f"port {port} of {allocation.hosts[0]}, where the nodes of job "
                f"{allocation.job_id} would meet, is taken: submit again for another one"
            )
        return Rendezvous(allocation.hosts[0], port, identity)
    if _hold is not None:
        _hold.close()
    start = rendezvous_port(allocation.raw_id) + (allocation.lane or 0)
    for step in range(PORTS_ALONE):
        port = FIRST_ALONE + (start + step) % PORTS_ALONE
        if (hold := _reserve(port)) is None:
            continue
        if can_bind(port):
            _hold = hold
            return Rendezvous("127.0.0.1", port, identity)
        hold.close()
    raise OSError(f"no free port between {FIRST_ALONE} and {FIRST_ALONE + PORTS_ALONE}")


_hold: socket.socket | None = None
"""What keeps other agents away from the port of this process."""


def _reserve(port: int) -> socket.socket | None:
    """Return a hold on a port among all our agents of this machine, whoever's; None if it is taken.

    A name in Linux's abstract socket namespace: it goes with its process, however that ends.
    """
    hold = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        hold.bind(f"\0glueline-port-{port}")
    except OSError:
        hold.close()
        return None
    return hold
