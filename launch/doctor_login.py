"""What the login node says of a cluster: Slurm's settings, the partition, versions, accounting."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import limits
from launch.findings import Finding, note, ok, problem
from launch.slurm_site import Partition
from slurm import machine_facts, wires
from slurm.scontrol import Refused, Silent, ask
from training.config import ClusterConfig

PACKAGES = ("torch", "deepspeed", "submitit", "transformers", "accelerate", "datasets", "wandb")
SHORT_MINUTES = 30
"""A time limit below this cannot hold a run's start, a step and a save again and again."""
KILL_WAIT = 15
ANSWER_SECONDS = 15.0
HUB = "https://huggingface.co"


@dataclass
class Login:
    """What was seen on the login node."""

    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    """`scontrol show config`."""
    said: str = ""
    """Slurm's words where it does not answer."""
    accounting: str = ""
    """Why sacct does not work; empty where it does."""
    internet: dict[str, Any] = field(default_factory=dict)


def look(url: str | None = None) -> Login:
    """Ask this machine and Slurm."""
    seen = Login(facts=machine_facts.facts(PACKAGES))
    # Without munge every command of Slurm tries for most of a minute.
    if (said := munge_is_down(slurm_conf())) is not None:
        seen.said = said
        return seen
    try:
        seen.config = parse_config(ask("scontrol", "show", "config", seconds=ANSWER_SECONDS))
    except (Refused, Silent) as error:
        seen.said = str(error)
        return seen
    try:
        ask("sacct", "-n", "-X", "-S", "now-1minutes", "-o", "JobID", seconds=ANSWER_SECONDS)
    except (Refused, Silent) as error:
        seen.accounting = str(error)
    seen.internet = wires.internet(url or hub())
    return seen


CONFS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf", "/etc/slurm-llnl/slurm.conf")
MUNGE_SOCKETS = ("/run/munge/munge.socket.2", "/var/run/munge/munge.socket.2")


def slurm_conf(environ: Mapping[str, str] = os.environ) -> str:
    """Return the text of Slurm's settings on this machine; empty where it has no such file."""
    for name in (environ.get("SLURM_CONF"), *CONFS):
        with contextlib.suppress(OSError):
            if name:
                return Path(name).read_text(encoding="utf-8", errors="replace")
    return ""


def munge_is_down(conf: str) -> str | None:
    """Return why munged does not answer; None where it does, or where nobody can tell.

    Args:
        conf: text of slurm.conf, which may name another socket or another way to authenticate.
    """
    kind = re.search(r"^\s*AuthType\s*=\s*auth/(\w+)", conf, re.M | re.I)
    if not conf or (kind and kind[1] != "munge"):
        return None
    named = re.search(r"^\s*AuthInfo\s*=.*?socket=([^,\s]+)", conf, re.M | re.I)
    said = None
    for path in (named[1],) if named else MUNGE_SOCKETS:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ANSWER_SECONDS)
            try:
                probe.connect(path)
                return None
            except OSError as error:
                said = said or f"munged does not answer at {path}: {error.strerror or error}"
    return said


def hub(environ: Mapping[str, str] = os.environ) -> str:
    """Return the address that weights and rows come from."""
    return environ.get("HF_ENDPOINT") or HUB


def parse_config(text: str) -> dict[str, str]:
    """Return the settings in the lines of `scontrol show config`."""
    return dict(re.findall(r"^(\w[\w/]*)\s*=\s*(.*?)\s*$", text, re.M))


def silence(said: str) -> Finding:
    """Return why Slurm does not answer, in plain words."""
    if re.search(r"munge|auth_p_get|authentication|Protocol authentication", said, re.I):
        return problem(
            "munge",
            f"munge, by which Slurm knows who asks, does not work on this node: {said}",
            "the site starts it (systemctl start munge); until then no command of Slurm answers",
        )
    if "No such file" in said:
        return problem(
            "slurm",
            "Slurm's commands are not on this machine",
            "run doctor on a login node of the cluster; without one, use --executor local",
        )
    return problem(
        "slurm",
        f"Slurm does not answer: {said}",
        "try again; if it stays so, the site's administrators know whether slurmctld runs",
    )


def findings(
    seen: Login, partition: Partition | None, cluster: ClusterConfig, limit: limits.Limits
) -> list[Finding]:
    """Return what follows from the login node's view, for the partition that was chosen."""
    found = [_versions(seen), *_settings(seen.config)]
    if seen.accounting:
        found.append(
            note(
                "accounting",
                f"no accounting: sacct says {seen.accounting!r}; Slurm forgets ended jobs after "
                f"{seen.config.get('MinJobAge', 'some minutes')}",
                "nothing: status reads the run's own files; only the reason of a job that died "
                "before its agent wrote one is lost",
            )
        )
    else:
        found.append(ok("accounting", "sacct answers"))
    if partition is not None:
        found += [_partition(partition), *_limits(partition, cluster, limit)]
    if seen.internet:
        found.append(internet("the login node", seen.internet))
    return found


def _versions(seen: Login) -> Finding:
    versions = seen.facts["versions"]
    missing = [name for name in PACKAGES if versions.get(name) is None]
    if missing:
        return problem(
            "versions",
            f"not installed in {seen.facts['executable']}: {', '.join(missing)}",
            "install glueline into this environment: pip install -c constraints.txt -e .",
        )
    shown = ", ".join(f"{name} {versions[name]}" for name in PACKAGES[:4])
    slurm = seen.config.get("SLURM_VERSION", "unknown")
    return ok("versions", f"Slurm {slurm}, Python {seen.facts['python']}, {shown}")


def _settings(config: Mapping[str, str]) -> list[Finding]:
    found = []
    tracker = config.get("ProctrackType", "unknown").removeprefix("proctrack/")
    if tracker == "pgid":
        found.append(
            note(
                "tracker",
                "the process tracker is pgid: Slurm does not see processes in sessions of their "
                "own, as ranks are",
                "nothing: every agent leaves a reaper behind that ends its ranks",
            )
        )
    else:
        found.append(ok("tracker", f"the process tracker is {tracker}"))
    size = _number(config.get("MaxArraySize"))
    if size is not None and size < 2:
        found.append(
            problem(
                "arrays",
                f"MaxArraySize is {size}: job arrays are switched off",
                "sweeps need them: ask the site, or submit runs one by one",
            )
        )
    elif size is not None:
        found.append(ok("arrays", f"job arrays may have {size - 1} elements (MaxArraySize)"))
    wait = _number(config.get("KillWait"))
    if wait is not None and wait < KILL_WAIT:
        found.append(
            note(
                "signals",
                f"KillWait is {wait} s: what is told to end has that long until it is killed",
                "nothing as long as a save takes less; runs are told well before the time limit",
            )
        )
    if config.get("JobRequeue") == "0":
        found.append(
            note(
                "requeue",
                "JobRequeue is 0: jobs are not queued again unless they ask for it",
                "nothing: every job asks (--requeue); below is whether that is enough",
            )
        )
    return found


def _partition(partition: Partition) -> Finding:
    name = f"partition {partition.name}"
    if not partition.up or not partition.usable:
        state = "down" if not partition.up else "without a usable node"
        return problem(
            "partition", f"{name} is {state}", "use another --partition (sinfo lists them)"
        )
    has = f"{partition.cpus_per_node} cores, {partition.memory_mb / 1024:.0f} GiB"
    if partition.gpus_per_node:
        kinds = "/".join(partition.gpu_types)
        has += f", {partition.gpus_per_node} GPUs" + (f" ({kinds})" if kinds else "")
    away = partition.nodes - partition.usable
    gone = f"; {away} more are down or drained" if away else ""
    return ok("partition", f"{name}: {partition.usable} usable nodes of {has}{gone}")


def _limits(
    partition: Partition, cluster: ClusterConfig, limit: limits.Limits
) -> Iterable[Finding]:
    known = [(m, who) for m, who in limit.minutes if m is not None]
    if partition.time_limit_minutes is not None:
        known.append((partition.time_limit_minutes, f"partition {partition.name}"))
    if not known:
        yield ok("limits", "no time limit")
    else:
        least, who = min(known)
        if least < SHORT_MINUTES:
            yield problem(
                "limits",
                f"{who} allows jobs of {limits.clock(least)} at most: that is too short to train, "
                "save and be queued again",
                "use a --partition or --qos with a longer limit (sinfo -o '%P %l')",
            )
        else:
            yield ok("limits", f"{who} allows jobs of {limits.clock(least)}")
    nodes = [(n, who) for n, who in limit.nodes if n is not None]
    if nodes:
        most, who = min(nodes)
        yield ok("limits", f"{who} allows {most} nodes a job")
    if limit.accounts and cluster.account is None:
        yield note(
            "limits",
            f"partition {partition.name} takes jobs of certain accounts only: {limit.accounts}",
            "use --account NAME",
        )


def internet(who: str, told: Mapping[str, Any]) -> Finding:
    """Return whether a machine reaches the hub."""
    host = told.get("host")
    if told.get("reached"):
        way = " through a proxy" if told.get("proxy") else ""
        return ok("internet", f"{who} reaches {host}{way}")
    if who == "the login node":
        return note(
            "internet",
            f"{who} does not reach {host}: {told.get('said')}",
            "bring rows and weights here as folders: --data DIR, --model FOLDER",
        )
    return note(
        "internet",
        f"{who} do not reach {host}",
        "nothing: rows and weights are fetched on the login node before submission",
    )


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None
