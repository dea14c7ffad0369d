"""The text of the configuration files, as pure functions."""

from ipaddress import IPv4Network

from slurm.cluster.config import ClusterConfig
from slurm.cluster.layout import (
    CONTROLLER,
    SLURMCTLD_PORT,
    SLURMD_PORT,
    SLURMDBD_PORT,
    SPOOL,
    SRUN_PORTS,
    Host,
    Layout,
    login_address,
)

CLUSTER_NAME = "glueline"
DATABASE_USER = "slurm"
GRACE_TIME = 5


def slurm_conf(config: ClusterConfig, layout: Layout, hosts: list[Host]) -> str:
    """slurm.conf, the same file for every host and for the login side."""
    controller, nodes = hosts[0], hosts[1:]
    state = layout.state
    lines = [
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost={controller.name}({controller.address})",
        f"SlurmctldPort={SLURMCTLD_PORT}",
        f"SlurmdPort={SLURMD_PORT}",
        f"SrunPortRange={SRUN_PORTS}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={layout.munge_socket}",
        f"StateSaveLocation={state}/ctld",
        f"SlurmctldPidFile={state}/run/slurmctld.pid",
        f"SlurmctldLogFile={layout.log('slurmctld')}",
        f"SlurmdSpoolDir={SPOOL}/slurmd",
        f"SlurmdPidFile={state}/run/slurmd-%n.pid",
        f"SlurmdLogFile={layout.log('slurmd-%n')}",
        f"ProctrackType=proctrack/{config.proctrack}",
        # The nodes share the machine's cores: binding tasks to cores would pile them up.
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SlurmdParameters=config_overrides",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1",
        "JobRequeue=1",
        "ReturnToService=2",
        f"SlurmdTimeout={config.slurmd_timeout}",
        "KillWait=10",
    ]
    if config.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            f"AccountingStorageHost={controller.address}",
            f"AccountingStoragePort={SLURMDBD_PORT}",
            f"AccountingStoragePass={layout.munge_socket}",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=5",
        ]
        if config.gpus:
            lines.append("AccountingStorageTRES=gres/gpu")
    if config.gpus:
        lines.append("GresTypes=gpu")
    if config.max_array is not None:
        lines.append(f"MaxArraySize={config.max_array}")
    if config.preempt:
        lines += ["PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"]
    gres = f" Gres=gpu:{config.gpus}" if config.gpus else ""
    lines += [
        f"NodeName={node.name} NodeAddr={node.address} CPUs={config.cpus} Boards=1"
        f" SocketsPerBoard=1 CoresPerSocket={config.cpus} ThreadsPerCore=1"
        f" RealMemory={config.memory}{gres} State=UNKNOWN"
        for node in nodes
    ]
    partition = "Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO"
    if config.preempt:
        lines += [
            f"PartitionName=main {partition} Default=YES PriorityTier=1"
            f" PreemptMode=REQUEUE GraceTime={GRACE_TIME}",
            f"PartitionName=urgent {partition} PriorityTier=10 PreemptMode=OFF",
        ]
    else:
        lines.append(f"PartitionName=main {partition} Default=YES")
    return _text([*lines, *config.extra_conf])


def gres_conf(config: ClusterConfig, layout: Layout) -> str:
    """gres.conf: GPUs that are nothing but numbered device files."""
    if not config.gpus:
        return ""
    last = config.gpus - 1
    numbers = "0" if last == 0 else f"[0-{last}]"
    return _text(["AutoDetect=off", f"Name=gpu File={layout.gpu_devices}/gpu{numbers}"])


def cgroup_conf() -> str:
    """cgroup.conf for version-1 controllers; without it every job drains its node."""
    return _text(
        ["CgroupPlugin=cgroup/v1", "CgroupMountpoint=/sys/fs/cgroup", "CgroupAutomount=yes"]
    )


def slurmdbd_conf(layout: Layout, controller: Host, password: str) -> str:
    """slurmdbd.conf; the database is reached through its socket, named in the environment."""
    return _text(
        [
            "AuthType=auth/munge",
            f"AuthInfo=socket={layout.munge_socket}",
            f"DbdHost={controller.name}",
            f"DbdAddr={controller.address}",
            f"DbdPort={SLURMDBD_PORT}",
            "SlurmUser=root",
            f"LogFile={layout.log('slurmdbd')}",
            f"PidFile={layout.state}/run/slurmdbd.pid",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            f"StorageUser={DATABASE_USER}",
            f"StoragePass={password}",
            "StorageLoc=slurm_acct",
        ]
    )


def database_init(password: str) -> str:
    """SQL that MariaDB runs whenever it starts, before it answers anyone."""
    return _text(
        [
            "CREATE DATABASE IF NOT EXISTS slurm_acct;",
            f"CREATE USER IF NOT EXISTS '{DATABASE_USER}'@'localhost' IDENTIFIED BY '{password}';",
            f"GRANT ALL ON slurm_acct.* TO '{DATABASE_USER}'@'localhost';",
        ]
    )


def hosts_file(subnet: IPv4Network, login: str, hosts: list[Host]) -> str:
    """The hosts' /etc/hosts; `login` is the machine's own hostname, where users sit."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    # A machine that happens to be called like one of the hosts must not shadow it.
    if login not in {"localhost", CONTROLLER, *(host.name for host in hosts)}:
        names = dict.fromkeys([login, login.partition(".")[0]])
        lines.append(f"{login_address(subnet)} {' '.join(names)}")
    return _text([*lines, *(f"{host.address} {host.name}" for host in hosts)])


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
