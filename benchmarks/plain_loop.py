"""A plain training loop, to compare scores with: random batches, one process, torch's operations.

    python -m benchmarks.plain_loop RUN OUT.json

Trains what glueline's run RUN was asked to train (its config.yaml: model, rows, batch, optimizer,
schedule, epochs, precision) the way a tutorial does: each batch in one piece, in random order of
torch's own generator, padded to its longest row; no planner, no accumulation, nothing of
`training.loop` or `training.engine`. Scores the validation split at each epoch's end and keeps the
best, as glueline does.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoTokenizer

from training.config import RunConfig, load_config
from training.data import ensure_tokenizer, ensure_tokens
from training.metrics import compute_metrics
from training.models import Labels, build_config, load_model
from training.optim import decay_groups
from training.schedule import learning_rate
from training.tokens import TokenSplit, collate, open_tokens

EVALUATION_BATCH = 64


def tensors(split: TokenSplit, ids: np.ndarray) -> dict[str, torch.Tensor]:
    """Return rows as padded tensors, labels included."""
    return {name: torch.from_numpy(array) for name, array in collate(split, ids).items()}


def outputs(model: torch.nn.Module, split: TokenSplit, bf16: bool) -> np.ndarray:
    """Return the logits of a split in its own order."""
    found = []
    model.eval()
    for start in range(0, len(split), EVALUATION_BATCH):
        batch = tensors(split, np.arange(start, min(start + EVALUATION_BATCH, len(split))))
        batch.pop("labels")
        with torch.no_grad(), casting(bf16):
            found.append(model(**batch).logits.float().numpy())
    model.train()
    return np.concatenate(found)


def casting(bf16: bool) -> contextlib.AbstractContextManager[object]:
    """Return bf16 autocast, or nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


def train(config: RunConfig, cache: Path) -> dict[str, float]:
    """Return the best validation score of a plain run of this configuration, and its steps."""
    task = config.task
    data = open_tokens(ensure_tokens(config, cache))
    tokenizer = AutoTokenizer.from_pretrained(ensure_tokenizer(config, cache))
    assert task.train is not None and task.problem == "classification"
    rows, dev = data.splits[task.train], data.splits[task.validation_splits[0]]
    longest = max(int(split.lengths.max()) for split in data.splits.values())
    labels = Labels(tuple(data.label_names), False)
    hf_config = build_config(config.model, task, labels, tokenizer, longest)
    model = load_model(config.model, hf_config, config.train.seed).train()
    optim, batch = config.optim, config.batch.global_batch
    optimizer = torch.optim.AdamW(
        decay_groups(model, optim.weight_decay),
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
    )
    per_epoch = -(-len(rows) // batch)
    total = int(per_epoch * config.train.epochs)
    bf16 = config.engine.precision == "bf16"
    generator = torch.Generator().manual_seed(config.train.seed)
    torch.manual_seed(config.train.seed + 1)
    best, order = -np.inf, np.empty(0, dtype=np.int64)
    for step in range(total):
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(len(rows), generator=generator).numpy()
        inputs = tensors(rows, order[place * batch : (place + 1) * batch])
        answers = inputs.pop("labels")
        with casting(bf16):
            logits = model(**inputs).logits
        functional.cross_entropy(logits.float(), answers).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, total)
        optimizer.step()
        optimizer.zero_grad()
        if place == per_epoch - 1 or step == total - 1:
            scores = compute_metrics(task, outputs(model, dev, bf16), np.asarray(dev.labels))
            best = max(best, float(scores[task.primary_metric] or 0.0))
    return {"primary_value": best, "steps": total}


def main() -> None:
    """Train and write the score."""
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = load_config(run / "config.yaml")
    out.write_text(json.dumps(train(config, run.parent / ".cache")))


if __name__ == "__main__":
    main()
