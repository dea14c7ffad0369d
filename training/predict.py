"""Predictions of a finished run for new texts, on one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batching import cut_step
from .cleaning import clean_text
from .config import RunConfig, UsageError
from .engine import autocast
from .models import load_exported
from .rundir import RunDir


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input."""

    label: str | None
    """The likeliest class; None for a regression."""
    value: float
    """Its probability, or the predicted value of a regression."""
    probabilities: dict[str, float]
    """Probability of every class; empty for a regression."""


class Predictor:
    """A finished run's model and tokenizer, loaded once."""

    def __init__(self, run: RunDir, config: RunConfig) -> None:
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if not run.results.is_file():
            raise UsageError(f"run {run.run_id} has no results: it did not finish")
        if not run.model.is_dir():
            raise UsageError(
                f"run {run.run_id} kept no weights (train.keep=results, or clean --models): its "
                f"predictions are in {run.predictions}"
            )
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(run.model)
        self.model = load_exported(run.model).to(self.device)
        hf_config: Any = self.model.config
        self.names = [hf_config.id2label[i] for i in range(hf_config.num_labels)]
        self.regression = hf_config.problem_type == "regression"

    def logits(self, texts: list[tuple[str, ...]]) -> np.ndarray:
        """Return the outputs of every input, [n, outputs], sorted by length inside.

        Args:
            texts: inputs of one or two texts, as many as the run's task has.

        Raises:
            UsageError: an input has another number of texts than the task.
        """
        task = self.config.task
        for place, parts in enumerate(texts):
            if len(parts) != len(task.text):
                raise UsageError(
                    f"input {place + 1} has {len(parts)} texts, task {task.name} needs "
                    f"{len(task.text)} ({', '.join(task.text)})"
                )
        cleaned = [tuple(clean_text(t, task.clean) for t in parts) for parts in texts]
        columns = [list(column) for column in zip(*cleaned, strict=True)]
        encoded = self.tokenizer(
            *columns, truncation=True, max_length=min(task.max_length, self._longest())
        )
        ids = encoded["input_ids"]
        lengths = np.array([len(i) for i in ids], dtype=np.int32)
        budget = max(int(self.config.batch.micro_tokens) * 2, int(lengths.max()))
        cut = cut_step(np.arange(len(ids)), lengths, 1, budget)
        result = np.empty((len(ids), len(self.names)), dtype=np.float32)
        # The precision of training counts only where it was made: bf16 of another device differs.
        same = self.device.type == self.config.engine.device
        precision = self.config.engine.precision if same else "fp32"
        for own in cut.micro[0]:
            if not len(own):
                continue
            batch = self.tokenizer.pad(
                {name: [values[i] for i in own] for name, values in encoded.items()},
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode(), autocast(precision, self.device):
                result[own] = self.model(**batch).logits.float().cpu().numpy()
        return result

    def _longest(self) -> int:
        return int(min(self.tokenizer.model_max_length, 10**6))

    def predict(self, texts: list[tuple[str, ...]]) -> list[Prediction]:
        """Return one prediction an input."""
        if not texts:
            return []
        outputs = self.logits(texts).astype(np.float64)
        if self.regression:
            return [Prediction(None, float(v), {}) for v in outputs[:, 0]]
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return [
            Prediction(
                self.names[int(row.argmax())],
                float(row.max()),
                dict(zip(self.names, row.tolist(), strict=True)),
            )
            for row in probabilities
        ]
