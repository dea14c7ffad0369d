"""What follows from the canary's measurements. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from launch.doctor_canary import Outcome, sample_ports
from launch.doctor_login import PACKAGES, internet
from launch.findings import Finding, few, note, ok, problem
from slurm.command import FIRST_PORT, PORTS

CLOCK_SECONDS = 5.0
"""A difference that misleads the end of the time limit, and file systems that compare times."""
CLOCK_NOTE_SECONDS = 1.0
LATE_SECONDS = 10.0
"""A file that shows up later than this on another machine slows starts and ends down."""
SLOW = 0.4
"""As `training.health.SLOW`."""
NCCL_SLOW = 3e9
"""Bytes per second between nodes below which NCCL hardly goes over a fast network."""

Node = dict[str, Any]


def findings(outcome: Outcome, login: Node, asked: int) -> list[Finding]:
    """Return what the canary found.

    Args:
        outcome: the job and its files.
        login: facts of the login node (`slurm.machine_facts`).
        asked: nodes that it was to have.
    """
    nodes = [outcome.nodes[n] for n in sorted(outcome.nodes)]
    found = list(_missing(outcome, nodes, asked))
    # What a node did not come to measure says nothing.
    nodes = [n for n in nodes if "error" not in n]
    if not nodes:
        return found
    for check in (_folders, _clocks, _ports, _signal):
        found += check(outcome, nodes)
    found += _same(nodes, login)
    found += _slurm(nodes)
    found += _cores(nodes)
    found += _ranks(outcome, nodes)
    found += _requeue(outcome)
    reached = [n["internet"] for n in nodes if n.get("internet")]
    if reached:
        worst = next((r for r in reached if not r.get("reached")), reached[0])
        found.append(internet("the nodes", worst))
    return found


def _missing(outcome: Outcome, nodes: list[Node], asked: int) -> Iterator[Finding]:
    if outcome.unseen:
        yield problem(
            "folders",
            f"the nodes do not have {few(outcome.unseen)}, which the login node has",
            "put the program and its Python environment on a file system that all nodes see",
        )
    errors = [f"{n['host']}: {n['error'].strip().splitlines()[-1]}" for n in nodes if "error" in n]
    if errors:
        yield problem("canary", f"the canary failed on {few(errors, 2)}", "see that message")
    if nodes and len(nodes) < asked:
        hosts = nodes[0].get("hosts", ())
        gone = [h for i, h in enumerate(hosts) if i not in outcome.nodes] or ["a node"]
        yield problem(
            "folders",
            f"nothing was heard of {few(gone)}: it does not see {outcome.folder}, or Python does "
            f"not start there" + (f" ({outcome.output})" if outcome.output else ""),
            "use a --runs folder that all nodes mount; --sbatch exclude=NODE leaves a broken one "
            "out",
        )
    if not nodes and not outcome.unseen and outcome.started:
        said = f"; its output says: {outcome.output}" if outcome.output else ""
        yield problem(
            "canary",
            f"job {outcome.job} ended ({outcome.state}) and left no word{said}",
            "the folder, the program or its Python is not what the nodes see",
        )


def _folders(outcome: Outcome, nodes: list[Node]) -> Iterator[Finding]:
    everyone = ["login", *(f"node{n['node']}" for n in nodes)]
    nodes = [n for n in nodes if "folders" in n]
    hosts = {f"node{n['node']}": n["host"] for n in nodes} | {"login": "the login node"}
    good, slowest = [], 0.0
    for folder in outcome.folders:
        blind = {}
        for n in nodes:
            seen = (n.get("folders") or {}).get(folder, {})
            lacks = set(everyone) - set(seen.get("sees", ()))
            if lacks:
                blind[n["host"]] = lacks
            slowest = max(slowest, seen.get("seconds", 0.0))
        unwritable = {n["host"]: n["unwritable"][folder] for n in nodes if folder in
                      n.get("unwritable", {})}  # fmt: skip
        login_lacks = set(everyone) - set(outcome.seen.get(folder, ()))
        if unwritable:
            host, why = next(iter(unwritable.items()))
            yield problem(
                "folders",
                f"{few(unwritable)} cannot write to {folder}: {why} ({host})",
                "use another folder: --runs DIR, or cluster.shared in the profile",
            )
        elif blind or login_lacks:
            # Who does not see the login node's mark has a folder of its own in that place.
            apart = [host for host, lacks in blind.items() if "login" in lacks]
            who = apart or [*blind] or ["the login node"]
            unseen = set().union(*(blind[h] for h in who if h in blind)) or login_lacks
            others, do = sorted(hosts[w] for w in unseen), "does" if len(who) == 1 else "do"
            yield problem(
                "folders",
                f"{folder} is not shared: {few(who)} {do} not see what {few(others)} wrote there",
                "take it out of cluster.shared and $GLUELINE_SHARED, and use --runs DIR on a file "
                "system that all nodes mount",
            )
        else:
            good.append(folder)
    if good and slowest > LATE_SECONDS:
        yield note(
            "folders",
            f"files of one machine show up on another after up to {slowest:.0f} s",
            "nothing: starts and ends are that much slower (attribute caching of NFS)",
        )
    if good:
        yield ok("folders", f"shared by all nodes: {few(good)} ({slowest:.1f} s at most)")


def _clocks(outcome: Outcome, nodes: list[Node]) -> Iterator[Finding]:
    # Nodes among each other, exactly; then against the login node, within the time that its
    # file took to be seen.
    worst: tuple[float, str] = (0.0, "")
    known = False
    for n in nodes:
        told = n.get("connections") or {}
        if told.get("clock") is not None:
            known = True
            worst = max(worst, _apart(told["clock"], told["to"], n["host"]))
    for n in nodes:
        bounds = (n.get("login") or {}).get("ahead")
        if bounds:
            known = True
            first, last = bounds
            sure = first if first > 0 else last if last < 0 else 0.0
            worst = max(worst, _apart(sure, "the login node", n["host"]))
    apart, text = worst
    mend = "the site's administrators set the clocks (chronyd or ntpd has stopped, perhaps)"
    if apart >= CLOCK_SECONDS:
        yield problem("clocks", text, mend)
    elif apart >= CLOCK_NOTE_SECONDS:
        yield note("clocks", text, mend)
    elif known:
        yield ok("clocks", f"clocks agree within {max(apart, 0.1):.1f} s")


def _apart(ahead: float, who: str, than: str) -> tuple[float, str]:
    word = "ahead of" if ahead > 0 else "behind"
    return abs(ahead), f"the clock of {who} is {abs(ahead):.1f} s {word} that of {than}"


def _ports(outcome: Outcome, nodes: list[Node]) -> Iterator[Finding]:
    well = {n["host"] for n in nodes}
    told = [
        (n, c) for n in nodes if (c := n.get("connections")) and c["to"].partition(".")[0] in
        {w.partition(".")[0] for w in well}
    ]  # fmt: skip
    if not told:
        if len(outcome.nodes) == 1:
            yield note(
                "ports",
                "one node only: what lies between nodes was not measured",
                "run doctor with --nodes 2 where the partition has them",
            )
        return
    loops = [c["to"] for _, c in told if str(c.get("address") or "127.").startswith("127.")]
    if loops:
        yield problem(
            "names",
            f"{few(loops)} stands for no address on the other nodes, or for 127.x",
            "the site mends its name service (/etc/hosts or DNS)",
        )
    bad = 0
    for n, c in told:
        blocked = {int(port): why for port, why in c["ports"].items() if why}
        if not blocked:
            continue
        bad += 1
        first, last = blocked_range(sorted(blocked), [int(p) for p in c["ports"]])
        all_of = "no TCP port at all is" if c.get("clock") is None else f"ports {first}-{last} are"
        if c.get("clock") is None and len(blocked) < len(c["ports"]):
            all_of = f"ports {first}-{last} are"
        opened = "open" if c.get("clock") is None and all_of.startswith("no") else "blocked"
        yield problem(
            "ports",
            f"from {n['host']} to {c['to']} {all_of} {opened} ({next(iter(blocked.values()))})",
            f"jobs of several nodes meet on a port of {FIRST_PORT}-{FIRST_PORT + PORTS - 1}: ask "
            "the site to open them between compute nodes",
        )
    taken = sorted({p for n in nodes for p in n.get("taken_ports", ())})
    if taken:
        yield note("ports", f"other programs hold {few(map(str, taken))} of the nodes' ports")
    if not bad and not loops:
        ways = sorted({c["through"] for _, c in told if c.get("through")})
        by = f" by {few(ways)}" if ways else ""
        yield ok(
            "ports",
            f"ports {FIRST_PORT}-{FIRST_PORT + PORTS - 1} are open between nodes{by} "
            f"({len(sample_ports())} of them tried)",
        )


def blocked_range(blocked: list[int], tried: list[int]) -> tuple[int, int]:
    """Return the range in which blocked ports must lie: up to the next open ones on both sides."""
    opened = set(tried) - set(blocked)
    below = [p for p in opened if p < blocked[0]]
    above = [p for p in opened if p > blocked[-1]]
    first = blocked[0] if below else min(FIRST_PORT, blocked[0])
    last = blocked[-1] if above else max(FIRST_PORT + PORTS - 1, blocked[-1])
    return first, last


def _signal(outcome: Outcome, nodes: list[Node]) -> Iterator[Finding]:
    if not outcome.signalled:
        return
    deaf = [n["host"] for n in nodes if not n.get("signal")]
    if deaf:
        yield problem(
            "signals",
            f"USR2 sent by scancel did not reach the program on {few(deaf)}",
            "the site's ProctrackType or a wrapper of srun swallows signals: runs are then told "
            "of their end by the agent's own clock only",
        )
    else:
        yield ok("signals", "a signal sent by scancel reaches the program on every node")


def _same(nodes: list[Node], login: Node) -> Iterator[Finding]:
    different = []
    for n in nodes:
        for name in PACKAGES:
            here, there = login["versions"].get(name), (n.get("versions") or {}).get(name)
            if here != there:
                different.append(f"{name} is {there or 'missing'} on {n['host']}, {here} here")
        if n.get("python") != login["python"]:
            different.append(f"Python is {n.get('python')} on {n['host']}, {login['python']} here")
        if n.get("code") != login["code"]:
            different.append(f"glueline's own code on {n['host']} is another one than here")
    if different:
        yield problem(
            "versions",
            few(different, 3),
            "the environment must lie where all nodes see it: install it on a shared file system",
        )
    else:
        yield ok("versions", "login node and nodes have the same Python, packages and code")


def _slurm(nodes: list[Node]) -> Iterator[Finding]:
    for n in nodes:
        said = (n.get("slurm") or {}).get("error")
        if said and "munge" in said.lower():
            yield problem(
                "munge",
                f"munge does not work on {n['host']}: {said}",
                f"the site starts it there; until then: --sbatch exclude={n['host']}",
            )
        elif said:
            yield problem(
                "slurm",
                f"scontrol does not work on {n['host']}: {said}",
                "runs cannot ask when their time ends, nor queue themselves again: "
                "cluster.requeue: 'no'",
            )


def _cores(nodes: list[Node]) -> Iterator[Finding]:
    pinned = False
    for n in nodes:
        given, has, may = n.get("allocated"), n.get("machine_cores"), n.get("cores")
        if not given or not has or not may:
            continue
        if may < min(given, has):
            pinned = True
            yield problem(
                "cores",
                f"a task on {n['host']} may use {may} core{'s' if may > 1 else ''}, Slurm gave it "
                f"{given}: something binds it",
                "look for SLURM_CPU_BIND or taskset in the environment and in cluster.setup; else "
                "the site's TaskPlugin or slurmd there is wrong",
            )
        elif has < given:
            yield note(
                "cores",
                f"{n['host']} has {has} cores, Slurm says {given}",
                f"use --cpus-per-node {has}",
            )
    if not pinned:
        cores = sorted({int(n["cores"]) for n in nodes if n.get("cores")})
        yield ok("cores", f"a task may use {'/'.join(map(str, cores))} cores of its node")


def _ranks(outcome: Outcome, nodes: list[Node]) -> Iterator[Finding]:
    told = {n["host"]: n.get("ranks") or {} for n in nodes}
    skipped = next((r["skipped"] for r in told.values() if "skipped" in r), None)
    ranks = [outcome.ranks[r] for r in sorted(outcome.ranks)]
    failed = [host for host, r in told.items() if "exit" in r and r["exit"] != 0]
    kind = "NCCL" if any(n.get("gpus") for n in nodes) else "gloo"
    if failed or (not ranks and not skipped):
        how = "did not end in time" if any(told[h]["exit"] is None for h in failed) else "failed"
        yield problem(
            "collective",
            f"an all-reduce between the nodes ({kind}) {how}: {outcome.rank_words or 'no reason'}",
            "see ports above; with several networks name one: --set cluster.interface=NAME",
        )
        return
    if skipped:
        yield note("collective", f"no all-reduce was tried: {skipped}")
        return
    wrong = [r["host"] for r in ranks if not r["reduced_right"]]
    if wrong:
        yield problem(
            "collective",
            f"an all-reduce gave a wrong sum on {few(sorted(set(wrong)))}",
            "memory or network there is damaged: leave it out with --sbatch exclude=NODE",
        )
    slow = [r["bus_bytes_per_second"] for r in ranks if r["bus_bytes_per_second"]]
    if slow:
        speed = f"{min(slow) / 1e9:.2f} GB/s over {len(ranks)} ranks ({ranks[0]['backend']})"
        if ranks[0]["backend"] == "nccl" and len(nodes) > 1 and min(slow) < NCCL_SLOW:
            yield note(
                "collective",
                f"an all-reduce runs at {speed}",
                "if the nodes have InfiniBand, NCCL does not use it: see NCCL_DEBUG=INFO",
            )
        else:
            yield ok("collective", f"an all-reduce runs at {speed}")
    median = statistics.median_high([r["matrix_flops"] for r in ranks])
    worst = min(ranks, key=lambda r: r["matrix_flops"])
    speeds = f"{worst['matrix_flops'] / 1e9:,.0f} GFLOP/s"
    if worst["matrix_flops"] < SLOW * median:
        yield problem(
            "speed",
            f"{worst['host']} multiplies matrices at {speeds}, its peers at {median / 1e9:,.0f}",
            f"leave it out: --sbatch exclude={worst['host']}, and tell the site",
        )
    else:
        yield ok("speed", f"nodes are alike: a matrix product runs at {speeds} at least")
    gpus = [r for r in ranks if r["device"] != "cpu"]
    if gpus:
        memory = min(r["total_mb"] for r in gpus) / 1024
        yield ok("gpus", f"{few(sorted({r['device'] for r in gpus}))}, {memory:.0f} GiB each")


def _requeue(outcome: Outcome) -> Iterator[Finding]:
    told = outcome.requeue
    if told is None:
        return
    if told.get("accepted") and outcome.queued_again:
        yield ok("requeue", "a job may put itself back into the queue, tried")
        return
    if told.get("accepted") and outcome.queued_again is None:
        yield note(
            "requeue",
            "Slurm took the request to queue a job again and was still clearing up after it: "
            "whether it comes back was not seen",
        )
        return
    said = told.get("said") or "Slurm took the request, but the job did not come back"
    yield problem(
        "requeue",
        f"a job may not put itself back into the queue: {said}",
        "the profile says requeue: 'no' then: further jobs wait behind the first one "
        "(cluster.successors)",
    )
