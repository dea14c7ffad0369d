"""`submit --probe`: which shape would be done first, and which costs least. Nothing is submitted.

The same global batch is planned on several numbers of nodes and in several partitions; Slurm says
by `sbatch --test-only` when each would start, the plan how long it would run.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from training.config import RunConfig, UsageError, nearest
from training.rundir import CACHE_FOLDER, RunDir

from .flags import Request, with_flag
from .slurm_site import SECONDS, Partition

if TYPE_CHECKING:
    from .plan import Plan

MOST = 12
"""Shapes that are asked for, at most."""
AT_ONCE = 4
"""Questions that the controller gets at the same time."""

OWN = ("--probe", "--json")
"""Flags that are not part of the line to type."""

_START = re.compile(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
_PLACE = re.compile(r" on nodes? (\S+)")


@dataclass(frozen=True)
class Answer:
    """What Slurm says of one shape."""

    start: float | None
    """Epoch seconds of the expected start; None: it is refused, or cannot be told."""
    nodes: str = ""
    reason: str = ""
    """Slurm's words, where it is refused."""


@dataclass(frozen=True)
class Candidate:
    """One shape of the run."""

    partition: str
    nodes: int
    procs: int
    line: str
    """What to type for it."""
    accumulation: float | None = None
    seconds: float | None = None
    """How long it would run."""
    error: float | None = None
    hours: float | None = None
    unit: str = ""
    answer: Answer = field(default_factory=lambda: Answer(None))

    @property
    def finish(self) -> float | None:
        """Epoch seconds of the expected end."""
        if self.answer.start is None or self.seconds is None:
            return None
        return self.answer.start + self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`; times in epoch seconds."""
        return {
            "partition": self.partition,
            "nodes": self.nodes,
            "procs_per_node": self.procs,
            "accumulation": self.accumulation,
            "start": self.answer.start,
            "on": self.answer.nodes or None,
            "seconds": self.seconds,
            "error": self.error,
            "finish": self.finish,
            "hours": self.hours,
            "unit": self.unit,
            "refused": self.answer.reason or None,
            "line": self.line,
        }


def parse_test_only(text: str, status: int) -> Answer:
    """Return what `sbatch --test-only` said, on stderr, with this exit status."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in text.splitlines()]
    said = "; ".join(dict.fromkeys(line for line in lines if line))
    start = _START.search(text)
    if status == 0 and start:
        place = _PLACE.search(text)
        moment = time.mktime(time.strptime(start[1], "%Y-%m-%dT%H:%M:%S"))
        return Answer(moment, place[1] if place else "")
    if status == 0:
        return Answer(None, reason=said or "Slurm names no start")
    return Answer(None, reason=in_words(said) or "Slurm gives no reason")


_WORDS = (
    ("requested node configuration is not available", "no node of it has what is asked for"),
    ("more processors requested than permitted", "a node has fewer cores, or a limit says so"),
    ("node count specification invalid", "the partition has fewer nodes, or a limit says so"),
    ("requested time limit is invalid", "--time is longer than the partition allows"),
    ("invalid account or account/partition", "your account may not use this partition"),
    ("user's group not permitted", "your group may not use this partition"),
    ("access/permission denied", "you may not use this partition"),
    ("invalid qos", "this --qos is not for you, or not for this partition"),
    ("memory required by task is not available", "no node of it has so much memory"),
    ("job violates accounting/qos policy", "a limit of your account or its QOS does not allow it"),
    ("invalid feature", "no node has this --constraint"),
)


def in_words(said: str) -> str:
    """Return Slurm's reason with what it means in front of it, where that is known."""
    low = said.lower()
    meant = next((words for known, words in _WORDS if known in low), None)
    return f"{meant} ({said})" if meant else said


def shapes(
    partitions: Iterable[Partition],
    typed: str | None,
    nodes: int,
    typed_nodes: bool,
    most: int = MOST,
) -> list[tuple[str, int]]:
    """Return the (partition, nodes) to ask for, the asked one first.

    Powers of two up to what a partition has, and the number asked for; the larger partitions'
    share is cut first where there are too many.

    Args:
        partitions: of the cluster.
        typed: partitions that were asked for, with commas; None: all that are up.
        nodes: asked for.
        typed_nodes: whether they were typed: then they are in it, whatever the powers of two.
        most: how many at most.

    Raises:
        UsageError: a typed partition is not there.
    """
    partitions = list(partitions)
    names = typed.split(",") if typed else None
    known = [p.name for p in partitions]
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown partition '{name}': {nearest(name, known)}")
    usable = [p for p in partitions if p.up and p.nodes and (names is None or p.name in names)]
    usable.sort(key=lambda p: (not p.default, p.name))
    ladders: list[list[tuple[str, int]]] = []
    for partition in usable:
        steps = {2**k for k in range(partition.nodes.bit_length()) if 2**k <= partition.nodes}
        if typed_nodes and nodes <= partition.nodes:
            steps.add(nodes)
        ordered = sorted(steps, key=lambda n: (n != nodes, n))
        ladders.append([(partition.name, n) for n in ordered])
    found: list[tuple[str, int]] = []
    # In turns, so that no partition takes all the questions.
    for place in range(max(map(len, ladders), default=0)):
        found += [ladder[place] for ladder in ladders if place < len(ladder)]
    return found[:most]


def probe(request: Request, arguments: list[str]) -> list[Candidate]:
    """Return the shapes of a run, the first to finish first; those that are refused last.

    Args:
        request: what was typed.
        arguments: the same as words, without `--probe`.

    Raises:
        UsageError: the request is wrong, there is no Slurm, or no shape can be planned.
    """
    from . import ledger
    from .capacity import look
    from .executor import scrubbed_environment
    from .fetch import already_here
    from .plan import make_plan
    from .planning import look_at
    from .resolve import compose, resolve
    from .slurm_site import partitions, sbatch_available

    config, _, _ = compose(request)
    if config.cluster.executor == "local" or not sbatch_available():
        raise UsageError("--probe asks Slurm, and here is none that answers: leave it out")
    wanted = shapes(
        partitions(),
        config.cluster.partition,
        config.cluster.nodes,
        request.given("cluster.nodes"),
    )
    inputs, past, refusals = None, None, []
    planned: list[tuple[Candidate, str]] = []
    for partition, nodes in wanted:
        changed = with_flag(request, "cluster.partition", partition, "--partition")
        changed = with_flag(changed, "cluster.nodes", nodes, "--nodes")
        candidate = Candidate(partition, nodes, 0, line_of(arguments, partition, nodes))
        try:
            resolved = resolve(changed)
            here = already_here(resolved.config, resolved.runs / CACHE_FOLDER)
            if inputs is None or past is None:
                inputs, past = look_at(here), ledger.gathered(resolved.runs)
            known = look(here, resolved.runs / CACHE_FOLDER)
            plan = make_plan(here, inputs.rows, inputs.lengths, inputs.lengths_from, known, past)
        except UsageError as error:
            refusals.append(replace(candidate, answer=Answer(None, reason=str(error))))
            continue
        run = RunDir(resolved.runs / here.run_id())
        planned.append((_of_plan(candidate, here, plan), script_of(here, run)))
    if not planned:
        reason = refusals[0].answer.reason if refusals else "no partition is up"
        raise UsageError(f"--probe: no shape can be planned: {reason}")
    with scrubbed_environment(), ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda item: ask(item[1]), planned))
    found = [replace(c, answer=a) for (c, _), a in zip(planned, answers, strict=True)]
    return ranked([*found, *refusals])


def _of_plan(candidate: Candidate, config: RunConfig, plan: Plan) -> Candidate:
    told = plan.time or {}
    return replace(
        candidate,
        procs=config.cluster.procs_per_node or 1,
        accumulation=plan.micro_batches,
        seconds=told.get("seconds"),
        error=told.get("error"),
        hours=told.get("hours"),
        unit=told.get("unit", ""),
    )


def ranked(found: Iterable[Candidate]) -> list[Candidate]:
    """Return shapes by their predicted finish, then by what they cost; refused ones last."""

    def key(c: Candidate) -> tuple[bool, float, float]:
        end = c.finish if c.finish is not None else c.answer.start
        never = float("inf")
        return (
            c.answer.start is None,
            end if end is not None else never,
            c.hours if c.hours is not None else never,
        )

    return sorted(found, key=key)


def script_of(config: RunConfig, run: RunDir) -> str:
    """Return the batch script of a shape; it may start from any folder that is there."""
    from .executor import batch_script

    text = batch_script(config, run)
    kept = [line for line in text.splitlines() if not line.startswith("#SBATCH --chdir=")]
    return "\n".join(kept) + "\n"


def ask(script: str) -> Answer:
    """Ask Slurm when a batch script's job would start. Nothing is submitted."""
    try:
        done = subprocess.run(
            ["sbatch", "--test-only"],
            input=script,
            capture_output=True,
            text=True,
            timeout=3 * SECONDS,
            check=False,
            cwd="/",
        )
    except FileNotFoundError:
        raise UsageError("sbatch is not on this machine") from None
    except subprocess.TimeoutExpired:
        return Answer(None, reason=f"sbatch took more than {3 * SECONDS} s")
    return parse_test_only(f"{done.stderr}\n{done.stdout}", done.returncode)


def line_of(arguments: Iterable[str], partition: str, nodes: int) -> str:
    """Return what to type for a shape: what was typed, with this partition and these nodes."""
    from .existing import command_line

    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in ("--nodes", "--partition"):
            next(words, None)
        elif word not in ("--probe", "--json") and not word.startswith(
            ("--nodes=", "--partition=")
        ):
            kept.append(word)
    return command_line("submit", *kept, "--partition", partition, "--nodes", str(nodes))


def show(found: list[Candidate], now: float | None = None) -> None:
    """Print the shapes as a table, and the line to type for each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .duration import words

    now = time.time() if now is None else now
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    unit = next((c.unit for c in found if c.unit), "hours")
    names = ["", "partition", "nodes × ranks", "micro-batches", "starts", "runs", "done in", unit]
    for name in names:
        table.add_column(name, overflow="fold")
    cheapest = min((c.hours for c in found if c.hours and c.answer.start), default=None)
    for place, c in enumerate(found, 1):
        if c.answer.start is None:
            continue
        wait = max(0.0, c.answer.start - now)
        spread = f" ±{c.error:.0%}" if c.error and c.error < 1 else ""
        cost = "" if c.hours is None else f"{c.hours:.3g}"
        table.add_row(
            str(place),
            Text(c.partition),
            f"{c.nodes} × {c.procs}",
            "" if c.accumulation is None else f"{c.accumulation:.1f}",
            "now" if wait < 5 else f"in {words(wait)}",
            "unknown" if c.seconds is None else f"{words(c.seconds)}{spread}",
            "unknown" if c.finish is None else words(max(0.0, c.finish - now)),
            f"{cost} (least)" if c.hours is not None and c.hours == cheapest else cost,
        )
    console.print(table)
    for place, c in enumerate(found, 1):
        if c.answer.start is None:
            text = f"refused: {c.partition}, {c.nodes} nodes: {c.answer.reason}"
            console.print(Text(text, style="yellow"), soft_wrap=True)
        else:
            console.print(Text(f"{place}  {c.line}"), soft_wrap=True)


def as_json(found: Iterable[Candidate]) -> str:
    """Return the shapes as one JSON object."""
    return json.dumps({"probe": [c.to_json() for c in found]}, ensure_ascii=False)
