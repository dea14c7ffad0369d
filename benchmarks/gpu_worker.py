"""One process of `benchmarks.gpu`: measures what the JSON on its command line says.

It writes JSON lines to stdout, see `benchmarks.gpu.Worker`; what libraries print goes to stderr.
What is compiled is compiled before it says that it is ready; what is timed begins with the line
that it reads from stdin then.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.metadata
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.cuda import nccl
from torch.nn import functional

from benchmarks.gpu import LABELS, LONGEST, Size, micro_batches, mnli_lengths, one_line
from training.config import (
    BatchConfig,
    EngineConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
    UsageError,
)
from training.tokens import TokenData, TokenSplit, collate

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "triton", "numpy")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SEED = 1
WARM = 2
"""Optimizer steps of the Trainer that are not timed."""
NEAR = 0.8
"""The Trainer's micro-batches that reach this share of the best at the first global batch are
tried at the others."""
LR = 0.05
EPS = 1e-3
REHEARSALS = 2
"""Conformance steps at learning rate 0: CUDA graphs warm up in the first and are recorded in the
second, so that the step that counts replays them."""
ATTEMPTS = 24
"""Steps until fp16's loss scale must have found its place: each overflow halves it."""


class Channel:
    """The way to the parent: lines of JSON on what was stdout."""

    def __init__(self, out: IO[str], given: IO[str]) -> None:
        self._out, self._given = out, given

    def _write(self, message: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def ready(self) -> None:
        """Say that all is prepared, and wait to be told to begin."""
        self._write({"ready": True})
        if not self._given.readline():
            raise SystemExit("nobody is there any more")

    def ok(self, row: object, **values: Any) -> None:
        """Report what was found."""
        self._write({"row": str(row), "state": "ok", "values": values})

    def failed(self, row: object, error: BaseException) -> None:
        """Report why a row could not be measured."""
        traceback.print_exception(error)
        if isinstance(error, UsageError):
            self._write({"row": str(row), "state": "cannot", "reason": one_line(str(error))})
            return
        reason = one_line(f"{type(error).__name__}: {error}")
        self._write({"row": str(row), "state": "failed", "reason": reason})


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], Any], device: str, times: int = 10) -> float:
    """Return the median time of some work after three runs that do not count."""
    for _ in range(3):
        work()
    synchronize()
    found = []
    for _ in range(times):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1000)
        else:
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def version(package: str) -> str | None:
    """Return the version of a package; none where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def probe_machine(job: Mapping[str, Any], channel: Channel) -> None:
    """Report what the machine is and reaches."""
    device = job["device"]
    if device == "cuda" and not torch.cuda.is_available():
        channel.failed(
            "machine",
            UsageError(
                "torch sees no GPU on this machine; --device cpu --small tries the same code "
                "without one"
            ),
        )
        return
    peaks: dict[str, float | None] = {}
    edge = job["edge"]
    for name, dtype in DTYPES.items():
        if device == "cpu" and name == "fp16":
            peaks[name] = None  # no CPU that trains here multiplies it in hardware
            continue
        # Random numbers: zeros need less power, so that the GPU's clock stays higher.
        a, b = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
        peaks[name] = 2 * edge**3 / median_seconds(lambda a=a, b=b: torch.mm(a, b), device)
        del a, b
    versions = {name: version(name) for name in PACKAGES}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory
        versions |= {
            "CUDA": torch.version.cuda,
            "NCCL": ".".join(map(str, nccl.version())),
        }
        bf16 = torch.cuda.is_bf16_supported(False)
        size = min(job["copied"], torch.cuda.mem_get_info()[0] // 4)
    else:
        name, memory = "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        size = job["copied"]
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device)
    channel.ok(
        "machine",
        name=name,
        memory=memory,
        versions=versions,
        peaks=peaks,
        bandwidth=2 * size / seconds,
        bf16=bf16,
    )


def run_config(
    job: Mapping[str, Any], *, optim: OptimConfig, batch: BatchConfig, train: TrainConfig
) -> RunConfig:
    """Return a run's configuration as `submit` would resolve it, for rows made here.

    Raises:
        UsageError: it contradicts itself.
    """
    config = RunConfig(
        task=TaskConfig(
            name="random", text=("text",), label="label", validation=(), max_length=LONGEST
        ),
        model=ModelConfig(name=job["size"]["name"], architecture="bert"),
        batch=batch,
        optim=optim,
        train=train,
        engine=EngineConfig(
            zero=job.get("zero"),
            precision=job["precision"],
            compile=job["compile"],
            device=job["device"],
        ),
    )
    config.engine.check()
    return config


def random_data(rows: int, vocabulary: int) -> TokenData:
    """Return training rows of random tokens, with lengths as MNLI has them."""
    rng = np.random.default_rng([SEED, rows])
    lengths = mnli_lengths(rows, SEED)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    second = rng.integers(0, 2, int(offsets[-1])).astype(np.int8)
    split = TokenSplit(
        name="train",
        input_ids=rng.integers(5, vocabulary, int(offsets[-1])).astype(np.int32),
        offsets=offsets,
        token_type_ids=second,
        labels=rng.integers(0, LABELS, rows),
    )
    names = [f"label {i}" for i in range(LABELS)]
    manifest = {"label_names": names, "max_length": LONGEST}
    return TokenData(Path(), manifest, {"train": split})


def bert_config(size: Size, dropout: float) -> Any:
    """Return the transformers configuration of a size."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=size.vocabulary,
        num_hidden_layers=size.layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        intermediate_size=size.inner,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config.num_labels = LABELS
    return config


class Lines:
    """Takes the place of `RunLog`: keeps the lines that would go to `metrics.jsonl`."""

    def __init__(self) -> None:
        self.train: list[dict[str, Any]] = []

    def write(self, kind: str, step: int, epoch: float, **values: Any) -> None:
        """Keep a line."""
        if kind == "train":
            self.train.append(values)


class Session:
    """An engine with a new model in a process group of one rank, as a run's session builds it."""

    def __init__(
        self,
        job: Mapping[str, Any],
        config: RunConfig,
        dropout: float,
        data: TokenData,
        keep: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        from training.batching import micro_overhead
        from training.distributed import World
        from training.engine import build_engine, check_device
        from training.meters import Costs
        from training.models import (
            attention_flops,
            load_model,
            model_flops_per_token,
            quadratic_cost,
        )
        from training.optim import build_optimizer

        check_device(config)
        self.config, self.data, self.folder = config, data, Path(job["scratch"])
        self.world = World(config)
        hf_config = bert_config(Size(**job["size"]), dropout)
        model = load_model(config.model, hf_config, SEED)
        self.kept: Any = keep(model) if keep else None
        """What `keep` made of the model before any engine touched it."""
        self.engine = build_engine(config, model, build_optimizer(model, config.optim))
        self.costs = Costs(
            quadratic=quadratic_cost(hf_config),
            overhead=micro_overhead("cuda"),
            flops_per_token=model_flops_per_token(hf_config),
            attention_flops=attention_flops(hf_config, 1.0),
            peak=job.get("peak"),
        )

    def loop(self, config: RunConfig, lines: Lines | None = None) -> Any:
        """Return the training loop of a configuration with this session's engine."""
        from training.loop import Loop
        from training.rundir import RunDir

        return Loop(
            config,
            RunDir(self.folder),
            0,
            self.world,
            self.engine,
            self.data,
            cast(Any, lines),
            costs=self.costs,
            stop_raised=lambda: False,
        )


def uneven_cut(ids: np.ndarray, *args: Any, **kwargs: Any) -> Any:
    """Return a step of one rank in three micro-batches: two thirds, one third, nothing."""
    from training.batching import Cut

    ids, first = np.sort(ids), 2 * len(ids) // 3
    return Cut(((ids[:first], ids[first:], ids[:0]),), len(ids))


def conformance_optim() -> OptimConfig:
    """Return the optimizer of the conformance update.

    AdamW divides a gradient by its own size. Where that size is noise (the bias of the keys, which
    softmax cancels, has no gradient at all) the quotient is noise too, whatever computed it; a
    large epsilon makes it the gradient's own scale instead, and the update as exact as the
    gradient. The rate is large so that fp32 weights hold the update well.
    """
    return OptimConfig(lr=LR, eps=EPS, clip=1.0, weight_decay=0.01)


def reference_update(
    model: nn.Module, data: TokenData, optim: OptimConfig
) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return names of parameters, the weights, and their update by one float64 batch of all rows.

    The weights and the update are one line of numbers each, in the order of the names.
    """
    from training.optim import build_optimizer

    double = copy.deepcopy(model).double().train()
    names = [name for name, _ in double.named_parameters()]
    before = flat(dict(double.named_parameters()), names)
    optimizer = build_optimizer(double, optim)
    split = data.splits["train"]
    batch = {k: torch.from_numpy(v) for k, v in collate(split, np.arange(len(split))).items()}
    labels = batch.pop("labels")
    functional.cross_entropy(double(**batch).logits, labels).backward()
    torch.nn.utils.clip_grad_norm_(double.parameters(), optim.clip)
    optimizer.step()
    return names, before, flat(dict(double.named_parameters()), names) - before


def flat(weights: Mapping[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    """Return weights as one line of float64, on the CPU."""
    return torch.cat([weights[name].detach().double().cpu().reshape(-1) for name in names])


def update_of(session: Session, loop: Any, names: list[str], before: torch.Tensor) -> torch.Tensor:
    """Run the loop until the weights changed, and return by how much.

    The first steps have learning rate 0; then a step counts once the loss scale of fp16 has found
    its place: until then it skips the update, and the weights are still the same.
    """
    from training import loop as loop_module

    def rate(optim: OptimConfig, step: int, total: int) -> float:
        return 0.0 if step < REHEARSALS else optim.lr

    with mock.patch.object(loop_module, "learning_rate", rate):
        loop.progress.total = REHEARSALS
        loop.fit()
        for _ in range(ATTEMPTS):
            loop.progress.total += 1
            loop.fit()
            update = flat(session.engine.state_dict(), names) - before
            if bool(update.any()):
                return update
    raise RuntimeError(f"{ATTEMPTS} steps did not change the weights")


def conformance(job: Mapping[str, Any], channel: Channel) -> None:
    """Report how far one update of an engine is from float64's; write it beside the log."""
    from training import feed as feed_module

    batch: int = job["batch"]
    padded = 16 if job["compile"] == "graphs" else 1
    torch.set_float32_matmul_precision("highest")
    config = run_config(
        job,
        optim=conformance_optim(),
        # Every step is an epoch: the same examples.
        batch=BatchConfig(global_batch=batch, micro_tokens=1 << 20, pad_multiple=padded),
        train=TrainConfig(max_steps=REHEARSALS + ATTEMPTS, log_every=1, select="last"),
    )
    data = random_data(batch, job["size"]["vocabulary"])

    def keep(model: nn.Module) -> Any:
        return reference_update(model, data, config.optim)

    session = Session(job, config, 0.0, data, keep)
    names, before, reference = session.kept
    lines = Lines()
    with mock.patch.object(feed_module, "cut_step", uneven_cut):
        loop = session.loop(config, lines)
        update = update_of(session, loop, names, before)
    done = loop.progress
    if (done.slots, done.slots_most) != (3 * done.step, 3):
        raise RuntimeError(f"{done.step} steps had {done.slots} micro-batches, not 3 each")
    weights = session.engine.state_dict()
    file = session.folder / "update.npy"
    np.save(file, update.numpy())
    channel.ok(
        "update",
        error=float((update - reference).norm() / reference.norm()),
        file=str(file),
        dtypes=sorted({str(w.dtype) for w in weights.values() if w.is_floating_point()}),
        steps=done.step,
        loss=lines.train[-1]["loss"],
        grad_norm=lines.train[-1].get("grad_norm"),
    )


class Shapes:
    """Counts the micro-batches that an engine computes, by shape."""

    def __init__(self, engine: Any) -> None:
        self.seen: set[tuple[int, ...]] = set()
        original = engine.forward

        def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            self.seen.add(tuple(inputs["input_ids"].shape))
            return original(inputs)

        engine.forward = forward


def compiler_note() -> str:
    """Return what torch.compile did that nobody wants, from its own counters."""
    from torch._dynamo.utils import counters

    breaks = sum(counters["graph_break"].values())
    skips = counters["inductor"]["cudagraph_skips"]
    notes = [f"{breaks} graph breaks"] if breaks else []
    return ", ".join(notes + ([f"CUDA graphs skipped {skips}×"] if skips else []))


class TimedLoop:
    """The loop of one global batch, run again and again over the same steps."""

    def __init__(self, session: Session, config: RunConfig, batch: int, steps: int) -> None:
        self.batch, self.steps = batch, steps + 1
        """One more than is timed: it fills the queue of micro-batches."""
        self._session = session
        self.lines = Lines()
        self.loop = session.loop(
            dataclasses.replace(
                config,
                batch=dataclasses.replace(config.batch, global_batch=batch),
                train=dataclasses.replace(config.train, max_steps=self.steps, log_every=self.steps),
            ),
            self.lines,
        )

    def run(self) -> tuple[dict[str, Any], float]:
        """Take all steps; return the meters' summary, and the seconds with everything."""
        from training.loop import Progress
        from training.meters import Meters

        loop = self.loop
        loop.progress = Progress(total=self.steps)
        loop.meters = Meters(self._session.costs, self._session.engine.communication, skip=1)
        loop.feed.waited = loop.meters.waited
        synchronize()
        start = time.perf_counter()
        loop.fit()
        synchronize()
        return loop.meters.summary(), time.perf_counter() - start


def train(job: Mapping[str, Any], channel: Channel) -> None:
    """Report the speed of glueline's loop at some global batches."""
    compiled, steps = job["compile"], dict(job["steps"])
    config = run_config(
        job,
        optim=OptimConfig(lr=2e-5, clip=1.0),
        batch=BatchConfig(
            micro_tokens=job["micro_tokens"], pad_multiple=16 if compiled == "graphs" else 1
        ),
        train=TrainConfig(select="last"),
    )
    rows = max(batch * (count + 1) for batch, count in steps.items())
    session = Session(job, config, 0.1, random_data(rows, job["size"]["vocabulary"]))
    shapes = Shapes(session.engine)
    # CUDA graphs run a new shape once, record it the second time, and replay it from then on.
    rehearsals = {"none": 1, "layers": 1, "graphs": 2}[compiled]
    loops: dict[int, TimedLoop] = {}
    first: dict[int, float] = {}

    def rehearse(batch: int) -> None:
        loops[batch] = TimedLoop(session, config, batch, steps[batch])
        first[batch] = sum(loops[batch].run()[1] for _ in range(rehearsals))

    if compiled != "none":
        for batch in steps:
            try:
                rehearse(batch)
            except Exception as error:
                channel.failed(batch, error)
        gc.collect()
        if job["device"] == "cuda":
            torch.cuda.empty_cache()
    channel.ready()
    for batch in steps if compiled == "none" else list(first):
        try:
            if batch not in first:
                rehearse(batch)
            elif compiled != "graphs":
                loops[batch].run()  # memory was given back for others to be prepared
            channel.ok(batch, **timed(loops[batch], shapes, first[batch]))
        except Exception as error:
            channel.failed(batch, error)


def timed(timed_loop: TimedLoop, shapes: Shapes, first: float) -> dict[str, Any]:
    """Return what a row of part 3 holds.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    shapes.seen.clear()
    summary, _ = timed_loop.run()
    loop = timed_loop.loop
    peak = reserved = None
    if torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_allocated() / 1e9
        reserved = torch.cuda.max_memory_reserved() / 1e9
    notes = [compiler_note()]
    if loop.budget != int(loop.config.batch.micro_tokens):
        notes.append(f"out of memory: micro-batches of {loop.budget} tokens")
    return {
        **summary,
        "steps": timed_loop.steps - 1,
        "micro_batches": loop.progress.slots / loop.progress.step,
        "shapes": len(shapes.seen),
        "first_seconds": first,
        "peak_gb": peak,
        "reserved_gb": reserved,
        "loss": timed_loop.lines.train[-1]["loss"],
        "note": ", ".join(filter(None, notes)),
    }


class Counting:
    """The Trainer's collator: pads what it is given to the longest row, and counts."""

    def __init__(self, split: TokenSplit) -> None:
        self._split = split
        self.real = self.padded = 0

    def __call__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Return a padded micro-batch of these rows."""
        batch = collate(self._split, np.array(rows))
        self.real += int(batch["attention_mask"].sum())
        self.padded += batch["attention_mask"].size
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def run_trainer(
    job: Mapping[str, Any], model: nn.Module, split: TokenSplit, batch: int, micro: int, steps: int
) -> dict[str, Any]:
    """Return the Trainer's examples a second from the end of its second step on.

    Settings that cost time and change nothing here are off, as somebody who knows them would have
    it. Its rows are numbers and its collator reads arrays: it never waits for its data.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    stamps: list[float] = []

    class Stamps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (WARM, WARM + steps):
                synchronize()
                stamps.append(time.perf_counter())

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    counting = Counting(split)
    trainer = Trainer(
        model=cast(Any, model),
        args=TrainingArguments(
            output_dir=str(Path(job["scratch"]) / "trainer"),
            use_cpu=job["device"] == "cpu",
            bf16=job["precision"] == "bf16",
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            max_steps=WARM + steps,
            learning_rate=2e-5,
            max_grad_norm=1.0,
            weight_decay=0.01,
            optim="adamw_torch_fused",
            seed=SEED,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=cast(Any, list(range(min(len(split), batch * (WARM + steps))))),
        data_collator=cast(Any, counting),
        callbacks=[Stamps()],
    )
    trainer.train()
    if len(stamps) != 2:
        raise RuntimeError(f"the Trainer ended {len(stamps)} of 2 steps that were waited for")
    return {
        "examples_per_second": steps * batch / (stamps[1] - stamps[0]),
        "padding_efficiency": counting.real / counting.padded,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if job["device"] == "cuda" else None,
    }


def forget_accelerate() -> None:
    """Let the next Trainer of this process begin anew: Accelerate keeps its settings for all."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trainer(job: Mapping[str, Any], channel: Channel) -> None:
    """Report the speed of the Hugging Face Trainer, each global batch with its best micro-batch."""
    from transformers import AutoModelForSequenceClassification

    size, steps = Size(**job["size"]), dict(job["steps"])
    rows = max(batch * (WARM + count) for batch, count in steps.items())
    split = random_data(rows, size.vocabulary).splits["train"]
    torch.manual_seed(SEED)
    model = AutoModelForSequenceClassification.from_config(
        bert_config(size, 0.1), dtype=torch.float32
    )
    fast: set[int] = set()
    channel.ready()
    for batch, count in steps.items():
        tried: dict[int, float] = {}
        found: dict[int, dict[str, Any]] = {}
        error: Exception | None = None
        for micro in micro_batches(job["micro"], batch, fast):
            try:
                found[micro] = run_trainer(job, model, split, batch, micro, count)
                tried[micro] = found[micro]["examples_per_second"]
            except Exception as raised:  # out of memory with a large one, say: others may go on
                traceback.print_exception(raised)
                error = raised
            forget_accelerate()
        if not tried:
            channel.failed(batch, error or ValueError("no micro-batch divides the global batch"))
            continue
        best = max(tried, key=tried.__getitem__)
        fast = fast or {micro for micro, speed in tried.items() if speed >= NEAR * tried[best]}
        channel.ok(batch, **found[best], micro=best, tried=tried)


JOBS: dict[str, tuple[Callable[[Mapping[str, Any], Channel], None], Callable[..., list[str]]]] = {
    "machine": (probe_machine, lambda job: ["machine"]),
    "conformance": (conformance, lambda job: ["update"]),
    "train": (train, lambda job: [str(batch) for batch, _ in job["steps"]]),
    "trainer": (trainer, lambda job: [str(batch) for batch, _ in job["steps"]]),
}
"""What is done, and the rows that it owes, by the name of the job."""


def main(argv: list[str]) -> None:
    """Do the job on the command line; what stops it is said for all its rows."""
    job = json.loads(argv[0])
    channel = Channel(os.fdopen(os.dup(1), "w"), sys.stdin)
    os.dup2(2, 1)
    work, rows = JOBS[job["job"]]
    try:
        work(job, channel)
    except Exception as error:
        for row in rows(job):
            channel.failed(row, error)
    sys.stderr.flush()
    # Process groups and compilers hold threads to the end; what they would say there is noise.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
