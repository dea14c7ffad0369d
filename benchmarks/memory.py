"""Memory of a rank: what the plan says against what real runs take, on CPUs.

    python -m benchmarks.memory --data DIR

Every line is one run of two ranks in processes of their own, started as the node agent starts
them. Measured is the most that a rank had resident, up to the last evaluation, minus what it had
after its imports, before the model was built.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKS = "memory-{}.json"
MIB = 1 << 20


def resident() -> tuple[int, int, int]:
    """Return the bytes that this process has resident, now and at most since the last reset."""
    values = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem"):
            values[name] = int(value.split()[0]) * 1024
    return values["VmRSS"], values["VmHWM"], values["RssFile"]


def rank(argv: list[str]) -> int:
    """Be one rank of a run, and note what it has resident at each stage."""
    from training import session
    from training.loop import Loop
    from training.train import main as train
    import accelerate, datasets, sklearn.metrics, scipy.stats, tokenizers
    from transformers.models.bert import modeling_bert
    import torch._dynamo
    if "zero: null" not in (Path(argv[argv.index("--run") + 1])/"config.yaml").read_text():
        os.environ["DS_ACCELERATOR"]="cpu"
        import deepspeed

    run = Path(argv[argv.index("--run") + 1])
    marks: dict[str, Any] = {"steps": []}

    def note(name: str) -> None:
        marks[name] = resident()

    def noted(module: Any, name: str, label: str, first: bool = False) -> None:
        original = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if first:
                # 5: the most that was ever resident is counted anew from here.
                Path("/proc/self/clear_refs").write_text("5")
                note("imports")
            value = original(*args, **kwargs)
            note(label)
            return value

        setattr(module, name, call)

    noted(session, "load_model", "model", first=True)
    noted(session, "freeze_unused", "probe")
    noted(session, "build_engine", "engine")
    step, fit, evaluate = Loop._step, Loop.fit, Loop._evaluate

    def one_step(self: Loop, lr: float) -> Any:
        value = step(self, lr)
        marks["steps"].append(resident())
        return value

    def one_evaluation(self: Loop) -> bool:
        note("before evaluation")
        value = evaluate(self)
        note("evaluation")
        return value

    def whole_fit(self: Loop) -> Any:
        value = fit(self)
        note("fit")
        (run / MARKS.format(self.world.rank)).write_text(json.dumps(marks))
        return value

    Loop._step, Loop.fit, Loop._evaluate = one_step, whole_fit, one_evaluation  # type: ignore
    return train(argv)


if __name__ == "__main__":
    if "--run" in sys.argv:
        code = rank(sys.argv[1:])
        os._exit(code)
