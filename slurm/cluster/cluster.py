"""A cluster from `up` to `down`."""

import json
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any

from slurm.cluster import cgroups, daemons, network, packages, render
from slurm.cluster.config import ClusterConfig, default_state
from slurm.cluster.errors import BadRequest, ClusterError
from slurm.cluster.layout import CONTROLLER, LONGEST_STATE, Host, Layout, hosts_of, outermost
from slurm.cluster.processes import end_all, find, own_processes

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder that holds the package; jobs import it."""


class VirtualCluster:
    """A real Slurm of several hosts on this machine; as a context manager, up inside the block.

    `say` is told in one line each what is done.
    """

    def __init__(
        self, config: ClusterConfig | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self.config = config or ClusterConfig()
        self.layout = Layout(Path(os.path.realpath(self.config.state)))
        self._say = say or (lambda _: None)

    @classmethod
    def standing(
        cls, state: Path | None = None, say: Callable[[str], None] | None = None
    ) -> "VirtualCluster":
        """The cluster that was brought up in `state`. Raises ClusterError if none was."""
        state = state or default_state()
        record = _read_record(Layout(Path(os.path.realpath(state))))
        if record is None or not record["ready"]:
            raise ClusterError(f"no cluster at {state} (run: python -m slurm.cluster up)")
        config = record["config"]
        config |= {
            "share": tuple(map(Path, config["share"])),
            "extra_conf": tuple(config["extra_conf"]),
        }
        return cls(ClusterConfig(state=state, **config), say)

    def up(self) -> "VirtualCluster":
        """Bring the cluster up; returns when its nodes are idle (some 5 s), or at once if they are.

        Remains of a killed cluster in the same state folder are removed first. Raises BadRequest
        when this machine or the request will not do, ClusterError when a daemon does not come up.
        """
        self._check()
        if self._stands_already():
            self._say(f"already up at {self.layout.state}")
            return self
        if self._remove():
            self._say("removed the remains of an earlier cluster")
        try:
            self._build()
        except BaseException:
            with suppress(ClusterError):  # the first error is the one to tell
                self._clear()
            raise
        self._say(f"up: {self.config.nodes} nodes at {self.layout.state}")
        return self

    def down(self) -> bool:
        """Remove the cluster and everything that runs on it; False if there was nothing.

        Raises BadRequest without root, ClusterError when something cannot be removed.
        """
        if not self._anything():
            self._say(f"no cluster at {self.layout.state}")
            return False
        _require_root()
        self._remove()
        self._say(f"down: nothing is left of {self.layout.state}")
        return True

    def __enter__(self) -> "VirtualCluster":
        return self.up()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def env(self) -> dict[str, str]:
        """What a shell must export so that sbatch, srun and the others speak to this cluster."""
        return {
            "SLURM_CONF": str(self.layout.slurm_conf),
            "GLUELINE_SHARED": ":".join(self._asked_shares()),
        }

    def status(self) -> dict[str, Any]:
        """State of controller and nodes; pids are null where a daemon is gone (or not root's eyes).

        Raises ClusterError if there is no cluster.
        """
        hosts = self._hosts()
        states = daemons.node_states(self.layout)
        return {
            "state": str(self.layout.state),
            "slurm_conf": str(self.layout.slurm_conf),
            "answers": bool(states),
            "daemons": {name: self._pid(CONTROLLER, name) for name in self._controller_daemons()},
            "nodes": [
                {
                    "name": node.name,
                    "address": node.address,
                    "slurmd": self._pid(node.name, "slurmd"),
                    "state": states.get(node.name, "unknown"),
                }
                for node in hosts[1:]
            ],
        }

    def exec_on(
        self,
        node: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on `node`, in its network, with its hostname and its /tmp, from folder /.

        `env` is added to this process's environment and the cluster's; `timeout` is in seconds.
        Raises ClusterError if the node is not up.
        """
        words = [*daemons.enter(self.layout, self._node(node).name), *argv]
        full = os.environ | self.env() | dict(env or {})
        return subprocess.run(
            words, env=full, cwd="/", capture_output=True, text=True, timeout=timeout
        )

    def kill_slurmd(self, node: str) -> None:
        """Kill slurmd on `node` (SIGKILL); job steps there go on. Raises ClusterError."""
        daemons.stop(self.layout, self._node(node).name, "slurmd")

    def start_slurmd(self, node: str) -> None:
        """Start slurmd on `node` again; does not wait for Slurm to notice. Raises ClusterError."""
        if not find(self.layout, self._node(node).name, "slurmd"):
            daemons.start_slurmd(self.layout, node)

    def cut(self, node: str) -> None:
        """Pull the network cable of `node`. Raises ClusterError."""
        network.plug(self.layout, self._node(node), connected=False)

    def mend(self, node: str) -> None:
        """Plug the network cable of `node` in again. Raises ClusterError."""
        network.plug(self.layout, self._node(node), connected=True)

    def block_ports(self, node: str, first: int, last: int) -> None:
        """Let no connection to TCP ports `first` to `last` of `node` succeed. Raises ClusterError.

        An empty range (`first` above `last`) opens them all again.
        """
        network.unblock(self.layout, self._node(node))
        if first <= last:
            network.block(self.layout, self._node(node), first, last)

    def pin(self, node: str, cores: set[int]) -> None:
        """Bind slurmd of `node`, and so the tasks it starts, to cores. Raises ClusterError."""
        for pid in find(self.layout, self._node(node).name, "slurmd"):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)

    def stop_munge(self) -> None:
        """Kill munged, without which no command of Slurm is answered. Raises ClusterError."""
        daemons.stop(self.layout, CONTROLLER, "munged")

    def restart_controller(self, crash: bool = False) -> None:
        """Stop slurmctld and start it on its saved state; returns when it listens.

        With `crash` it is killed, and forgets the last seconds before. Raises ClusterError.
        """
        if not crash:
            daemons.shut_down_slurmctld(self.layout)
        daemons.stop(self.layout, CONTROLLER, "slurmctld")
        daemons.start_slurmctld(self.layout, self._hosts()[0])

    def _check(self) -> None:
        _require_root()
        packages.require(self.config.accounting)
        state = str(self.layout.state)
        if not re.fullmatch(r"[A-Za-z0-9/._+-]+", state):
            raise BadRequest(f"--state {state}: letters, digits, / . _ + - only, please")
        if len(state) > LONGEST_STATE:
            raise BadRequest(f"--state {state}: longer than the {LONGEST_STATE} that sockets allow")
        if self.layout.state in (Path("/"), Path("/tmp")):
            raise BadRequest(f"--state {state}: a folder of its own, please")
        if self.config.proctrack == "cgroup":
            cgroups.require_freezer()
        for folder in self.config.share:
            if not folder.is_dir():
                raise BadRequest(f"--share {folder}: no such folder")
            if Path("/tmp").is_relative_to(os.path.realpath(folder)):
                raise BadRequest(f"--share {folder}: each node has a /tmp of its own")

    def _stands_already(self) -> bool:
        record = _read_record(self.layout)
        if record is None:
            if self.layout.state.exists() and (
                not self.layout.state.is_dir() or any(self.layout.state.iterdir())
            ):
                raise BadRequest(f"--state {self.layout.state}: neither empty nor a cluster's")
            return False
        if not record["ready"] or not self._whole():
            return False
        if record["config"] != self._settings():
            raise BadRequest(
                f"a cluster with other settings is up at {self.layout.state}"
                " (run: python -m slurm.cluster down)"
            )
        return True

    def _whole(self) -> bool:
        """Whether all daemons of the recorded cluster live."""
        known = VirtualCluster.standing(self.layout.state)
        return all(known._pid(CONTROLLER, name) for name in known._controller_daemons()) and all(
            known._pid(node, "slurmd") and daemons.keeper(self.layout, node)
            for node in known.config.node_names
        )

    def _build(self) -> None:
        config, layout = self.config, self.layout
        above = [str(f) for f in layout.state.parents if not f.exists()]
        layout.state.mkdir(parents=True, exist_ok=True)
        layout.state.chmod(0o755)
        subnet = network.free_subnet(layout.tag)
        record = {"config": self._settings(), "subnet": str(subnet), "made": above}
        _write_record(layout, record | {"ready": False})
        hosts = hosts_of(subnet, config.node_names)
        self._write_files(subnet, hosts)
        network.create(layout, subnet, hosts)
        groups = (
            dict(zip(config.node_names, cgroups.create(layout, config.node_names), strict=True))
            if config.proctrack == "cgroup"
            else {}
        )
        share = self._shares()
        for host in hosts:
            pairs = [groups[host.name]] if host.name in groups else []
            daemons.start_keeper(layout, host, share, pairs)
        if config.accounting:
            daemons.make_database(layout)
        for host in hosts:
            daemons.wait_for_keeper(layout, host.name)
        daemons.start_munged(layout)
        if config.accounting:
            daemons.start_mariadbd(layout)
            daemons.start_slurmdbd(layout, hosts[0])
        daemons.start_slurmctld(layout, hosts[0])
        for node in hosts[1:]:
            daemons.start_slurmd(layout, node.name)
        daemons.wait_for_nodes(layout, hosts[1:])
        if config.accounting:
            daemons.wait_for_registration(layout)
        _write_record(layout, record | {"ready": True})

    def _write_files(self, subnet: IPv4Network, hosts: list[Host]) -> None:
        config, layout = self.config, self.layout
        for folder in ("log", "run", "ctld", "nodes"):
            (layout.state / folder).mkdir()
        for host in hosts:
            (layout.home(host.name) / "spool" / "slurmd").mkdir(parents=True)
        if config.gpus:
            layout.gpu_devices.mkdir()
            for i in range(config.gpus):
                # Slurm takes nothing but device files; these are doubles of /dev/null.
                os.mknod(layout.gpu_devices / f"gpu{i}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        layout.hosts_file.write_text(render.hosts_file(subnet, socket.gethostname(), hosts))
        layout.slurm_conf.write_text(render.slurm_conf(config, layout, hosts))
        (layout.state / "cgroup.conf").write_text(render.cgroup_conf())
        (layout.state / "gres.conf").write_text(render.gres_conf(config, layout))
        if config.accounting:
            password = secrets.token_hex(16)
            _write_secret(
                layout.state / "slurmdbd.conf", render.slurmdbd_conf(layout, hosts[0], password)
            )
            _write_secret(layout.state / "init.sql", render.database_init(password))

    def _anything(self) -> bool:
        return bool(
            self.layout.record.exists()
            or self.layout.namespaces.exists()
            or network.links(self.layout)
            or own_processes(self.layout)
        )

    def _clear(self) -> bool:
        """End what runs; the folder, with the logs, stays."""
        found = bool(own_processes(self.layout))
        cgroups.thaw(self.layout)
        end_all(self.layout)
        return network.remove(self.layout) or found

    def _remove(self) -> bool:
        found = self._clear()
        cgroups.remove(self.layout)
        record = _read_record(self.layout)
        if record is None:
            if found:
                # Someone removed what could be removed; the rest was held by mounts.
                with suppress(OSError):
                    self.layout.state.rmdir()
            return found
        try:
            shutil.rmtree(self.layout.state)
        except OSError as error:
            raise ClusterError(f"{self.layout.state} cannot be removed: {error}") from None
        for folder in record["made"]:
            with suppress(OSError):  # someone else's files are in it
                Path(folder).rmdir()
        return True

    def _shares(self) -> list[Path]:
        """All folders that the hosts must see, as named and as resolved."""
        named = [*self._asked_shares(), self.layout.state, REPOSITORY, sys.prefix, sys.base_prefix]
        paths = {Path(path(f)) for f in named for path in (_absolute, os.path.realpath)}
        return outermost(list(paths))

    def _asked_shares(self) -> list[str]:
        return [_absolute(folder) for folder in self.config.share]

    def _settings(self) -> dict[str, Any]:
        """The configuration as it is recorded, without the state folder."""
        settings = asdict(self.config) | {"share": self._asked_shares()}
        settings["extra_conf"] = list(self.config.extra_conf)
        del settings["state"]
        return settings

    def _hosts(self) -> list[Host]:
        record = _read_record(self.layout)
        if record is None:
            raise ClusterError(f"no cluster at {self.layout.state}")
        return hosts_of(IPv4Network(record["subnet"]), self.config.node_names)

    def _node(self, name: str) -> Host:
        for host in self._hosts()[1:]:
            if host.name == name:
                return host
        raise ClusterError(f"no node is called {name}")

    def _pid(self, host: str, name: str) -> int | None:
        return next(iter(find(self.layout, host, name)), None)

    def _controller_daemons(self) -> list[str]:
        accounting = ["mariadbd", "slurmdbd"] if self.config.accounting else []
        return ["munged", *accounting, "slurmctld"]


def _read_record(layout: Layout) -> dict[str, Any] | None:
    try:
        return json.loads(layout.record.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ClusterError(f"{layout.record} is not readable as JSON") from None


def _write_record(layout: Layout, record: dict[str, Any]) -> None:
    new = layout.record.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.rename(layout.record)


def _absolute(path: str | Path) -> str:
    """`path` as it is named, unlike resolve(): jobs will use that name."""
    return os.path.normpath(Path(path).absolute())


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise BadRequest("a virtual cluster needs root: network namespaces and mounts")
