"""Command line: `python -m slurm.cluster up|down|env|install|status`."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from slurm.cluster import packages
from slurm.cluster.cluster import VirtualCluster
from slurm.cluster.config import PROCTRACKS, ClusterConfig, default_state
from slurm.cluster.errors import ClusterError


def main(argv: list[str] | None = None) -> int:
    """Do what the words ask; the exit code: 0, 1 (it failed or is not up), 2 (bad request)."""
    words = _parser().parse_args(argv)
    try:
        return words.run(words)
    except ClusterError as error:
        if error.log:
            print(error.log, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1


def _up(words: argparse.Namespace) -> int:
    config = ClusterConfig(
        state=words.state,
        nodes=words.nodes,
        cpus=words.cpus,
        gpus=words.gpus,
        memory=words.memory,
        proctrack=words.proctrack,
        preempt=words.preempt,
        accounting=words.accounting,
        share=tuple(words.share),
        max_array=words.max_array,
        slurmd_timeout=words.slurmd_timeout,
        extra_conf=tuple(words.conf),
    )
    VirtualCluster(config, print).up()
    return 0


def _down(words: argparse.Namespace) -> int:
    VirtualCluster(ClusterConfig(state=words.state), print).down()
    return 0


def _env(words: argparse.Namespace) -> int:
    for name, value in VirtualCluster.standing(words.state).env().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _status(words: argparse.Namespace) -> int:
    status = VirtualCluster.standing(words.state).status()
    if words.json:
        print(json.dumps(status, indent=1))
    else:
        _print_status(status)
    return 0 if status["answers"] else 1


def _print_status(status: dict[str, Any]) -> None:
    print(f"{'cluster':12} {status['state']}")
    for name, pid in status["daemons"].items():
        print(f"{name:12} {f'pid {pid}' if pid else 'gone'}")
    for node in status["nodes"]:
        slurmd = f"pid {node['slurmd']}" if node["slurmd"] else "slurmd gone"
        print(f"{node['name']:12} {node['address']:15} {slurmd:14} {node['state']}")


def _install(words: argparse.Namespace) -> int:
    packages.install(print)
    return 0


def _parser() -> argparse.ArgumentParser:
    asked = ClusterConfig()
    parser = argparse.ArgumentParser(
        prog="python -m slurm.cluster", description="A real Slurm of several hosts on one machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def state(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--state",
            type=Path,
            default=default_state(),
            metavar="DIR",
            help="folder of the cluster (default: $GLUELINE_CLUSTER or %(default)s)",
        )

    up = command("up", _up, "bring a cluster up")
    state(up)
    up.add_argument("--nodes", type=int, default=asked.nodes, help="default: %(default)s")
    up.add_argument("--cpus", type=int, default=asked.cpus, help="per node; default: %(default)s")
    up.add_argument("--gpus", type=int, default=asked.gpus, help="pretended ones, per node")
    up.add_argument(
        "--memory", type=int, default=asked.memory, metavar="MB", help="default: %(default)s"
    )
    up.add_argument("--proctrack", choices=PROCTRACKS, default=asked.proctrack)
    up.add_argument("--preempt", action="store_true", help="add the partition urgent")
    up.add_argument("--no-accounting", dest="accounting", action="store_false")
    up.add_argument(
        "--share",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder that all nodes see at the same path, even in /tmp; repeatable",
    )
    up.add_argument("--max-array", type=int, metavar="N", help="MaxArraySize")
    up.add_argument(
        "--slurmd-timeout",
        type=int,
        default=asked.slurmd_timeout,
        metavar="SECONDS",
        help="silence until a node counts as down; default: %(default)s",
    )
    up.add_argument(
        "--conf", action="append", default=[], metavar="LINE", help="further line of slurm.conf"
    )
    state(command("env", _env, "print the exports that make a shell the login node"))
    status = command("status", _status, "show daemons and nodes; exit code 1 if it is not up")
    state(status)
    status.add_argument("--json", action="store_true")
    state(command("down", _down, "remove the cluster and all that runs on it"))
    command("install", _install, "install the Debian packages that are missing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
