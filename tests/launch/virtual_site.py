"""A virtual cluster for commands that are typed on its login node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.cluster import ClusterConfig, VirtualCluster

from .commandline import ROOT, glueline


@dataclass(frozen=True)
class Site:
    """A cluster that is up."""

    base: Path
    """The folder where commands are typed; all hosts see it."""
    env: dict[str, str]
    """What points Slurm's commands at the cluster."""

    def glueline(
        self, name: str, *words: str, timeout: float = 200
    ) -> subprocess.CompletedProcess[str]:
        """Run `python launch/NAME.py WORDS` on the login node."""
        return glueline(name, *words, cwd=self.base, env=self.env, timeout=timeout)


@contextmanager
def virtual_site(base: Path, name: str, **config: Any) -> Iterator[Site]:
    """Bring a cluster up whose hosts share a folder, Python and the code.

    Args:
        base: the folder.
        name: a word for the cluster's own folder.
        config: of `slurm.cluster.ClusterConfig`.
    """
    share = tuple(dict.fromkeys([base, Path(sys.prefix), Path(sys.base_prefix), ROOT]))
    state = Path(f"/var/tmp/glueline-{name}-{os.getpid()}")
    with VirtualCluster(ClusterConfig(state=state, share=share, **config)) as up:
        yield Site(base, {**up.env(), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})
