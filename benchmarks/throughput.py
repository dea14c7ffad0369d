"""Speed side by side with the Hugging Face Trainer: examples a second of training, or evaluating.

    python -m benchmarks.throughput --data DIR [--tasks mnli] [--batches 256] [--out FILE.json]
    python -m benchmarks.throughput --data DIR --evaluation

Same model, token arrays, precision, global batch, ranks, threads, optimizer and clipping; one after
the other on this machine, in alternating order, each in processes of its own. Training is timed
from the end of the second optimizer step to the end of the last. The Trainer uses the batch size
that is fastest for the task and the sampling strategy; it stands in brackets behind its speed.
Of evaluation the second one in a process is timed: by then memory and kernels are there.
Prints a Markdown table of medians over the rounds. A ratio is that of the medians; in brackets
those of the single rounds, from the least to the greatest.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from training.config import RunConfig, UsageError, load_config, slug
from training.rundir import CACHE_FOLDER, read_metrics
from training.sources import model_folder

ROOT = Path(__file__).resolve().parents[1]
OURS = "glueline"
STRATEGIES = ("random", "group_by_length", "batch_rebalance")
"""Values of the Trainer's `train_sampling_strategy`; `random` is its default."""
ORDER_EVALUATION = ("random", "group_by_length")
"""Those that differ in evaluation: `batch_rebalance` orders training alone."""
WARM = 2
"""Optimizer steps that are not timed, in glueline's meters and in the peer."""
LAST_LINES = 20
"""Shown of a process that failed."""

Speeds = Mapping[str, float]
"""Examples a second by who was measured, in one round."""


def default_steps(batch: int) -> int:
    """Return the optimizer steps of a run: two, and three to six that are timed."""
    return WARM + min(6, max(3, 1536 // batch))


def fitting(sizes: Iterable[int], batches: Iterable[int], ranks: int) -> list[int]:
    """Return the micro-batch sizes that divide every global batch over the ranks."""
    batches = list(batches)
    return [size for size in sizes if all(batch % (size * ranks) == 0 for batch in batches)]


def running_order(peers: Sequence[str], number: int) -> list[str]:
    """Return who runs after whom in a round: glueline first in even rounds, last in odd ones."""
    return [*peers, OURS] if number % 2 else [OURS, *peers]


def median(rounds: Sequence[Speeds], name: str) -> float:
    """Return the median speed of one over the rounds."""
    return statistics.median(found[name] for found in rounds)


def ratio(rounds: Sequence[Speeds], peer: str) -> str:
    """Return how many times a peer's speed glueline has: of the medians, and by round."""
    whole = median(rounds, OURS) / median(rounds, peer)
    each = [found[OURS] / found[peer] for found in rounds]
    return f"{whole:.2f} ({min(each):.2f}–{max(each):.2f})"


def table_line(cells: Iterable[object]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def table_head(lead: Sequence[str], peers: Sequence[str]) -> str:
    """Return the two lines that open a table."""
    names = [*lead, *(f"Trainer {peer} ex/s" for peer in peers), f"{OURS} ex/s"]
    names += [f"× {peer}" for peer in peers]
    return f"{table_line(names)}\n|{'---|' * len(names)}"


def table_row(lead: Sequence[object], sizes: Mapping[str, int], rounds: Sequence[Speeds]) -> str:
    """Return the line of one task.

    Args:
        lead: the first cells.
        sizes: the Trainer's batch size by sampling strategy.
        rounds: what was measured.
    """
    theirs = [f"{median(rounds, peer):.1f} ({size})" for peer, size in sizes.items()]
    ratios = [ratio(rounds, peer) for peer in sizes]
    return table_line([*lead, *theirs, f"{median(rounds, OURS):.1f}", *ratios])


def fastest(tried: Mapping[int, float]) -> int:
    """Return the batch size with the greatest speed."""
    return max(tried, key=tried.__getitem__)


def evaluation_split(config: RunConfig) -> str:
    """Return the split to evaluate: one of the data set's own, not a hold-out of its train rows.

    Raises:
        click.ClickException: there is none.
    """
    task = config.task
    splits = task.test if task.holdout > 0 else task.validation
    if not splits:
        raise click.ClickException(f"task {task.name} has no split to evaluate")
    return splits[0]


def training_flags(task: str, batch: int, steps: int, seed: int) -> list[str]:
    """Return the flags of a run that trains on all training rows and evaluates nothing."""
    flags = ["--task", task, "--global-batch", str(batch), "--max-steps", str(steps)]
    flags += ["--seed", str(seed), "--set", "task.validation=", "--set", "task.test="]
    return [*flags, "--set", "task.holdout=0"]


def evaluation_flags(task: str, split: str) -> list[str]:
    """Return the flags of a run that evaluates a split twice, after small steps."""
    flags = ["--task", task, "--global-batch", "32", "--max-steps", "3", "--eval-every", "2"]
    flags += ["--log-every", "1", "--set", f"task.validation={split}"]
    return [*flags, "--set", "task.test=", "--set", "task.holdout=0"]


def last_evaluation(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds of a run's last evaluation.

    It begins when the line of the last step is written, and ends with its own line.
    """
    ended = {line["kind"]: line["time"] for line in metrics if line["kind"] in ("train", "eval")}
    return ended["eval"] - ended["train"]


def say(text: str) -> None:
    """Report progress."""
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}", err=True)


def execute(command: Sequence[str], **environment: str) -> str:
    """Run a process and return its output.

    Raises:
        click.ClickException: it failed; its last lines say why.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        env=os.environ | ours | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-LAST_LINES:]
        raise click.ClickException("\n".join([f"exit status {done.returncode}", *said]))
    return done.stdout


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Cell:
    """One configuration that all are measured with."""

    name: str
    """For people."""
    flags: Sequence[str]
    """What `submit` is told."""
    config: Path
    """What it makes of them."""
    tokens: Path
    """The tokenised rows."""
    rows: int
    """Rows of the split that is used."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share, and the two ways to measure."""

    data: Path
    model: str
    precision: str
    ranks: int
    rounds: int
    scratch: Path
    """Folder of the runs, of the rows tokenised once, and of what the peer writes."""

    @property
    def threads(self) -> int:
        """Threads of a rank, as many as glueline gives."""
        return max(1, cores() // self.ranks)

    @property
    def runs(self) -> Path:
        """The runs folder."""
        return self.scratch / "runs"

    def submit(self, *flags: str) -> str:
        """Run `submit` on this machine and return what it prints."""
        command = [sys.executable, str(ROOT / "launch" / "submit.py"), "--executor", "local"]
        command += ["--data", str(self.data), "--model", self.model, "--precision", self.precision]
        command += ["--procs-per-node", str(self.ranks), "--device", "cpu", "--tracker", "none"]
        return execute([*command, "--select", "last", "--runs", str(self.runs), *flags])

    def configure(self, name: str, flags: Sequence[str]) -> Path:
        """Return a file with the configuration that `submit` makes of flags."""
        text = json.loads(self.submit(*flags, "--dry-run", "--json"))["config"]
        file = self.scratch / f"{slug(name)}.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    def prepare(self, name: str, flags: Sequence[str], split: str | None = None) -> Cell:
        """Return a configuration with its rows tokenised: nobody who is timed does that.

        Args:
            name: for people, and of the configuration's file.
            flags: what `submit` is told.
            split: whose rows are used; none: the training rows.

        Raises:
            click.ClickException: rows or weights are wrong or not on this machine.
        """
        from training.data import ensure_tokens

        file = self.configure(name, flags)
        config = load_config(file)
        try:
            if model_folder(config.model) is None:
                raise UsageError(
                    f"model {self.model} has no weights on this machine: use --model FOLDER"
                )
            tokens = ensure_tokens(config, self.runs / CACHE_FOLDER)
        except UsageError as error:
            raise click.ClickException(str(error)) from None
        manifest = json.loads((tokens / "manifest.json").read_text(encoding="utf-8"))
        return Cell(
            name, flags, file, tokens, manifest["splits"][split or config.task.train]["rows"]
        )

    def glueline(self, cell: Cell) -> dict[str, Any]:
        """Train a run and return its results, and `lines`: those of `metrics.jsonl`.

        Its folder is removed again, since it holds weights.
        """
        folder = self.runs / "measured"
        try:
            self.submit(*cell.flags, "--name", folder.name, "--wait")
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            return results | {"lines": read_metrics(folder / "metrics.jsonl")}
        except KeyboardInterrupt:
            # A local run lives on without the process that follows it.
            cancel = [sys.executable, str(ROOT / "launch" / "cancel.py"), folder.name]
            subprocess.run([*cancel, "--runs", str(self.runs)], capture_output=True, check=False)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def trainer(self, cell: Cell, **options: Any) -> dict[str, Any]:
        """Run the Trainer with the same configuration and return what it measured.

        Raises:
            click.ClickException: it failed, or had other ranks or threads than glueline has.
        """
        out = self.scratch / "peer.json"
        paths = {"config": str(cell.config), "tokens": str(cell.tokens), "out": str(out)}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(self.ranks), "--module", "benchmarks.trainer_peer"]
        execute([*command, json.dumps(paths | options)], OMP_NUM_THREADS=str(self.threads))
        found = json.loads(out.read_text(encoding="utf-8"))
        out.unlink()
        if (found["ranks"], found["threads"]) != (self.ranks, self.threads):
            raise click.ClickException(f"the Trainer had other ranks or threads: {found}")
        return found


@dataclass
class Report:
    """Everything measured, written anew with each cell."""

    out: Path | None
    content: dict[str, Any] = field(default_factory=dict)

    def add(self, part: str, **values: Any) -> None:
        """Add one cell."""
        self.content.setdefault(part, []).append(values)
        if self.out is not None:
            self.out.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def train_once(bench: Bench, cell: Cell, name: str, micro: int = 0) -> dict[str, Any]:
    """Return what one training run measured.

    Raises:
        click.ClickException: glueline took other steps than the Trainer is given.
    """
    load = os.getloadavg()[0]
    if name != OURS:
        found = bench.trainer(cell, strategy=name, micro=micro)
    else:
        results = bench.glueline(cell)
        config = load_config(cell.config)
        wanted = (config.batch.global_batch * (config.train.max_steps or 0), bench.ranks)
        if (results["examples_seen"], results["world_size"]) != wanted:
            raise click.ClickException(f"glueline ran otherwise than asked: {results}")
        found = results["throughput"]
    size = f" ({micro} a micro-batch)" if micro else ""
    say(f"{cell.name}  {name}{size}: {found['examples_per_second']:.1f} examples/s")
    return {**found, "load_before": load}


def training_cell(bench: Bench, task: str, batch: int, steps: int, number: int) -> Cell:
    """Return what to train in a round (0: to choose the micro-batch): each draws its own rows.

    Raises:
        click.ClickException: the task has too few rows; an epoch's last step is no whole one.
    """
    name = f"{task} {batch} " + (f"round {number}/{bench.rounds}" if number else "trial")
    cell = bench.prepare(name, training_flags(task, batch, steps, seed=number))
    if cell.rows < batch * steps:
        raise click.ClickException(
            f"task {task} has {cell.rows} training rows: {steps} steps of {batch} need more"
        )
    return cell


def choose_micro(
    bench: Bench, peers: Sequence[str], cell: Cell, sizes: Sequence[int]
) -> tuple[dict[str, int], dict[str, dict[int, float]]]:
    """Return the fastest micro-batch for every sampling strategy, and all that was tried."""
    if len(sizes) == 1:
        return dict.fromkeys(peers, sizes[0]), {}
    tried = {
        peer: {
            size: train_once(bench, cell, peer, micro=size)["examples_per_second"] for size in sizes
        }
        for peer in peers
    }
    return {peer: fastest(speeds) for peer, speeds in tried.items()}, tried


def measure_training(
    bench: Bench,
    peers: Sequence[str],
    tasks: Sequence[str],
    batches: Sequence[int],
    steps: int | None,
    sizes: Sequence[int],
    report: Report,
) -> None:
    """Print the table of training speeds, each line as soon as it is known.

    Raises:
        click.ClickException: a run failed, or no micro-batch fits.
    """
    usable = fitting(sizes, batches, bench.ranks)
    if not usable:
        raise click.ClickException(
            f"no size of --peer-micro times {bench.ranks} ranks divides every global batch"
        )
    counts = {batch: steps or default_steps(batch) for batch in batches}
    # All of them before the first is timed: what is wrong shows at once.
    cells = {
        (task, batch): [
            training_cell(bench, task, batch, count, number + 1) for number in range(bench.rounds)
        ]
        for task in tasks
        for batch, count in counts.items()
    }
    click.echo(table_head(("task", "global batch"), peers))
    for task in tasks:
        least = min(batches)
        trial = training_cell(bench, task, least, min(counts[least], WARM + 3), 0)
        micro, tried = choose_micro(bench, peers, trial, usable)
        for batch in batches:
            rounds = [
                {
                    name: train_once(bench, cell, name, micro.get(name, 0))
                    for name in running_order(peers, number)
                }
                for number, cell in enumerate(cells[task, batch])
            ]
            speeds = [{k: v["examples_per_second"] for k, v in r.items()} for r in rounds]
            click.echo(table_row((task, batch), micro, speeds))
            report.add(
                "training",
                task=task,
                global_batch=batch,
                steps=counts[batch],
                micro=micro,
                micro_tried=tried,
                rounds=rounds,
            )


def evaluate_once(
    bench: Bench, cell: Cell, name: str, sizes: Sequence[int] = (0,)
) -> dict[int, float]:
    """Return examples a second by the Trainer's batch size; glueline's own has none."""
    if name == OURS:
        seconds = {0: last_evaluation(bench.glueline(cell)["lines"])}
    else:
        found = bench.trainer(cell, strategy=name, evaluate=list(sizes))
        seconds = {int(size): value for size, value in found["seconds"].items()}
    speeds = {size: cell.rows / value for size, value in seconds.items()}
    for size, speed in speeds.items():
        batch = f" (batches of {size})" if size else ""
        say(f"{cell.name}  {name}{batch}: {speed:.1f} examples/s")
    return speeds


def measure_evaluation(
    bench: Bench,
    peers: Sequence[str],
    tasks: Sequence[str],
    sizes: Sequence[int],
    report: Report,
) -> None:
    """Print the table of evaluation speeds, each line as soon as it is known.

    Raises:
        click.ClickException: a run failed, or nothing is to be compared.
    """
    peers = [peer for peer in peers if peer in ORDER_EVALUATION]
    if not peers:
        raise click.ClickException(f"--peers: evaluation has {' and '.join(ORDER_EVALUATION)}")
    cells: dict[str, Cell] = {}
    splits = {}
    for task in tasks:
        splits[task] = evaluation_split(load_config(bench.configure(task, ["--task", task])))
        flags = evaluation_flags(task, splits[task])
        cells[task] = bench.prepare(f"{task} {splits[task]}", flags, splits[task])
    click.echo(table_head(("task", "split", "rows"), peers))
    for task, cell in cells.items():
        tried = {peer: evaluate_once(bench, cell, peer, sizes) for peer in peers}
        best = {peer: fastest(speeds) for peer, speeds in tried.items()}
        rounds: list[dict[str, float]] = []
        for number in range(bench.rounds):
            found: dict[str, float] = {}
            for name in running_order(peers, number):
                (found[name],) = evaluate_once(bench, cell, name, [best.get(name, 0)]).values()
            rounds.append(found)
        click.echo(table_row((task, splits[task], cell.rows), best, rounds))
        report.add(
            "evaluation",
            task=task,
            split=splits[task],
            rows=cell.rows,
            batch=best,
            batch_tried=tried,
            rounds=rounds,
        )


class Listed(click.ParamType):
    """A comma-separated list: of whole numbers from 1 on, or of words."""

    name = "list"

    def __init__(self, numbers: bool = False, choices: Sequence[str] = ()) -> None:
        self.numbers, self.choices = numbers, choices

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        """Return the items of what was typed."""
        if not isinstance(value, str):
            return tuple(value)
        items = [item.strip() for item in value.split(",") if item.strip()]
        wrong = [
            item
            for item in items
            if (self.numbers and not (item.isdecimal() and int(item) > 0))
            or (self.choices and item not in self.choices)
        ]
        if wrong or not items:
            wanted = ", ".join(self.choices) or ("numbers" if self.numbers else "names")
            self.fail(f"{value!r}: expected {wanted}, with commas between", param, ctx)
        return tuple(int(item) if self.numbers else item for item in dict.fromkeys(items))


NUMBERS = Listed(numbers=True)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with glue/ and ag_news/ in hub layout.",
)
@click.option("--tasks", type=Listed(), default="mnli,sst2,ag_news", show_default=True)
@click.option("--batches", type=NUMBERS, default="256,1024", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(min=WARM + 1),
    help="Optimizer steps of a run, the two that are not timed among them.  "
    "[default: 8 of 256, 5 of 1024]",
)
@click.option("--ranks", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--model", default="minilm", show_default=True)
@click.option(
    "--peers",
    type=Listed(choices=STRATEGIES),
    default=",".join(STRATEGIES),
    show_default=True,
    help="Sampling strategies of the Trainer.",
)
@click.option(
    "--peer-micro",
    type=NUMBERS,
    default="16,32",
    show_default=True,
    help="Micro-batches that the Trainer may choose from.",
)
@click.option("--evaluation", is_flag=True, help="Measure evaluation instead of training.")
@click.option(
    "--peer-eval",
    type=NUMBERS,
    default="8,32,64",
    show_default=True,
    help="Batches that the Trainer may choose from to evaluate.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="JSON file for all that was measured.",
)
def main(
    data: Path,
    tasks: tuple[str, ...],
    batches: tuple[int, ...],
    rounds: int,
    steps: int | None,
    ranks: int,
    precision: str,
    model: str,
    peers: tuple[str, ...],
    peer_micro: tuple[int, ...],
    evaluation: bool,
    peer_eval: tuple[int, ...],
    out: Path | None,
) -> None:
    """Print the table."""
    packages = ("torch", "transformers", "accelerate", "numpy")
    report = Report(
        out,
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "cpu": cpu_model(),
            "cores": cores(),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "model": model,
            "precision": precision,
            "ranks": ranks,
            "threads_a_rank": max(1, cores() // ranks),
        },
    )
    with tempfile.TemporaryDirectory(prefix="glueline-throughput-") as scratch:
        bench = Bench(data.resolve(), model, precision, ranks, rounds, Path(scratch))
        if evaluation:
            measure_evaluation(bench, peers, tasks, peer_eval, report)
        else:
            measure_training(bench, peers, tasks, batches, steps, peer_micro, report)


if __name__ == "__main__":
    main()
