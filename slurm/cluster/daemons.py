"""Starting the daemons, each on its host, and waiting until it does its work."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from slurm.cluster.errors import ClusterError
from slurm.cluster.layout import (
    CONTROLLER,
    SLURMCTLD_PORT,
    SLURMD_PORT,
    SLURMDBD_PORT,
    SPOOL,
    Host,
    Layout,
)
from slurm.cluster.processes import MARK, end, find, namespace_id, process_namespace
from slurm.cluster.render import CLUSTER_NAME
from slurm.cluster.tools import PATH, attempt, run, tail

PATIENCE = 30.0
"""Seconds that anything may take to get ready."""

_POLL = 0.05


def start_keeper(
    layout: Layout, host: Host, share: list[Path], binds: list[tuple[str, str]]
) -> None:
    """Start the process that holds the namespaces of `host`; `wait_for_keeper` waits for it."""
    home = layout.home(host.name)
    tmp = home / "tmp"
    tmp.mkdir()
    tmp.chmod(0o1777)
    plan = {
        "name": host.name,
        "hosts": str(layout.hosts_file),
        "tmp": str(tmp),
        "share": [str(f) for f in share if f.is_relative_to("/tmp")],
        "binds": [(str(home / "spool"), SPOOL), *binds],
        "ready": str(home / "keeper.pid"),
    }
    script = str(Path(__file__).with_name("keeper.py"))
    _background(
        layout,
        [
            *("nsenter", f"--net={layout.namespace(host.name)}", "--"),
            *("unshare", "--uts", "--mount", "--propagation", "private", "--"),
            *(sys.executable, "-I", "-S", script, json.dumps(plan)),
        ],
        f"keeper-{host.name}",
    )


def wait_for_keeper(layout: Layout, name: str) -> None:
    """Wait until the host `name` is set up. Raises ClusterError."""
    _wait(layout, f"keeper-{name}", lambda: keeper(layout, name) is not None, lambda: True, 10)


def keeper(layout: Layout, name: str) -> int | None:
    """Pid of the process that holds the namespaces of host `name`; None if it is gone."""
    try:
        pid = int((layout.home(name) / "keeper.pid").read_text())
    except (OSError, ValueError):
        return None
    # The pid may be another's by now; one in our network namespace is not.
    namespace = namespace_id(layout.namespace(name))
    return pid if namespace and process_namespace(pid) == namespace else None


def enter(layout: Layout, name: str) -> list[str]:
    """The words that, put before a command, run it on host `name`. Raises ClusterError."""
    pid = keeper(layout, name)
    if pid is None:
        raise ClusterError(f"host {name} is not up")
    # --root: a mount namespace alone would lead out of a chroot that we may be in.
    return ["nsenter", "-t", str(pid), "--net", "--uts", "--mount", "--root", "--"]


def start_munged(layout: Layout) -> None:
    """Start munged with the cluster's own key and wait until it answers."""
    folder = layout.munge_socket.parent
    folder.mkdir(mode=0o755)
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    argv = [
        *("munged", "--foreground", "--num-threads=2"),
        # The state folder may lie below one that only root can open, which munged warns of.
        "--force",
        f"--socket={layout.munge_socket}",
        f"--key-file={key}",
        f"--pid-file={folder / 'pid'}",
        f"--seed-file={folder / 'seed'}",
        f"--log-file={layout.log('munged')}",
    ]
    _start(layout, CONTROLLER, "munged", argv, lambda: _accepts(str(layout.munge_socket)))


def make_database(layout: Layout) -> None:
    """Make MariaDB's files (under a second)."""
    run(
        [
            *("mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db"),
            # Without this it would give a folder of the system's MariaDB another owner.
            "--rpm",
            *("--skip-name-resolve", f"--datadir={layout.database}", *_INNODB),
        ]
    )


def start_mariadbd(layout: Layout) -> None:
    """Start MariaDB, which listens on its socket only, and wait for it."""
    argv = [
        *("mariadbd", "--no-defaults", "--user=root", "--skip-networking"),
        f"--datadir={layout.database}",
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.database / 'pid'}",
        f"--init-file={layout.state / 'init.sql'}",
        *_INNODB,
    ]
    _start(layout, CONTROLLER, "mariadbd", argv, lambda: _accepts(str(layout.database_socket)))


def start_slurmdbd(layout: Layout, controller: Host) -> None:
    """Start slurmdbd, wait until it answers, and register the cluster."""
    port = (controller.address, SLURMDBD_PORT)
    _start(layout, CONTROLLER, "slurmdbd", ["slurmdbd", "-D"], lambda: _accepts(port))
    slurm = {"SLURM_CONF": str(layout.slurm_conf)}
    run(["sacctmgr", "-i", "add", "cluster", CLUSTER_NAME], env=slurm)


def start_slurmctld(layout: Layout, controller: Host) -> None:
    """Start slurmctld and wait until it listens."""
    argv = ["slurmctld", "-D", "-f", str(layout.slurm_conf)]
    port = (controller.address, SLURMCTLD_PORT)
    _start(layout, CONTROLLER, "slurmctld", argv, lambda: _accepts(port))


def start_slurmd(layout: Layout, node: str) -> None:
    """Start slurmd on `node`; `wait_for_nodes` waits for it."""
    argv = ["slurmd", "-D", "-N", node, "-f", str(layout.slurm_conf)]
    _background(layout, [*enter(layout, node), *argv], f"slurmd-{node}")


def wait_for_nodes(layout: Layout, nodes: list[Host]) -> None:
    """Wait until slurmd listens on every one of `nodes` and all are idle. Raises ClusterError."""
    for node in nodes:
        log = f"slurmd-{node.name}"

        def ready(node: Host = node) -> bool:
            return _accepts((node.address, SLURMD_PORT))

        def alive(node: Host = node) -> bool:
            return bool(find(layout, node.name, "slurmd"))

        _wait(layout, log, ready, alive)
    wanted = {node.name for node in nodes}

    def idle() -> bool:
        return all(node_states(layout).get(name) == "idle" for name in wanted)

    _wait(layout, "slurmctld", idle, lambda: bool(find(layout, CONTROLLER, "slurmctld")))


def wait_for_registration(layout: Layout) -> None:
    """Wait until the accounting knows where the cluster's controller is. Raises ClusterError."""
    slurm = {"SLURM_CONF": str(layout.slurm_conf)}

    def registered() -> bool:
        words = ["sacctmgr", "-n", "-P", "show", "cluster", "format=ControlHost"]
        return bool(attempt(words, env=slurm).stdout.strip())

    _wait(layout, "slurmdbd", registered, lambda: bool(find(layout, CONTROLLER, "slurmdbd")))


def node_states(layout: Layout) -> dict[str, str]:
    """Slurm's word for each node, such as idle or down*; empty if the controller is silent."""
    done = attempt(["sinfo", "-h", "-N", "-o", "%N %T"], env={"SLURM_CONF": str(layout.slurm_conf)})
    return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)


def shut_down_slurmctld(layout: Layout) -> None:
    """Have slurmctld save its state and end; waits for that at most 10 s."""
    attempt(["scontrol", "shutdown", "slurmctld"], env={"SLURM_CONF": str(layout.slurm_conf)})
    deadline = time.monotonic() + 10
    while find(layout, CONTROLLER, "slurmctld") and time.monotonic() < deadline:
        time.sleep(_POLL)


def stop(layout: Layout, host: str, name: str) -> None:
    """Kill the daemon `name` on `host` with SIGKILL. Raises ClusterError if it stays."""
    deadline = time.monotonic() + 5
    while pids := find(layout, host, name):
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} on {host} does not die")
        end(pids)
        time.sleep(0.02)


# Small files and no asynchronous I/O, of which a machine has little for several databases;
# what is lost in a crash of the machine is of no use to anyone.
_INNODB = (
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-use-native-aio=0",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
)


def _start(
    layout: Layout, host: str, name: str, argv: list[str], ready: Callable[[], bool]
) -> None:
    _background(layout, [*enter(layout, host), *argv], name)
    _wait(layout, name, ready, lambda: bool(find(layout, host, name)))


def _background(layout: Layout, argv: list[str], log: str) -> None:
    """Start `argv` so that it outlives us and is not our child, which would leave zombies."""
    env = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(layout.slurm_conf),
        "MYSQL_UNIX_PORT": str(layout.database_socket),
        MARK: str(layout.state),
    }
    with layout.log(log).with_suffix(".out").open("ab") as out:
        subprocess.run(
            ["setsid", "--fork", *argv],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            umask=0o022,
            check=True,
        )


def _wait(
    layout: Layout,
    log: str,
    ready: Callable[[], bool],
    alive: Callable[[], bool],
    patience: float = PATIENCE,
) -> None:
    started = time.monotonic()
    while not ready():
        waited = time.monotonic() - started
        # It takes a moment until the new process has become the daemon.
        died = waited > 2 and not alive()
        if died or waited > patience:
            path = layout.log(log)
            what = "died" if died else f"was not ready within {patience:.0f} s"
            raise ClusterError(f"{log} {what}", tail(path) or tail(path.with_suffix(".out")))
        time.sleep(_POLL)


def _accepts(address: str | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(1)
        return probe.connect_ex(address) == 0
