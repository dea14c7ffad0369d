"""Memory of a rank: what the plan says against what real ranks take, on CPUs.

    python -m benchmarks.memory --data DIR

Every line is one run of two ranks, in processes of their own, started as the node agent starts
them, through all that a run does up to its last evaluation. Measured is the most that a rank had
resident, less what it had after its imports, before the model was built. The higher peak is
compared with the plan's estimate, made of the sizes alone and the largest micro-batch.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from launch.memory import Memory, Shape, encoder, memory, sizes_of
from launch.presets import model_preset
from slurm.command import Rendezvous
from slurm.start import ranks_of_node
from training.config import (
    BatchConfig,
    ClusterConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
    load_config,
)
from training.rundir import read_json, write_json

MIB = 1 << 20
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
"""BERT-base, of random weights, with the vocabulary of the other model (which is BERT's)."""
LATE_IMPORTS = (
    "accelerate",
    "datasets",
    "tokenizers",
    "sklearn.metrics",
    "scipy.stats",
    "torch._dynamo",
    "transformers.models.bert.modeling_bert",
)
"""What a rank imports only after its model is there: it belongs to the imports all the same."""
_STATUS = ("VmRSS", "VmHWM")


def resident() -> tuple[int, int]:
    """Return the bytes that this process has resident: now, and at most since the last reset."""
    values = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in _STATUS:
            values[name] = int(value.split()[0]) * 1024
    return values["VmRSS"], values["VmHWM"]


def rank(argv: list[str]) -> int:
    """Be one rank of a run up to the end of its training, and write what it had resident."""
    run = Path(argv[argv.index("--run") + 1])
    # train sets variables that must be there before torch is.
    from training import train

    train.prepare_environment()
    from training import session
    from training.loop import Loop

    zero = load_config(run / "config.yaml").engine.zero
    for name in (*LATE_IMPORTS, *(("deepspeed",) if zero is not None else ())):
        import_module(name)
    marks: dict[str, Any] = {"largest": [0, 0]}
    build, step, fit = session.load_model, Loop._step, Loop.fit

    def first(*args: Any, **kwargs: Any) -> Any:
        gc.collect()
        # 5: what was resident at most is counted anew from here.
        Path("/proc/self/clear_refs").write_text("5")
        marks["imports"] = resident()[0]
        return build(*args, **kwargs)

    def one_step(self: Loop, lr: float) -> Any:
        value = step(self, lr)
        marks["largest"] = [self._proven.tokens, self._proven.square]
        marks["steps"] = resident()[1]
        return value

    def whole_fit(self: Loop) -> Any:
        value = fit(self)
        marks["peak"] = resident()[1]
        write_json(run / f"memory-{self.world.rank}.json", marks)
        self.world.barrier()
        os._exit(0)
        return value

    session.load_model = first
    Loop._step, Loop.fit = one_step, whole_fit  # type: ignore[method-assign]
    return train.main(argv)


def run_one(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Run all ranks and return the highest peak, the largest micro-batch and the imports, in bytes.

    Raises:
        RuntimeError: the run failed; the message is the end of its log.
    """
    ranks = config.world_size
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.dump())
    meet = Rendezvous("127.0.0.1", 20000 + os.getpid() % 10000, folder.name)
    argv, environment = ranks_of_node(
        config, meet, folder, node=0, nodes=1, cores=ranks, module="benchmarks.memory"
    )
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    marks = [read_json(folder / f"memory-{n}.json") for n in range(ranks)]
    if None in marks:
        logs = sorted(folder.glob("attempts/0/logs/*-0.log"))
        raise RuntimeError((logs[0].read_text() if logs else done.stderr)[-2000:])
    return {
        "peak": max(m["peak"] - m["imports"] for m in marks if m),
        "steps": max(m["steps"] - m["imports"] for m in marks if m),
        "imports": max(m["imports"] for m in marks if m),
        "largest": marks[0]["largest"] if marks[0] else [0, 0],
    }


def estimate(config: RunConfig, described: dict[str, Any], largest: list[int]) -> Memory:
    """Return the plan's estimate for a largest micro-batch, from the model's sizes."""
    engine = config.engine
    sizes = sizes_of(config.model, described)
    assert sizes is not None
    shape = Shape(
        "cpu",
        engine.precision,
        config.world_size,
        engine.zero,
        engine.offload,
        config.optim.name,
    )
    return memory(encoder(sizes, "cpu", engine.precision), shape, *largest)


def models(folder: Path) -> dict[str, ModelConfig]:
    """Return the two models by name; the larger one's folder is written here."""
    from training.sources import model_folder

    small = ModelConfig(name="minilm", package=model_preset("minilm").values["model.package"])
    source = model_folder(small)
    assert source is not None
    folder.mkdir(parents=True)
    for path in source.glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(source / "vocab.txt", folder)
    described = json.loads((source / "config.json").read_text()) | BASE
    (folder / "config.json").write_text(json.dumps(described))
    base = ModelConfig(name="bert-base", path=str(folder), pretrained=False)
    return {"minilm": small, "bert-base": base}


def main() -> int:
    """Print the table; the exit status is 1 if an estimate is off by more than 15%."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds glue/")
    parser.add_argument("--models", default="minilm,bert-base")
    parser.add_argument("--engines", default="ddp,1,2,3")
    parser.add_argument("--precisions", default="bf16")
    parser.add_argument("--micro-tokens", type=int, default=1024)
    parser.add_argument("--global-batch", type=int, default=128)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    from launch.resolve import load_task
    from training.sources import model_folder, resolve_data_dir

    task = load_task("mrpc")
    task = replace(task, path=str(resolve_data_dir(task, args.data.resolve())))
    names = ["weights", "gradients", "optimizer", "buffers", "low precision", "vocabulary"]
    names += ["activations", "runtime"]
    print("| model | engine | tokens | " + " | ".join(names) + " | estimate | measured | error |")
    print("|" + "---|" * (len(names) + 6))
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        known = models(Path(temporary) / "bert-base")
        for name in args.models.split(","):
            for precision in args.precisions.split(","):
                for engine in args.engines.split(","):
                    zero: Any = None if engine == "ddp" else int(engine)
                    config = RunConfig(
                        task=task,
                        model=known[name],
                        batch=BatchConfig(
                            global_batch=args.global_batch, micro_tokens=args.micro_tokens
                        ),
                        engine=EngineConfig(zero=zero, precision=precision, device="cpu"),
                        train=TrainConfig(max_steps=args.steps),
                        cluster=ClusterConfig(
                            executor="local", procs_per_node=args.ranks, gpus_per_node=0
                        ),
                        tracking=TrackingConfig(tracker="none"),
                    )
                    found = run_one(config, Path(temporary) / "runs" / f"{name}-{engine}")
                    folder = model_folder(config.model)
                    described = json.loads((folder / "config.json").read_text()) if folder else {}
                    planned = estimate(config, described, found["largest"])
                    error = planned.increment / found["peak"] - 1.0
                    worst = max(worst, abs(error))
                    label = "DDP" if zero is None else f"ZeRO {zero}"
                    cells = [name, f"{label} {precision}", str(found["largest"][0])]
                    cells += [f"{planned.parts.get(n, 0) / MIB:.0f}" for n in names]
                    cells += [f"{planned.increment / MIB:.0f}", f"{found['peak'] / MIB:.0f}"]
                    print("| " + " | ".join([*cells, f"{error:+.0%}"]) + " |", flush=True)
                    if os.environ.get("GLUELINE_DETAILS"):
                        print(found, file=sys.stderr, flush=True)
    print(f"\nMiB of the rank that takes most; worst error {worst:.0%}")
    return int(worst > 0.15)


if __name__ == "__main__":
    if "--run" in sys.argv:
        os._exit(rank(sys.argv[1:]))
    sys.exit(main())
