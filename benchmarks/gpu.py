"""All that needs a GPU, in one run of a few minutes: is it right, is it fast, and against whom.

    python -m benchmarks.gpu [--out FILE.json] [--minutes 8]
    python -m benchmarks.gpu --device cpu --small        the same code at toy size, without a GPU

It needs one GPU and nothing else: no network, no weights, no data. Weights and token ids are
random, the sizes of the models and the lengths of the rows are real ones. Markdown tables go to
stdout, each row as soon as it is known:

1. the machine: what it is, and what it reaches on matrix products and copies;
2. conformance: one update of every engine in every precision, from a global batch cut in three
   uneven micro-batches, the last one empty, against one float64 batch on the same weights;
3. training: examples a second and MFU on real tokens of the training loop itself (`Loop`, `Feed`
   and `Engine`), eager and compiled;
4. the Hugging Face Trainer beside it: same model, rows, precision and global batch.

3 and 4 are printed for one size of model after the other. glueline takes the same steps twice or
more and is timed the last time, when what is compiled, recorded and allocated is there: `first s`
are the seconds of the times before, `micro-batches` those of a step, `shapes` how many shapes they
had in the timed steps. The Trainer is timed from the end of its second step, with the best
micro-batch. Where the GPU is large enough, what is compiled is prepared during part 2, side by
side; nothing is timed before all is quiet.

Rows run in processes of their own. One that fails says why and the rest goes on; one that no
longer fits into --minutes is skipped. The exit status is 0; it is 1 if a row failed or a row of
part 2 was out of its bound or skipped (speeds that there was no time for are no failure); it is 2
where there is no GPU.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from launch.auto import GPU_TOKENS

ROOT = Path(__file__).resolve().parents[1]
SHORTEST, LONGEST = 4, 128
MEAN_LENGTH = 39.0
"""Mean tokens of MNLI's pairs under BERT's vocabulary."""
LABELS = 3

MODES = {"eager": "none", "layers": "layers", "graphs": "graphs"}
"""`engine.compile` by the name in the tables."""
PRECISIONS = ("fp32", "bf16", "fp16")
ZERO = {"ZeRO 0": 0, "ZeRO 1": 1, "ZeRO 2": 2, "ZeRO 3": 3}

BOUNDS = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 5e-3}
"""Largest relative error of an update against float64.

fp32 rounds by 2^-24 = 6e-8; sums over a few hundred terms in four layers forward and backward stay
below 1e-6 (a CPU has 6e-7), and one example of wrong weight would be above 1e-2. bf16 rounds by
2^-9 = 2e-3 and fp16 by 2^-12 = 2.4e-4, at every product on the way: 8e-3 and 1e-3 on a CPU. The
bounds are about four times that; fp16 without a loss scale, which loses small gradients, has 1.4e-2
and fails.
"""
BESIDE_DDP = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
"""Largest relative difference to DDP's update in the same precision.

Both round alike, apart from the order of sums, which turns over the last bit of a half precision
number here and there: a third of the error that the precision itself may have. A CPU has 2e-7.
"""

NO_TIME = "no time left"
PREPARE_SHARE = 0.55
"""Of the time: what is not prepared by then is given up, so that the rest can be timed."""
ROW_SECONDS = 100.0
"""A row that takes longer has hung."""
ROOMY = 70e9
"""Bytes of GPU memory from which several prepared processes fit beside each other."""
LAST_LINES = 40
"""Of a failed process, in the JSON file."""


@dataclass(frozen=True)
class Size:
    """A BERT by its sizes."""

    name: str
    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int = 30522


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    sizes: tuple[Size, ...]
    steps: Mapping[int, int]
    """Timed steps by global batch, in the order of the rows."""
    trainer_steps: Mapping[int, int]
    """The Trainer's, two untimed ones not counted."""
    trainer_micro: tuple[int, ...]
    micro_tokens: int
    conformance: Size
    conformance_batch: int
    edge: int
    """Of the square matrices of the probe."""
    copied: int
    """Bytes that the bandwidth probe copies, at most."""


FULL = Scale(
    sizes=(Size("BERT-base", 12, 768, 12, 3072), Size("BERT-large", 24, 1024, 16, 4096)),
    steps={256: 16, 32: 40, 4096: 4},
    trainer_steps={256: 8, 32: 30, 4096: 2},
    trainer_micro=(32, 64, 128, 256),
    micro_tokens=GPU_TOKENS,
    conformance=Size("small", 4, 256, 4, 1024, 2000),
    conformance_batch=48,
    edge=8192,
    copied=4 << 30,
)
SMALL = Scale(
    sizes=(Size("toy", 2, 64, 4, 128, 1000),),
    steps={32: 3, 8: 4},
    trainer_steps={32: 2, 8: 3},
    trainer_micro=(8, 32),
    micro_tokens=2048,
    conformance=Size("toy", 2, 64, 4, 128, 500),
    conformance_batch=24,
    edge=512,
    copied=64 << 20,
)


def mnli_lengths(rows: int, seed: int) -> NDArray[np.int64]:
    """Return lengths in tokens that are spread like MNLI's: long-tailed, 39 in the mean.

    A gamma distribution of shape 3.5 has a standard deviation of 21 around that mean and one row
    in twenty above 79, clipped to 4..128.
    """
    shape = 3.5
    drawn = np.random.default_rng(seed).gamma(shape, MEAN_LENGTH / shape, rows)
    return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)


@dataclass(frozen=True)
class Outcome:
    """What became of a row."""

    state: Literal["ok", "failed", "cannot", "skipped"]
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What stands in the table where there is no number."""
        if self.state == "cannot":
            return f"cannot, because {self.reason}"
        return f"{self.state}: {self.reason}" if self.reason else self.state


SKIPPED = Outcome("skipped", NO_TIME)


class Deadline:
    """The time that the whole run may take."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.seconds = clock, seconds
        self._start = clock()

    def spent(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._start

    def left(self) -> float:
        """Return the seconds that are left, never below 0."""
        return max(0.0, self.seconds - self.spent())


def one_line(text: str, longest: int = 160) -> str:
    """Return text as one short line that fits into a cell of a table."""
    flat = " ".join(text.split()).replace("|", "/")
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def last_words(log: str) -> str:
    """Return the line of a process's output that best says why it ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line or "Killed" in line]
    return one_line((errors or lines or ["it said nothing"])[-1])


def table_line(cells: Iterable[object]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def table_head(names: Sequence[str]) -> str:
    """Return the two lines that open a table."""
    return f"{table_line(names)}\n|{'---|' * len(names)}"


def padded_line(lead: Sequence[object], outcome: Outcome, width: int) -> str:
    """Return the line of a row without numbers: its first cells, then why."""
    return table_line([*lead, outcome.text, *[""] * (width - len(lead) - 1)])


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with separated thousands; a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """Return a share in percent; a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}%"


def relative(update: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the norm of a difference over the norm of the reference."""
    return float(np.linalg.norm(update - reference) / np.linalg.norm(reference))


CONFORMANCE = (
    "engine",
    "precision",
    "error against float64",
    "bound",
    "difference to DDP",
    "bound",
    "weights out",
    "ok",
)


def conforms(values: Mapping[str, Any], precision: str, beside: float | None) -> bool:
    """Return whether a row of part 2 is within its bounds; NaN never is."""
    return (
        values["error"] <= BOUNDS[precision]
        and (beside is None or beside <= BESIDE_DDP[precision])
        and values["dtypes"] == ["torch.float32"]
    )


def conformance_line(engine: str, precision: str, outcome: Outcome, beside: float | None) -> str:
    """Return a line of part 2.

    Args:
        engine: as the table names it.
        precision: of the row.
        outcome: what the process found.
        beside: relative difference to DDP's update in this precision; none for DDP itself.
    """
    if outcome.state != "ok":
        return padded_line((engine, precision), outcome, len(CONFORMANCE))
    compared = ("–", "–") if beside is None else (f"{beside:.1e}", f"{BESIDE_DDP[precision]:.0e}")
    return table_line(
        (
            engine,
            precision,
            f"{outcome.values['error']:.1e}",
            f"{BOUNDS[precision]:.0e}",
            *compared,
            ", ".join(name.removeprefix("torch.") for name in outcome.values["dtypes"]),
            "yes" if conforms(outcome.values, precision, beside) else "NO",
        )
    )


TRAINING = (
    "model",
    "global batch",
    "mode",
    "examples/s",
    "real tokens/s",
    "padding eff.",
    "MFU",
    "ms/step",
    "data wait",
    "peak GB",
    "first s",
    "micro-batches",
    "shapes",
    "note",
)


def training_line(size: str, batch: int, mode: str, outcome: Outcome) -> str:
    """Return a line of part 3."""
    if outcome.state != "ok":
        return padded_line((size, batch, mode), outcome, len(TRAINING))
    v = outcome.values
    return table_line(
        (
            size,
            batch,
            mode,
            number(v["examples_per_second"]),
            number(v["real_tokens_per_second"]),
            share(v["padding_efficiency"]),
            share(v["mfu"]),
            number(1000 * v["train_seconds"] / v["steps"], 1),
            share(v["data_wait_share"]),
            number(v["peak_gb"], 1),
            number(v["first_seconds"], 1),
            number(v["micro_batches"], 1),
            v["shapes"],
            v["note"],
        )
    )


TRAINER = (
    "model",
    "global batch",
    "Trainer examples/s",
    "its micro-batch",
    "its padding eff.",
    "all its micro-batches",
    "peak GB",
    "glueline eager",
    "× Trainer",
    "glueline best",
    "× Trainer",
)


def trainer_line(size: str, batch: int, outcome: Outcome, ours: Mapping[str, float]) -> str:
    """Return a line of part 4.

    Args:
        size: name of the model.
        batch: global batch.
        outcome: what the Trainer did.
        ours: glueline's examples a second by mode, of the rows of part 3 that went well.
    """
    if outcome.state != "ok":
        return padded_line((size, batch), outcome, len(TRAINER))
    v = outcome.values
    theirs = v["examples_per_second"]
    eager = ours.get("eager")
    best = max(ours, key=ours.__getitem__) if ours else None
    return table_line(
        (
            size,
            batch,
            number(theirs),
            v["micro"],
            share(v["padding_efficiency"]),
            ", ".join(f"{micro}: {number(speed)}" for micro, speed in v["tried"].items()),
            number(v["peak_gb"], 1),
            number(eager),
            number(eager / theirs if eager else None, 2),
            f"{number(ours[best])} ({best})" if best else "–",
            number(ours[best] / theirs if best else None, 2),
        )
    )


def exit_status(rows: Iterable[Mapping[str, Any]]) -> int:
    """Return the exit status of a run from the rows of its report (`part`, `state`, `ok`)."""
    for row in rows:
        if row["state"] == "failed" or row.get("ok") is False:
            return 1
        if row["part"] == "conformance" and row["state"] == "skipped":
            return 1
    return 0


def micro_batches(sizes: Sequence[int], batch: int, fast: Collection[int]) -> list[int]:
    """Return the sizes of micro-batch to try: those that divide the batch, the fast ones if any."""
    usable = [size for size in sizes if batch % size == 0]
    return [size for size in usable if size in fast] or usable


def say(text: str) -> None:
    """Report progress, beside the tables."""
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}", err=True)


_PORTS: set[int] = set()
"""Given to workers that may not listen on them yet."""


def free_port() -> int:
    """Return a port that nobody listens on, never the same twice."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        if port not in _PORTS:
            _PORTS.add(port)
            return port


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def worker_environment(scratch: Path, distributed: bool, threads: int) -> dict[str, str]:
    """Return the environment of a worker.

    Args:
        scratch: a folder for compiled code, so that compilation is timed from nothing.
        distributed: whether it is a rank, as torchrun would start the only one.
        threads: that compile at the same time.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {
        "PYTHONPATH": paths,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
    }
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    if distributed:
        ours |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        ours |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        # One process of one machine: the name of the host need not be known to anybody.
        ours |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        # Accelerate refuses some GPUs without a link to others until it is told that there is none.
        ours |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    return kept | ours


class Worker:
    """A process that measures some rows; it prepares, waits to be told, and then begins.

    It writes a line of JSON for each row to its stdout: `row`, `state`, `reason`, `values`; and
    `{"ready": true}` when all that comes is worth timing.
    """

    def __init__(self, name: str, job: Mapping[str, Any], rows: Sequence[str]) -> None:
        self.name, self.job, self._missing = name, dict(job), list(rows)
        self._early: list[tuple[str, Outcome]] = []
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._log: Path | None = None
        self._ready = False

    @property
    def started(self) -> bool:
        """Whether it runs, or has run."""
        return self._process is not None

    def start(self, scratch: Path, threads: int) -> None:
        """Start to prepare."""
        own = Path(tempfile.mkdtemp(prefix="worker-", dir=scratch))
        self._log = own / "log"
        distributed = self.job["job"] in ("conformance", "train")
        command = [sys.executable, "-m", "benchmarks.gpu_worker"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(self.job | {"scratch": str(own)})],
                cwd=own,
                env=worker_environment(own, distributed, threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # it has children that compile; they end with it
            )
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            self._messages.put(message)
        self._messages.put(None)

    def wait_ready(self, seconds: float) -> None:
        """Wait until it is prepared; one that is not in time is stopped."""
        until = time.monotonic() + seconds
        while not self._ready and self._missing:
            try:
                message = self._messages.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self.stop()
                self._give_up(Outcome("skipped", f"not prepared after {seconds:.0f} s"))
                return
            if message is None:
                self._give_up(Outcome("failed", self._why()))
            elif "ready" in message:
                self._ready = True
            elif message.get("row") in self._missing:
                self._early.append(self._outcome(message))

    def outcomes(self, deadline: Deadline, limit: float = ROW_SECONDS) -> Iterator[Any]:
        """Tell it to begin; yield each row's name and outcome as they come, for every row."""
        yield from self._early
        self._early = []
        if self._missing:
            self._tell()
        while self._missing:
            wait = min(limit, deadline.left())
            try:
                message = self._messages.get(timeout=wait)
            except queue.Empty:
                self.stop()
                late = Outcome("failed", f"took longer than {limit:.0f} s")
                self._give_up(late if wait == limit else SKIPPED)
            else:
                if message is None:
                    self._give_up(Outcome("failed", self._why()))
                elif message.get("row") in self._missing:
                    yield self._outcome(message)
            yield from self._early
            self._early = []
        self._leave()

    def _tell(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended; what it said last is on its way

    def _outcome(self, message: Mapping[str, Any]) -> tuple[str, Outcome]:
        self._missing.remove(message["row"])
        values = message.get("values") or {}
        return message["row"], Outcome(message["state"], message.get("reason", ""), values)

    def _give_up(self, outcome: Outcome) -> None:
        self._early += [(row, outcome) for row in self._missing]
        self._missing = []

    def _why(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its output and runs on"
        return one_line(f"exit status {status}: {last_words(self.log())}")

    def log(self) -> str:
        """Return what the process wrote to stderr."""
        if self._log is None or not self._log.is_file():
            return ""
        return self._log.read_text(errors="replace")

    def _leave(self) -> None:
        """Let it end, so that the next one has the GPU to itself."""
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(timeout=15)
            except (OSError, subprocess.TimeoutExpired):
                pass
        self.stop()

    def stop(self) -> None:
        """End it and what it started."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()


@dataclass
class Report:
    """Every row, written anew with each of them."""

    out: Path | None
    content: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, outcome: Outcome, log: str = "", **place: Any) -> None:
        """Add a row.

        Args:
            part: of the benchmark.
            outcome: of the row.
            log: what its process wrote; its end is kept for a row that failed.
            **place: what tells the row from others of its part.
        """
        row = {"part": part, **place, "state": outcome.state, "reason": outcome.reason}
        if outcome.state == "failed":
            row["log"] = log.splitlines()[-LAST_LINES:]
        self.rows.append(row | dict(outcome.values))
        if self.out is not None:
            text = json.dumps({**self.content, "rows": self.rows}, indent=1)
            self.out.write_text(text + "\n", encoding="utf-8")


@dataclass
class Bench:
    """What all parts share."""

    device: str
    scale: Scale
    deadline: Deadline
    scratch: Path
    report: Report
    machine: Mapping[str, Any] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def worker(self, name: str, rows: Sequence[object], **job: Any) -> Worker:
        """Return a worker that is not started yet."""
        made = Worker(name, job | {"device": self.device}, [str(row) for row in rows])
        self.workers.append(made)
        return made

    def stop(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.stop()

    def lacks(self, *packages: str) -> Outcome | None:
        """Return why rows that need these packages cannot be measured."""
        for package in packages:
            if not self.machine["versions"].get(package):
                return Outcome("cannot", f"{package} is not installed")
        return None

    @property
    def precision(self) -> str:
        """Of speeds: bf16, or fp32 on a CPU that has none."""
        return "bf16" if self.machine["bf16"] else "fp32"

    @property
    def roomy(self) -> bool:
        """Whether workers may be prepared beside each other."""
        return self.machine["memory"] >= ROOMY and cores() >= 8

    @property
    def threads(self) -> int:
        """Threads that one worker compiles with."""
        return max(1, cores() // (4 if self.roomy else 1))


def measure_machine(bench: Bench) -> Outcome:
    """Print part 1 and return what was found."""
    scale = bench.scale
    worker = bench.worker(
        "machine", ["machine"], job="machine", edge=scale.edge, copied=scale.copied
    )
    worker.start(bench.scratch, threads=1)
    ((_, outcome),) = list(worker.outcomes(bench.deadline))
    if outcome.state != "ok":
        bench.report.add("machine", outcome, worker.log())
        return outcome
    bench.machine = found = outcome.values
    versions = ", ".join(f"{k} {v or 'absent'}" for k, v in found["versions"].items())
    click.echo("## 1. Machine\n")
    click.echo(table_head(("what", "found")))
    click.echo(table_line(("device", found["name"])))
    click.echo(table_line(("memory", f"{found['memory'] / 2**30:.1f} GiB")))
    click.echo(table_line(("cores", cores())))
    click.echo(table_line(("versions", versions)))
    for precision, peak in found["peaks"].items():
        shown = f"{number(peak / 1e12, 1)} TFLOP/s" if peak else "–"
        click.echo(table_line((f"matrix product {scale.edge}³, {precision}", shown)))
    shown = f"{number(found['bandwidth'] / 1e9)} GB/s, read and written"
    click.echo(table_line(("device copy", shown)))
    click.echo()
    bench.report.add("machine", outcome)
    return outcome


def conformance_jobs(bench: Bench) -> list[tuple[str, str, Worker | Outcome]]:
    """Return engine, precision, and who measures it or why nobody can, in the order of the table.

    Every pair has a process of its own: Accelerate and DeepSpeed keep state for a whole process.
    """
    scale, found = bench.scale, []
    common = {"size": asdict(scale.conformance), "batch": scale.conformance_batch}
    pairs: list[tuple[str, str, int | None, str]] = []
    for precision in PRECISIONS:
        pairs += [("DDP", precision, None, "none")]
        pairs += [(name, precision, stage, "none") for name, stage in ZERO.items()]
        if precision == "bf16":
            pairs += [(f"DDP, {mode}", precision, None, mode) for mode in ("layers", "graphs")]
    for engine, precision, stage, compiled in pairs:
        packages = ("transformers", "accelerate", *(() if stage is None else ("deepspeed",)))
        cannot = bench.lacks(*packages)
        if compiled == "graphs" and bench.device == "cpu":
            cannot = Outcome("cannot", "CUDA graphs need a GPU")
        worker = bench.worker(
            f"{engine} {precision}",
            ["update"],
            job="conformance",
            zero=stage,
            precision=precision,
            compile=compiled,
            **common,
        )
        found.append((engine, precision, cannot or worker))
    return found


def check_conformance(bench: Bench) -> None:
    """Print part 2."""
    jobs = conformance_jobs(bench)

    def check(job: Worker | Outcome) -> tuple[Outcome, str]:
        if isinstance(job, Outcome):
            return job, ""
        if bench.deadline.left() < 1:
            return SKIPPED, ""
        job.start(bench.scratch, bench.threads)
        ((_, outcome),) = list(job.outcomes(bench.deadline, 2 * ROW_SECONDS))
        say(f"{job.name}: {outcome.text}")
        return outcome, job.log()

    at_once = min(8, max(1, cores() // 2)) if bench.device == "cuda" else min(2, cores())
    with ThreadPoolExecutor(at_once) as pool:
        try:
            results = list(pool.map(check, [job for _, _, job in jobs]))
        except BaseException:  # interrupted: the pool would wait for all of them
            pool.shutdown(wait=False, cancel_futures=True)
            bench.stop()
            raise
    updates: dict[str, NDArray[np.float64]] = {}
    click.echo("## 2. Conformance: one update of three uneven micro-batches, one of them empty\n")
    click.echo(table_head(CONFORMANCE))
    for (engine, precision, _), (outcome, log) in zip(jobs, results, strict=True):
        beside = None
        values = dict(outcome.values)
        if outcome.state == "ok":
            update = np.load(values.pop("file"))
            if engine == "DDP":
                updates[precision] = update
            elif precision in updates:
                beside = relative(update, updates[precision])
        plain = Outcome(outcome.state, outcome.reason, values)
        click.echo(conformance_line(engine, precision, plain, beside))
        place: dict[str, Any] = {"engine": engine, "precision": precision, "beside_ddp": beside}
        if outcome.state == "ok":
            place["ok"] = conforms(values, precision, beside)
        bench.report.add("conformance", plain, log, **place)
    click.echo()


def training_jobs(bench: Bench) -> dict[tuple[str, str], Worker | Outcome]:
    """Return who measures the rows of a size and a mode, or why nobody can."""
    scale, jobs = bench.scale, {}
    for size in scale.sizes:
        for mode, compiled in MODES.items():
            cannot = bench.lacks("transformers", "accelerate")
            if mode == "graphs" and bench.device == "cpu":
                cannot = Outcome("cannot", "CUDA graphs need a GPU")
            jobs[size.name, mode] = cannot or bench.worker(
                f"{size.name} {mode}",
                list(scale.steps),
                job="train",
                size=asdict(size),
                compile=compiled,
                precision=bench.precision,
                steps=list(scale.steps.items()),
                micro_tokens=scale.micro_tokens,
                peak=bench.machine["peaks"][bench.precision],
            )
    return jobs


def measured(
    bench: Bench, job: Worker | Outcome, rows: Iterable[int]
) -> Iterator[tuple[int, Outcome, str]]:
    """Yield every row's outcome and the log of its process; start the process where it is not."""
    if isinstance(job, Outcome):
        yield from ((row, job, "") for row in rows)
        return
    if not job.started:
        if bench.deadline.left() < 5:
            yield from ((row, SKIPPED, "") for row in rows)
            return
        say(f"{job.name}: preparing")
        job.start(bench.scratch, bench.threads)
        left = bench.deadline.left()
        job.wait_ready(min(left, max(2 * ROW_SECONDS, left / 2)))
    say(f"{job.name}: measuring")
    for row, outcome in job.outcomes(bench.deadline):
        yield int(row), outcome, job.log()


def measure_training(
    bench: Bench, size: Size, jobs: Mapping[tuple[str, str], Worker | Outcome]
) -> dict[int, dict[str, float]]:
    """Print part 3 for a size; return examples a second by global batch and mode."""
    click.echo(f"## 3. Training, {size.name}, {bench.precision}\n")
    click.echo(table_head(TRAINING))
    speeds: dict[int, dict[str, float]] = {batch: {} for batch in bench.scale.steps}
    for mode in MODES:
        for batch, outcome, log in measured(bench, jobs[size.name, mode], bench.scale.steps):
            click.echo(training_line(size.name, batch, mode, outcome))
            place = {"model": size.name, "global_batch": batch, "mode": mode}
            bench.report.add("training", outcome, log, **place)
            if outcome.state == "ok":
                speeds[batch][mode] = outcome.values["examples_per_second"]
    click.echo()
    return speeds


def trainer_job(bench: Bench, size: Size) -> Worker | Outcome:
    """Return who measures the Trainer with a size."""
    scale = bench.scale
    return bench.lacks("transformers", "accelerate") or bench.worker(
        f"{size.name} Trainer",
        list(scale.trainer_steps),
        job="trainer",
        size=asdict(size),
        precision=bench.precision,
        steps=list(scale.trainer_steps.items()),
        micro=list(scale.trainer_micro),
    )


def measure_trainer(
    bench: Bench, size: Size, job: Worker | Outcome, ours: Mapping[int, Mapping[str, float]]
) -> None:
    """Print part 4 for a size."""
    click.echo(f"## 4. Hugging Face Trainer, {size.name}, {bench.precision}\n")
    click.echo(table_head(TRAINER))
    for batch, outcome, log in measured(bench, job, bench.scale.trainer_steps):
        click.echo(trainer_line(size.name, batch, outcome, ours[batch]))
        place = {"model": size.name, "global_batch": batch}
        bench.report.add("trainer", outcome, log, **place)
    click.echo()


def wait_for_quiet(bench: Bench, workers: Iterable[Worker]) -> None:
    """Wait until nobody prepares any more, so that nobody disturbs what is timed."""
    for worker in workers:
        if worker.started:
            worker.wait_ready(
                max(1.0, PREPARE_SHARE * bench.deadline.seconds - bench.deadline.spent())
            )
            say(f"{worker.name}: prepared or given up")


def run(bench: Bench) -> None:
    """Print all parts.

    Raises:
        click.ClickException: the machine could not be measured.
        SystemExit: there is no GPU.
    """
    outcome = measure_machine(bench)
    if outcome.state == "cannot":
        click.echo(f"benchmarks.gpu: {outcome.reason}", err=True)
        sys.exit(2)
    if outcome.state != "ok":
        raise click.ClickException(f"the machine could not be measured: {outcome.text}")
    sizes = bench.scale.sizes
    training = training_jobs(bench)
    trainers = {size.name: trainer_job(bench, size) for size in sizes}
    workers = [job for job in (*training.values(), *trainers.values()) if isinstance(job, Worker)]
    if bench.roomy:
        for worker in workers:
            worker.start(bench.scratch, bench.threads)
    check_conformance(bench)
    wait_for_quiet(bench, workers)
    for size in sizes:
        ours = measure_training(bench, size, training)
        measure_trainer(bench, size, trainers[size.name], ours)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="JSON file for all that was measured, and the last lines of what failed.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="What no longer fits is skipped.",
)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option(
    "--micro-tokens",
    type=click.IntRange(min=LONGEST),
    help=f"Padded tokens of glueline's micro-batches.  [default: {GPU_TOKENS}]",
)
@click.option("--small", is_flag=True, help="Toy sizes: for trying the benchmark itself.")
def main(
    out: Path | None, minutes: float, device: str, micro_tokens: int | None, small: bool
) -> None:
    """Print the tables."""
    content = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "device": device, "small": small}
    scale = SMALL if small else FULL
    if micro_tokens:
        scale = replace(scale, micro_tokens=micro_tokens)
    report = Report(out.absolute() if out else None, content)
    # A few seconds are kept to end in.
    deadline = Deadline(60 * minutes - min(5.0, 6 * minutes))
    with tempfile.TemporaryDirectory(prefix="glueline-gpu-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(device, scale, deadline, Path(scratch), report)
        try:
            run(bench)
        finally:
            bench.stop()
    states = [row["state"] for row in report.rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    click.echo(f"{deadline.spent():.0f} s; rows: {counts}")
    sys.exit(exit_status(report.rows))


if __name__ == "__main__":
    # Workers outlive a process that is only killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
