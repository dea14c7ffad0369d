"""Bridge, cables and network namespaces."""

import json
from contextlib import suppress
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from slurm.cluster.errors import ClusterError
from slurm.cluster.layout import Host, Layout, login_address, subnet_candidates
from slurm.cluster.processes import keeps_namespace
from slurm.cluster.tools import attempt, run


def free_subnet(tag: str) -> IPv4Network:
    """The first /24 of the pool that no route of this machine touches. Raises ClusterError."""
    taken = []
    for route in json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]"):
        with suppress(ValueError):  # "default" is a destination too
            taken.append(ip_network(route.get("dst", ""), strict=False))
    for subnet in subnet_candidates(tag):
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise ClusterError("no free network in 198.18.0.0/15 for the cluster")


def create(layout: Layout, subnet: IPv4Network, hosts: list[Host]) -> None:
    """Make the bridge and one namespace per host; no routes lead out of it."""
    bridge = layout.bridge
    commands = [
        f"link add {bridge} type bridge",
        f"address add {login_address(subnet)}/{subnet.prefixlen} dev {bridge}",
        f"link set {bridge} up",
    ]
    layout.namespaces.mkdir()
    for host in hosts:
        kept = layout.namespace(host.name)
        kept.touch()
        run(["unshare", f"--net={kept}", "true"])
        veth = layout.veth(host)
        # The far end is called eth0, as on a real node.
        commands += [
            f"link add {veth} type veth peer name eth0 netns {kept}",
            f"link set {veth} master {bridge} up",
        ]
    run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")
    for host in hosts:
        inside = [
            "link set lo up",
            f"address add {host.address}/{subnet.prefixlen} dev eth0",
            "link set eth0 up",
        ]
        enter = ["nsenter", f"--net={layout.namespace(host.name)}", "--"]
        run([*enter, "ip", "-batch", "-"], stdin="\n".join(inside) + "\n")


def remove(layout: Layout) -> bool:
    """Remove the cluster's links and namespaces; whether there were any."""
    found = links(layout)
    for link in found:
        # One end of a cable takes the other with it.
        attempt(["ip", "link", "delete", link])
    if left := links(layout):
        raise ClusterError(f"network links {', '.join(left)} do not go away")
    kept = list(layout.namespaces.iterdir()) if layout.namespaces.is_dir() else []
    for file in kept:
        while keeps_namespace(file):
            run(["umount", str(file)])
        file.unlink()
    if kept:
        layout.namespaces.rmdir()
    return bool(found or kept)


def links(layout: Layout) -> list[str]:
    """The network links of the cluster that this machine has."""
    return sorted(link.name for link in Path("/sys/class/net").glob(f"{layout.link_prefix}*"))


def plug(layout: Layout, host: Host, connected: bool) -> None:
    """Plug the cable of `host` in, or pull it."""
    run(["ip", "link", "set", layout.veth(host), "up" if connected else "down"])


def block(layout: Layout, host: Host, first: int, last: int) -> None:
    """Lose what `host` answers from TCP ports `first` to `last`, as a firewall does."""
    rule = f"ip rule add ipproto tcp sport {first}-{last} blackhole pref 10"
    run(["nsenter", f"--net={layout.namespace(host.name)}", "--", *rule.split()])


def unblock(layout: Layout, host: Host) -> None:
    """Take back what `block` did."""
    enter = ["nsenter", f"--net={layout.namespace(host.name)}", "--"]
    attempt([*enter, "ip", "rule", "del", "pref", "10"])
