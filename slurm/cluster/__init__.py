"""A virtual cluster: a real Slurm of several hosts on one machine, for trying and testing."""

from slurm.cluster.cluster import VirtualCluster
from slurm.cluster.config import ClusterConfig, default_state
from slurm.cluster.errors import BadRequest, ClusterError

__all__ = ["BadRequest", "ClusterConfig", "ClusterError", "VirtualCluster", "default_state"]
