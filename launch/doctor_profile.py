"""From what the doctor measured to a site profile: only that, and only what submit needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from launch import presets
from launch.doctor_canary import Outcome
from launch.findings import Finding
from training.config import ClusterConfig, UsageError
from training.rundir import write_atomic

HEAD = """\
# Site profile of the Slurm cluster {cluster}, written by `glueline doctor` on {date}.
# submit takes it on this cluster without --cluster; flags win over it, --cluster none leaves it
# out. Keys may be added by hand (see configs/clusters/example.yaml): doctor keeps those that it
# does not measure, and the file that it replaces as NAME.yaml.old.
"""

MEASURED = ("partition", "account", "qos", "requeue", "interface", "shared", "executor")
"""Keys of `cluster` that doctor sets, or removes."""


def make_profile(
    slurm_cluster: str,
    cluster: ClusterConfig,
    runs: str | None,
    outcome: Outcome,
    found: list[Finding],
    typed: set[str],
) -> dict[str, Any]:
    """Return the profile that follows from a canary that ran.

    Args:
        slurm_cluster: Slurm's ClusterName.
        cluster: as the canary ran.
        runs: a runs folder that was named and that all nodes see; None without one.
        outcome: what the canary measured.
        found: what was said about it.
        typed: keys of `cluster` that a person, or the profile in use, had set.
    """
    section: dict[str, Any] = {"executor": "slurm"}
    for key in ("partition", "account", "qos"):
        if key in typed and getattr(cluster, key) is not None:
            section[key] = getattr(cluster, key)
    if outcome.requeue is not None and outcome.queued_again is not None:
        can = bool(outcome.requeue.get("accepted")) and outcome.queued_again
        section["requeue"] = "yes" if can else "no"
    name = interface(outcome)
    if name:
        section["interface"] = name
    shared = outermost([f for f in _looks_local(outcome) if _is_shared(f, found)])
    if shared:
        section["shared"] = shared
    profile: dict[str, Any] = {"slurm_cluster": slurm_cluster}
    if runs is not None and _is_shared(runs, found) and runs in outcome.folders:
        profile["runs"] = runs
    return profile | {"cluster": section, "measured": measured(outcome)}


def outermost(folders: list[str]) -> list[str]:
    """Return folders without those that lie below another of them."""
    return [f for f in folders if not any(f != g and Path(f).is_relative_to(g) for g in folders)]


OF_CONTAINERS = ("docker", "virbr", "veth", "br-", "cni", "podman")
"""Interfaces that lead to no other node."""


def interface(outcome: Outcome) -> str | None:
    """Return the interface that nodes reach each other by, where they could choose a wrong one."""
    ways, several = set(), False
    for node in outcome.nodes.values():
        told = node.get("connections") or {}
        if told.get("through") and not any(told["ports"].values()):
            ways.add(told["through"])
        real = [name for name in node.get("interfaces", ()) if not name.startswith(OF_CONTAINERS)]
        several = several or len(real) > 1
    return ways.pop() if several and len(ways) == 1 else None


def measured(outcome: Outcome) -> dict[str, Any]:
    """Return what the nodes have, the least of them, for people and for plans."""
    nodes, ranks = list(outcome.nodes.values()), list(outcome.ranks.values())
    found: dict[str, Any] = {"on": time.strftime("%Y-%m-%d")}
    least = {
        "cores_per_node": [n["cores"] for n in nodes if n.get("cores")],
        "memory_mb_per_node": [n["memory_mb"] for n in nodes if n.get("memory_mb")],
        "gpus_per_node": [len(n["gpus"]) for n in nodes if n.get("gpus")],
        "gpu_memory_mb": [int(r["total_mb"]) for r in ranks if r.get("total_mb")],
        "matrix_gflops_per_rank": [round(r["matrix_flops"] / 1e9) for r in ranks],
        "all_reduce_mb_per_second": [
            round(r["bus_bytes_per_second"] / 1e6) for r in ranks if r.get("bus_bytes_per_second")
        ],
    }
    return found | {key: min(values) for key, values in least.items() if values}


def write_profile(name: str, profile: Mapping[str, Any]) -> Path:
    """Write a profile of the user's own and return the file; the one before it is kept.

    Raises:
        UsageError: it cannot be written, or what is there is no profile.
    """
    path = presets.own_clusters() / f"{name}.yaml"
    profile = dict(profile)
    try:
        if path.is_file():
            old = presets.read_yaml(path)
            profile = merged(old, profile)
            path.with_suffix(".yaml.old").write_text(path.read_text(encoding="utf-8"))
        path.parent.mkdir(parents=True, exist_ok=True)
        head = HEAD.format(cluster=profile["slurm_cluster"], date=time.strftime("%Y-%m-%d"))
        text = yaml.safe_dump(profile, sort_keys=False, allow_unicode=True, width=100)
        write_atomic(path, head + text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    presets.cluster_preset(str(path))  # as submit will read it
    return path


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new profile with what the old one says beyond what doctor measures."""
    section = old.get("cluster")
    kept = {k: v for k, v in section.items() if k not in MEASURED} if isinstance(
        section, Mapping
    ) else {}  # fmt: skip
    more = {k: v for k, v in old.items() if k not in new}
    return {**new, "cluster": {**kept, **new["cluster"]}, **more}


def _looks_local(outcome: Outcome) -> list[str]:
    from launch.machine import node_local

    return [f for f in outcome.folders if node_local(Path(f), (), known="") is not None]


def _is_shared(folder: str, found: list[Finding]) -> bool:
    return not any(f.check == "folders" and f.level == "problem" and folder in f.text
                   for f in found)  # fmt: skip
