"""What a rank does from its first import to its last file: set up, fit, finish."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.utils import logging as hf_logging

from .batching import micro_overhead
from .config import RunConfig, UsageError, load_config
from .data import ensure_tokenizer, ensure_tokens
from .distributed import World
from .engine import AUTOCAST, Engine, autocast, build_engine, check_device
from .evaluate import EvaluationAbandoned, to_tensors
from .export import export_model
from .fraction import with_fraction
from .health import check_health
from .label_order import look_at_head
from .loop import Loop, Progress
from .meters import Costs, peak_memory_bytes, probe_peak
from .metrics import classify, compute_metrics
from .models import (
    Labels,
    attention_flops,
    build_config,
    freeze_unused,
    load_exported,
    load_model,
    matrix_parameters,
    model_flops_per_token,
    quadratic_cost,
)
from .optim import build_optimizer
from .predictions import save_predictions
from .prepared import open_prepared
from .restore import Shards, find_checkpoint, load_optimizer, load_weights
from .rundir import RunDir, read_json, write_json
from .scaling import scaled_config
from .tokens import TokenData, collate, open_tokens
from .tracking import Mirror, NoMirror, RunLog, flat_summary, open_mirror

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "deepspeed", "wandb", "numpy")


def run_training(run: RunDir, attempt: int, stop_raised: Callable[[], bool]) -> None:
    """Train the run of a run directory to its end, or to an interruption.

    Raises:
        UsageError: the data, the model or the device do not fit the configuration.
        SickNode: a node is not well.
    """
    started = time.time()
    hf_logging.disable_progress_bar()
    config = load_config(run.config)
    check_device(config)
    world = World(config)
    try:
        _train(run, config, attempt, world, stop_raised, started)
    finally:
        world.close()


def _train(
    run: RunDir,
    config: RunConfig,
    attempt: int,
    world: World,
    stop_raised: Callable[[], bool],
    started: float,
) -> None:
    _write_environment(run, attempt, config, world)
    asked, config = config, scaled_config(config)
    data, tokenizer = _prepare_data(run, config, world)
    task = config.task
    assert task.train is not None
    train = data.splits[task.train]
    regression = task.problem == "regression"
    labels = Labels(("score",) if regression else tuple(data.label_names), regression)
    longest = max(int(split.lengths.max()) for split in data.splits.values())
    data = with_fraction(data, task)
    hf_config = build_config(config.model, task, labels, tokenizer, longest)
    model = load_model(config.model, hf_config, config.train.seed)
    head = None if regression else look_at_head(config.model, labels.names)
    if head is not None:
        print(head.note(config.model.name), flush=True)
    probe = to_tensors(collate(train, np.array([int(train.lengths.argmin())])), torch.device("cpu"))
    unused = freeze_unused(model, probe)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    overhead = micro_overhead(
        config.engine.device,
        config.engine.precision,
        trained / matrix_parameters(hf_config),
    )
    print(
        f"rank {world.rank}/{world.size}: {sum(p.numel() for p in model.parameters()):,} "
        f"parameters, {trained:,} trained, {len(unused)} unused, {torch.get_num_threads()} threads",
        flush=True,
    )
    checkpoint, notices = find_checkpoint(run, world)
    if checkpoint and config.engine.peer != "none":
        raise UsageError(
            f"--peer {config.engine.peer} cannot go on from {checkpoint.folder}, which is not its "
            "own: it writes no checkpoints; remove that folder to start over"
        )
    shards = Shards(checkpoint.folder) if checkpoint else None
    if checkpoint and shards:
        load_weights(model, checkpoint, shards)
    make_engine, make_loop = _implementation(config, tokenizer)
    engine = make_engine(config, model)
    del model
    held = (0, 0)
    if checkpoint and shards:
        held = load_optimizer(engine, checkpoint, shards)
        shards.close()
    dtype = AUTOCAST.get(config.engine.precision, torch.float32)
    world.barrier()
    peak = float(world.sum(np.array([probe_peak(engine.device, dtype)]))[0])
    passes = 1 / 3 if config.model.freeze_encoder else 1.0
    mirror: Mirror = open_mirror(run, asked) if world.is_main else NoMirror()
    begin = checkpoint.step if checkpoint else 0
    log = RunLog(run, attempt, mirror, begin) if world.is_main else None
    loop = make_loop(
        config,
        run,
        attempt,
        world,
        engine,
        data,
        log,
        costs=Costs(
            quadratic=quadratic_cost(hf_config),
            overhead=overhead,
            # A frozen encoder runs forward only: a third of the operations.
            flops_per_token=model_flops_per_token(hf_config) * passes,
            attention_flops=attention_flops(hf_config, 1.0) * passes,
            peak=peak,
        ),
        stop_raised=stop_raised,
        budget=world.broadcast(_lowered_budget(run, attempt) if world.is_main else None),
        started=started,
        tracker={"name": config.tracking.tracker, "mode": mirror.mode, "run_id": mirror.run_id},
    )
    if log is not None:
        log.write("event", begin, 0.0, event="start", engine=engine.name, world_size=world.size)
        if head is not None:
            log.write(
                "event", begin, 0.0, event="pretrained_head", labels=head.kind, names=head.own
            )
        for notice in notices:
            print(f"checkpoint left out: {notice}", flush=True)
            log.write("event", begin, 0.0, event="checkpoint_damaged", reason=notice)
    if checkpoint:
        both = world.gather_all(held)
        weights, moments = (f"{sum(part[k] for part in both) % 2**64:016x}" for k in (0, 1))
        loop.restore(checkpoint, weights, moments)
        print(f"going on from step {checkpoint.step}", flush=True)
    ok = False
    results: dict[str, Any] = {}
    try:
        progress = loop.fit()
        if not progress.interrupted:
            peaks = world.gather(peak_memory_bytes(engine.device))
            try:
                results = _finish(run, config, world, engine, loop, data, tokenizer, hf_config)
            except EvaluationAbandoned:
                loop.interrupt()
            results = results and results | {
                "throughput": loop.meters.summary(),
                "noise": loop.noise.summary(),
                "micro_tokens": loop.budget,
                "peak_memory_bytes": max(peaks, default=0),
                "wall_seconds": loop.seconds(),
                "attempts": attempt + 1,
                "wandb_run_id": mirror.run_id,
            }
        if progress.interrupted and log is not None:
            log.write("event", progress.step, progress.epoch, event="interrupted")
        ok = True
    finally:
        mirror.finish(flat_summary(results), ok)
    loop.close()
    if log is not None and results:
        log.flush()
        write_json(run.results, results)
        # Not before: a rank that is killed in between would have nothing to go on from.
        if config.train.keep != "all":
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        if config.train.keep == "results":
            shutil.rmtree(run.model, ignore_errors=True)
    world.barrier()


def _implementation(
    config: RunConfig, tokenizer: Any
) -> tuple[Callable[[RunConfig, nn.Module], Engine], Callable[..., Loop]]:
    """Return what makes the engine and the loop: glueline's own, or those of a peer."""
    if config.engine.peer == "trainer":
        from .peer import TrainerEngine, TrainerLoop

        return TrainerEngine, partial(TrainerLoop, tokenizer=tokenizer)

    def own(config: RunConfig, model: nn.Module) -> Engine:
        return build_engine(config, model, build_optimizer(model, config.optim))

    return own, Loop


def _lowered_budget(run: RunDir, attempt: int) -> int | None:
    """Return the smallest token budget that earlier attempts' verdicts allow, None without any."""
    verdicts = [read_json(run.verdict(n)) or {} for n in run.attempt_numbers() if n < attempt]
    return min((v["micro_tokens"] for v in verdicts if v.get("micro_tokens")), default=None)


def _prepare_data(run: RunDir, config: RunConfig, world: World) -> tuple[TokenData, Any]:
    """Map what was prepared; where nothing was, rank 0 tokenises while the others wait."""
    from transformers import AutoTokenizer

    answer: tuple[str, str, str] = ("", "", "")
    if world.is_main:
        try:
            entry = open_prepared(run)
            if entry is not None:
                answer = (str(entry.tokenizer), str(entry.tokens), "")
            else:
                tokenizer = ensure_tokenizer(config, run.cache)
                answer = (str(tokenizer), str(ensure_tokens(config, run.cache)), "")
        except UsageError as error:
            answer = ("", "", str(error))
    tokenizer_path, tokens_path, failed = world.broadcast(answer)
    if failed:
        raise UsageError(failed)
    return open_tokens(Path(tokens_path)), AutoTokenizer.from_pretrained(tokenizer_path)


def _write_environment(run: RunDir, attempt: int, config: RunConfig, world: World) -> None:
    """Check that all ranks have what the plan says and are well; write down what they have.

    Raises:
        UsageError, SickNode: as `check_health`.
    """
    cuda = config.engine.device == "cuda"
    device = torch.device("cuda", world.local_rank) if cuda else torch.device("cpu")
    ranks = check_health(run, attempt, config, world, device)
    if not world.is_main:
        return
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    write_json(run.environment(attempt), {"ranks": ranks, "versions": versions})


def _finish(
    run: RunDir,
    config: RunConfig,
    world: World,
    engine: Engine,
    loop: Loop,
    data: TokenData,
    tokenizer: Any,
    hf_config: Any,
) -> dict[str, Any]:
    """Export the chosen weights, and score and predict with what was exported.

    The final scores are those of `model/` as anyone loads it: a fault of the export cannot hide.
    """
    progress, task = loop.progress, config.task
    best = config.train.select == "best" and progress.best_step is not None
    weights: dict[str, torch.Tensor] = {}
    if not best:
        weights = engine.state_dict()
    elif world.is_main:
        weights = loop.best_weights()
    if world.is_main:
        if not weights:
            raise RuntimeError("no weights to export")
        # Models built from here on are plain ones, not partitioned by ZeRO 3.
        _leave_deepspeed()
        export_model(run, hf_config, weights, tokenizer)
    del weights
    world.barrier()
    _leave_deepspeed()
    gc.collect()
    module: nn.Module = load_exported(run.model).to(engine.device)
    metrics: dict[str, dict[str, float | None]] = {}
    for name in (*task.validation_splits, *task.test):
        split = data.splits[name]
        outputs = loop.predict(module, split, autocast(config.engine.precision, engine.device))
        if not world.is_main:
            continue
        labels = None if split.labels is None else np.asarray(split.labels)
        known = labels is not None and bool(
            np.all(labels >= 0 if labels.dtype.kind == "i" else np.isfinite(labels))
        )
        if labels is not None and known:
            metrics[name] = compute_metrics(task, outputs, labels)
        compressed = config.train.keep == "results"
        known_labels = labels if known else None
        write_predictions(run, name, outputs, known_labels, data.label_names, compressed)
    if not world.is_main:
        return {}
    return _results(config, run, world, engine, progress, metrics, best)


def _leave_deepspeed() -> None:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _results(
    config: RunConfig,
    run: RunDir,
    world: World,
    engine: Engine,
    progress: Progress,
    metrics: dict[str, dict[str, float | None]],
    best: bool,
) -> dict[str, Any]:
    task = config.task
    first = task.validation_splits[0] if task.validation_splits else next(iter(metrics), None)
    return {
        "run_id": run.run_id,
        "task": task.name,
        "model": config.model.name,
        "seed": config.train.seed,
        "world_size": world.size,
        "engine": engine.name,
        "zero_stage": config.engine.zero,
        "precision": config.engine.precision,
        "global_batch": config.batch.global_batch,
        "micro_batches": progress.slots_most,
        "micro_batches_mean": progress.slots / max(1, progress.step),
        "epochs": progress.epoch,
        "steps": progress.step,
        "examples_seen": progress.examples,
        "stopped_early": progress.stopped_early,
        "metrics": metrics,
        "primary_metric": task.primary_metric,
        "primary_split": first,
        "primary_value": metrics.get(first or "", {}).get(task.primary_metric),
        "best_step": progress.best_step if best else progress.step,
    }


def write_predictions(
    run: RunDir,
    split: str,
    outputs: np.ndarray,
    labels: np.ndarray | None,
    names: tuple[str, ...] | list[str],
    compressed: bool = False,
) -> None:
    """Write `predictions/SPLIT.tsv`: index, label, prediction, probability of every class.

    A regression has index, label and value. Compressed it is `SPLIT.tsv.gz`.
    """
    if outputs.shape[1] == 1:
        head = ["index", *(["label"] if labels is not None else []), "prediction"]
        values = outputs[:, 0]
        rows = [
            [str(i), *([f"{labels[i]:.6g}"] if labels is not None else []), f"{values[i]:.6g}"]
            for i in range(len(values))
        ]
    else:
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        predicted = classify(outputs)
        head = ["index", *(["label"] if labels is not None else []), "prediction"]
        head += [f"p({name})" for name in names]
        rows = [
            [
                str(i),
                *([str(names[labels[i]])] if labels is not None else []),
                str(names[predicted[i]]),
                *(f"{p:.6f}" for p in probabilities[i]),
            ]
            for i in range(len(predicted))
        ]
    text = "\n".join("\t".join(row) for row in [head, *rows]) + "\n"
    save_predictions(run, split, text, compressed)
