"""Limits that sinfo does not show: those of the partition, of a QOS, of a user's association."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass

from slurm.scontrol import Refused, Silent, ask, job_fields
from training.config import ClusterConfig, UsageError, nearest

SECONDS = 5.0
"""How long Slurm may take: a limit that is not known is Slurm's to enforce."""


@dataclass(frozen=True)
class Limits:
    """Upper limits, each with whose it is."""

    minutes: tuple[tuple[int | None, str], ...] = ()
    nodes: tuple[tuple[int | None, str], ...] = ()
    accounts: str = ""
    """Accounts that the partition takes; empty: all, or the one that is asked for."""
    qos_names: tuple[str, ...] = ()
    """The cluster's QOS; empty where unknown."""
    cpus: int | None = None
    """CPUs of a node that a job gets at most."""


def read_limits(cluster: ClusterConfig, partition: str) -> Limits:
    """Return the limits that a job meets in one partition, as far as Slurm tells them."""
    fields = job_fields(_answer("scontrol", "show", "partition", "-o", partition))
    where = f"partition {partition}"
    partition_minutes = [(parse_limit(fields.get("MaxTime", "")), where)] if fields else []
    partition_nodes = [(_count(fields.get("MaxNodes")), where)] if fields else []
    # A QOS of the job may lift them.
    minutes, nodes = ([], []) if cluster.qos else ([*partition_minutes], [*partition_nodes])
    # The partition's own QOS counts besides the job's.
    wanted = {name for name in (cluster.qos, fields.get("QoS")) if name}
    names: tuple[str, ...] = ()
    if wanted:
        form = "format=Name,MaxWall,MaxTRES,Flags"
        rows = parse_rows(_answer("sacctmgr", "-nP", "show", "qos", form), 4)
        names = tuple(row[0] for row in rows)
        for name, wall, tres, flags in rows:
            if name == cluster.qos and "PartitionTimeLimit" not in flags:
                minutes += partition_minutes
            if name == cluster.qos and "PartitionMaxNodes" not in flags:
                nodes += partition_nodes
            if name in wanted:
                minutes.append((parse_limit(wall), f"QOS {name}"))
                nodes.append((tres_nodes(tres), f"QOS {name}"))
    if cluster.account:
        words = ("sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}")
        form = "format=Account,Partition,MaxWall,MaxTRES"
        for account, place, wall, tres in parse_rows(_answer(*words, form), 4):
            if account == cluster.account and place in ("", partition):
                minutes.append((parse_limit(wall), f"account {account}"))
                nodes.append((tres_nodes(tres), f"account {account}"))
    allowed = fields.get("AllowAccounts", "ALL")
    if allowed == "ALL" or (cluster.account and _takes(allowed.split(","), cluster.account)):
        allowed = ""
    return Limits(
        tuple(minutes),
        tuple(nodes),
        allowed,
        names,
        _count(fields.get("MaxCPUsPerNode")),
    )


def _takes(allowed: list[str], account: str) -> bool:
    """Return whether a list of accounts may have one in it: those below a listed one count too.

    An account that accounting does not know is none of them.
    """
    seen = {account}
    while account not in allowed:
        words = ("sacctmgr", "-nP", "show", "assoc", f"account={account}")
        rows = parse_rows(_answer(*words, "format=Account,ParentName"), 2)
        above = [parent for name, parent in rows if name == account and parent]
        if not above or above[0] in seen:
            return False
        account = above[0]
        seen.add(account)
    return True


def check_limits(cluster: ClusterConfig, found: Mapping[str, Limits]) -> None:
    """Check that at least one of the partitions takes the job.

    Raises:
        UsageError: every one of them refuses it; the first reason is told.
    """
    reasons = [_refusal(cluster, limits) for limits in found.values()]
    if reasons and all(reasons):
        raise UsageError(str(reasons[0]))


def _refusal(cluster: ClusterConfig, limits: Limits) -> str | None:
    if cluster.qos and limits.qos_names and cluster.qos not in limits.qos_names:
        return f"unknown QOS '{cluster.qos}': {nearest(cluster.qos, limits.qos_names)}"
    for most, who in limits.minutes:
        if most is not None and cluster.time_minutes > most:
            return f"--time {cluster.time}: {who} allows {clock(most)}"
    for most, who in limits.nodes:
        if most is not None and (cluster.min_nodes or cluster.nodes) > most:
            return f"--nodes {cluster.nodes}: {who} allows {most} a job"
    accounts = limits.accounts.split(",") if limits.accounts else []
    if cluster.account and accounts and cluster.account not in accounts:
        place = cluster.partition or "the default one"
        hint = nearest(cluster.account, accounts)
        return f"--account {cluster.account}: partition {place} does not take it: {hint}"
    return None


def clock(minutes: int) -> str:
    """Return minutes as H:MM:SS."""
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def parse_limit(text: str) -> int | None:
    """Return a time limit (`infinite`, `30`, `1:00:00`, `2-00:00:00`) in minutes."""
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(p.isdigit() for p in parts) or (days and not days.isdigit()):
        return None
    numbers = [int(p) for p in parts]
    if days:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, *(*numbers, 0)[:2]
    return (int(days or 0) * 24 + hours) * 60 + minutes + (1 if seconds else 0)


def parse_rows(text: str, columns: int) -> list[list[str]]:
    """Return the rows of sacctmgr's parsable output."""
    rows = [line.split("|") for line in text.splitlines()]
    return [row[:columns] for row in rows if len(row) >= columns]


def tres_nodes(text: str) -> int | None:
    """Return the nodes in `cpu=64,node=4,gres/gpu=8`; None without a limit."""
    match = re.search(r"(?:^|,)node=(\d+)", text)
    return int(match[1]) if match else None


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _answer(*command: str) -> str:
    try:
        return ask(*command, seconds=SECONDS)
    except (Refused, Silent):
        return ""
