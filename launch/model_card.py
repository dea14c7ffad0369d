"""A model card from what a run knows of itself. Pure.

The front matter is what the hub reads (`modelcard.md` of its documentation): base model, data set,
metrics, and the scores as `model-index`. A card that we made carries a digest of itself, so that
one that a person has changed is told from it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from launch.hub_rows import ENGLISH, differing_rows, of_the_hub
from launch.reporting.records import higher_is_better
from launch.reporting.stats import CONFIDENCE, Interval
from training.config import RunConfig, TaskConfig
from training.config.schema import get_dotted, to_plain

HUB_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "f1": ("f1", "F1"),
    "macro_f1": ("f1", "Macro F1"),
    "weighted_f1": ("f1", "Weighted F1"),
    "matthews": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "mse": ("mse", "Mean squared error"),
}
"""A metric's id on the hub, and its name for people."""

RECIPE = (
    "batch.global_batch optim.name optim.lr optim.lr_rule optim.base_batch optim.beta1 optim.beta2 "
    "optim.eps optim.momentum optim.trust_coefficient optim.weight_decay optim.clip "
    "optim.schedule optim.warmup_ratio optim.warmup_steps train.epochs train.max_steps train.seed "
    "train.select train.eval_every train.patience task.max_length task.clean task.holdout "
    "task.holdout_seed task.train_fraction model.pretrained model.layers model.hidden_size "
    "model.heads model.intermediate_size model.vocab_size model.activation model.dropout "
    "model.attention model.freeze_encoder engine.zero engine.offload engine.precision "
    "engine.compile engine.peer"
).split()
"""The values that a run's numbers follow from, in the order of the card."""

_ONLY: Mapping[str, tuple[str, ...]] = {
    "optim.beta1": ("adamw", "adam", "lamb"),
    "optim.beta2": ("adamw", "adam", "lamb"),
    "optim.eps": ("adamw", "adam", "lamb", "adagrad"),
    "optim.momentum": ("sgd", "lars"),
    "optim.trust_coefficient": ("lars",),
}
"""Values that only some optimizers have."""

_MARK = "<!-- Made by glueline publish; sha256 of the rest: {} -->"
_MARKED = re.compile(r"<!-- Made by glueline publish; sha256 of the rest: ([0-9a-f]{64}) -->\n")
_BEGIN = r"(?<![\w:/.<~-])"
_REST = r"(?:/[\w.+@%~=-]+)*/?(?![\w+@%~=-]|\.\w)"
"""Before a folder that is known, and from there to the end of the path."""
_PATH = re.compile(rf"{_BEGIN}(?:~|\.\.|\.)?(?:/[\w.+@%~=-]+){{2,}}/?")
_BREAK = re.compile(r"[\t\n\r]")
_TOKEN = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,})\b")


@dataclass(frozen=True)
class Facts:
    """What a card tells of a run."""

    name: str
    """ORG/NAME where it is to be published, else the run's id."""
    config: RunConfig
    results: Mapping[str, Any]
    """As results.json."""
    rows: Mapping[str, int]
    """By split."""
    labels: Sequence[str] = ()
    """Names of the classes in the order of their ids; none of a regression."""
    intervals: Mapping[tuple[str, str], Interval] = field(default_factory=dict)
    """Of scores by split and metric, as far as there are any."""
    commit: str | None = None
    """Of the hub's data set, where the rows were fetched from it."""
    data: Sequence[tuple[str, int, str | None]] = ()
    """Files of the rows: name, bytes, SHA-256."""
    weights: Sequence[tuple[str, int, str | None]] = ()
    """Files of the model that was fine-tuned."""
    ranks: Sequence[Mapping[str, Any]] = ()
    """As environment.json has them: device, model, node."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    """As manifest.json: `git` and `code`."""
    attempts: Sequence[str] = ()
    """How each ended: finished, failed, interrupted."""
    command: str | None = None
    """The line that trains it again; None where no line of flags says it."""
    license: str | None = None


def model_card(facts: Facts) -> str:
    """Return the card, sealed with its digest; no path of this machine is in it."""
    sections = (_head, _use, _scores, _data, _recipe, _hardware, _software, _again)
    places = known_places(facts.config)

    def told(section: Callable[[Facts], str]) -> str:
        text = section(facts)
        # Labels and columns are the data's words, even where one looks like a path.
        return text if section is _use else without_paths(text, places)

    body = "\n\n".join(part for section in sections if (part := told(section)))
    dumped = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=100)
    return seal(without_paths(f"---\n{dumped}---\n", places), body + "\n")


def seal(front: str, body: str) -> str:
    """Return front matter and body with a comment between them that holds their digest."""
    return f"{front}{_MARK.format(_digest(front + body))}\n{body}"


def is_ours(text: str) -> bool:
    """Return whether a card was made by us and not changed since."""
    found = _MARKED.search(text)
    return found is not None and _digest(text[: found.start()] + text[found.end() :]) == found[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def known_places(config: RunConfig) -> list[str]:
    """Return the paths that a configuration names, with the folders above them, longest first.

    A path in a text ends where nobody can tell: at a space, a bracket. Of these it is known.
    """
    task = config.task
    named = [task.path, config.model.path, config.engine.zero_config]
    named += [path for paths in task.files.values() for path in paths]
    paths = [PurePosixPath(path) for path in named if path and path.startswith("/")]
    found = {str(path) for path in paths}
    # Two names at least, as any other path has: /data is no secret, and may be a word.
    found |= {str(above) for path in paths for above in path.parents if len(above.parts) > 2}
    return sorted(found, key=lambda place: (-len(place), place))


def without_paths(text: str, places: Iterable[str] = ()) -> str:
    """Return text with the last name in the place of every path; addresses of the web stay.

    Args:
        text: to be published.
        places: paths that are known, whatever signs are in them, the longest first.
    """
    text = text.replace("file://", "")
    if known := "|".join(map(re.escape, places)):
        text = re.sub(f"{_BEGIN}(?:{known}){_REST}", _last_name, text)
    return _PATH.sub(_last_name, text)


def _last_name(found: re.Match[str]) -> str:
    return found[0].rstrip("/").rpartition("/")[2]


def secrets_in(text: str, environ: Mapping[str, str]) -> list[str]:
    """Return what looks like a secret in a text, by its name and never by its value.

    Args:
        text: what is to be published.
        environ: environment variables whose names say that they are secret.
    """
    found = [f"the value of ${name}" for name, v in environ.items() if len(v) >= 8 and v in text]
    if not found and (token := _TOKEN.search(text)):
        found.append(f"a token ({token[0][:3]}…)")
    return sorted(found)


def other_rows(facts: Facts) -> list[str]:
    """Return how the rows differ from those of the hub's data set, a phrase a split; none if not.

    By their number. Of a data set that we do not know nothing is said.
    """
    return [
        f"{split} has {here:,} rows here and {there:,} there"
        for split, (here, there) in differing_rows(facts.config.task, facts.rows).items()
    ]


def front_matter(facts: Facts) -> dict[str, Any]:
    """Return what the hub reads of a card. What is not known for certain is left out."""
    config, task = facts.config, facts.config.task
    ours = of_the_hub(task) and not other_rows(facts)
    found: dict[str, Any] = {}
    if task.hub in ENGLISH and of_the_hub(task):
        found["language"] = ["en"]
    if facts.license:
        found["license"] = facts.license
    found["library_name"] = "transformers"
    found["pipeline_tag"] = "text-classification"
    found["tags"] = ["glueline"]
    if config.model.hub and config.model.pretrained:
        found["base_model"] = config.model.hub
    if ours:
        found["datasets"] = [task.hub]
    scored = _scored(facts)
    names = dict.fromkeys(metric for metrics in scored.values() for metric in metrics)
    if names:
        found["metrics"] = list(dict.fromkeys(_hub_metric(name)[0] for name in names))
    results = [_result(facts, split, metrics, ours) for split, metrics in scored.items()]
    if results:
        found["model-index"] = [{"name": facts.name.rpartition("/")[2], "results": results}]
    return found


def _scored(facts: Facts) -> dict[str, dict[str, float]]:
    """Return the scores that are numbers, by split and metric."""
    found = {}
    for split, metrics in (facts.results.get("metrics") or {}).items():
        kept = {name: float(v) for name, v in metrics.items() if isinstance(v, (int, float))}
        if kept:
            found[split] = kept
    return found


def _hub_metric(name: str) -> tuple[str, str]:
    return HUB_METRICS.get(name, (name, name))


def _result(facts: Facts, split: str, metrics: Mapping[str, float], ours: bool) -> dict[str, Any]:
    task = facts.config.task
    # A split that we held out of the training rows is none of the data set's.
    if ours:
        dataset = {"type": task.hub, "name": " ".join(filter(None, (task.hub, task.subset)))}
        dataset |= {"config": task.subset} if task.subset else {}
        dataset |= {"revision": facts.commit} if facts.commit else {}
    else:
        dataset = {"type": "local", "name": f"{task.name} (own rows)"}
    held = task.holdout > 0 and split == "validation"
    dataset["split"] = f"{task.train} (held out)" if held else split
    told = []
    for name, value in metrics.items():
        kind, shown = _hub_metric(name)
        told.append({"type": kind, "name": shown, "value": value})
    return {
        "task": {"type": "text-classification", "name": "Text Classification"},
        "dataset": dataset,
        "metrics": told,
    }


def _base(facts: Facts) -> str:
    """Return what was fine-tuned, in words."""
    model = facts.config.model
    if model.architecture:
        return f"A {model.architecture} model from random weights, trained on"
    origin = f"`{model.name}`"
    if model.hub:
        origin = f"[{model.hub}](https://huggingface.co/{model.hub})"
    elif model.package:
        origin += f" (of the Python package {model.package})"
    if not model.pretrained:
        return f"The architecture of {origin} from random weights, trained on"
    return f"{origin} fine-tuned on"


def _head(facts: Facts) -> str:
    results = facts.results
    text = f"# {facts.name.rpartition('/')[2]}\n\n{_base(facts)} {_trained_on(facts.config.task)}."
    value, metric, split = (results.get(f"primary_{k}") for k in ("value", "metric", "split"))
    if isinstance(value, (int, float)):
        text += f" {_hub_metric(str(metric))[1]} {_with_interval(facts, split, metric)} on {split}."
    return text


def _trained_on(task: TaskConfig) -> str:
    """Return a task in words: what it says of itself is of its own rows."""
    if task.files and (task.hub or task.folder):
        return f"{task.name} (own rows)"
    return f"{task.name} ({task.description})" if task.description else task.name


def _with_interval(facts: Facts, split: Any, metric: Any) -> str:
    value = (facts.results.get("metrics") or {}).get(split, {}).get(metric)
    if not isinstance(value, (int, float)):
        return "-"
    found = facts.intervals.get((split, metric))
    if found is None or found.low is None or found.high is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _use(facts: Facts) -> str:
    task = facts.config.task
    pair = len(task.text) == 2
    labels = [_BREAK.sub(lambda sign: repr(sign[0])[1:-1], label) for label in facts.labels]
    example = '{"text": "…", "text_pair": "…"}' if pair else '"…"'
    lines = [
        "## Use\n",
        "```python",
        "from transformers import pipeline\n",
        f'classify = pipeline("text-classification", model="{facts.name}")',
        f"print(classify({example}))",
        "```\n",
        f"Input: {' and '.join(task.text)}, up to {task.max_length} tokens. "
        + (f"Labels: {', '.join(labels)}." if labels else "Output: a number."),
    ]
    if task.clean:
        lines.append(f"Texts were cleaned before they were tokenised: {', '.join(task.clean)}.")
    return "\n".join(lines)


def _scores(facts: Facts) -> str:
    scored = _scored(facts)
    task, results = facts.config.task, facts.results
    blind = [s for s in task.test if s not in scored and s in facts.rows]
    if not scored and not blind:
        return ""
    lines = ["## Scores\n"]
    if scored:
        names = list(dict.fromkeys(name for metrics in scored.values() for name in metrics))
        table = [["split", "rows", *(_hub_metric(n)[1] for n in names)]]
        for split in scored:
            count = facts.rows.get(split)
            cells = [_with_interval(facts, split, name) for name in names]
            table.append([split, f"{count:,}" if count else "-", *cells])
        lines += [*_table(table), "", f"{_unit(names)} of the weights in this repository."]
    if any((s, m) in facts.intervals for s in scored for m in scored[s]):
        lines.append(
            f"In brackets the {CONFIDENCE:.0%} interval for a split of this size; other seeds "
            "vary too."
        )
    if facts.config.train.select == "best" and results.get("primary_split") in scored:
        metric = str(results.get("primary_metric"))
        side = "high" if higher_is_better(metric) else "low"
        lines.append(
            f"The checkpoint was chosen by {_hub_metric(metric)[1]} on {results['primary_split']} "
            f"(step {results.get('best_step')}), so this score is on the {side} side."
        )
    if blind:
        lines.append(f"Not scored, for want of labels: {', '.join(blind)}.")
    return "\n".join(lines)


def _unit(names: Sequence[str]) -> str:
    """Return what the numbers of these metrics are, as the beginning of a sentence."""
    errors = [_hub_metric(name)[1].lower() for name in names if not higher_is_better(name)]
    if not errors:
        return "Fractions,"
    if len(errors) == len(names):
        return "Errors (lower is better)"
    return f"Fractions, but for the {' and '.join(errors)} (lower is better),"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return [f"| {head} |", f"|{'---|' * len(rows[0])}", *(f"| {line} |" for line in rest)]


def _data(facts: Facts) -> str:
    task = facts.config.task
    lines = ["## Data\n"]
    if task.generated:
        lines.append(f"Rows made by the generator `{task.generated}` of glueline.")
    elif of_the_hub(task):
        subset = f", configuration {task.subset}" if task.subset else ""
        link = f"[{task.hub}](https://huggingface.co/datasets/{task.hub}){subset}"
        how = f", commit {facts.commit}" if facts.commit else ", from a local copy"
        lines.append(f"{link}{how}.")
        if differs := other_rows(facts):
            lines.append(
                f"**These are not the rows of the hub's data set**: {'; '.join(differs)}. The "
                "scores do not compare with published ones, and the metadata names no data set."
            )
    else:
        lines.append("The author's own files.")
    counts = ", ".join(f"{split} {count:,}" for split, count in facts.rows.items())
    lines.append(f"Rows: {counts}.")
    if task.holdout > 0:
        lines.append(
            f"`validation` is {task.holdout:.2%} of {task.train}, held out by class (seed "
            f"{task.holdout_seed})."
        )
    if task.train_fraction < 1:
        lines.append(f"Trained on {task.train_fraction:.2%} of the training rows.")
    lines += _fingerprints(facts.data)
    return "\n".join(lines)


def _fingerprints(files: Sequence[tuple[str, int, str | None]]) -> list[str]:
    if not files:
        return []
    rows = [["file", "bytes", "SHA-256"]]
    rows += [[name, f"{size}", digest or "not taken"] for name, size, digest in files]
    return ["", *_table(rows)]


def _recipe(facts: Facts) -> str:
    config, results = facts.config, facts.results
    rows = [["setting", "value"]]
    for key in RECIPE:
        value = to_plain(get_dotted(config, key))
        if value is None or value == [] or not _applies(key, config):
            continue
        rows.append([f"`{key}`", _shown(value)])
    done = f"{results.get('steps')} optimizer steps, {results.get('examples_seen')} examples seen"
    if isinstance(epochs := results.get("epochs"), (int, float)):
        done += f", {epochs:.2f} epochs"
    if results.get("stopped_early"):
        done += ", stopped early"
    lines = ["## Recipe\n", *_table(rows), "", f"Done: {done}."]
    if facts.weights:
        lines += ["Weights that it began from:", *_fingerprints(facts.weights)]
    return "\n".join(lines)


def _applies(key: str, config: RunConfig) -> bool:
    """Return whether a value has a part in this run."""
    if key in _ONLY:
        return config.optim.name in _ONLY[key]
    if key == "optim.warmup_ratio":
        return config.optim.warmup_steps is None
    if key == "train.epochs":
        return config.train.max_steps is None
    if key == "model.vocab_size":
        return bool(config.model.architecture)
    if key == "engine.peer":
        return config.engine.peer != "none"
    if key == "task.holdout_seed":
        return config.task.holdout > 0
    return True


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hardware(facts: Facts) -> str:
    results = facts.results
    kinds = Counter(str(rank.get("model") or rank.get("device")) for rank in facts.ranks)
    nodes = len({rank.get("node") for rank in facts.ranks})
    lines = ["## Hardware and time\n"]
    if kinds:
        told = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
        lines.append(f"- {_many(len(facts.ranks), 'rank')} on {_many(nodes, 'node')}: {told}")
    engine = str(results.get("engine") or "")
    if (stage := results.get("zero_stage")) is not None:
        engine += f", ZeRO stage {stage}"
    lines.append(f"- engine: {engine}, {results.get('precision')}")
    throughput = results.get("throughput") or {}
    if isinstance(speed := throughput.get("examples_per_second"), (int, float)):
        lines.append(f"- {speed:.0f} examples a second in training")
    if isinstance(seconds := results.get("wall_seconds"), (int, float)):
        lines.append(f"- {seconds:.0f} seconds in all, without waiting")
    if isinstance(peak := results.get("peak_memory_bytes"), (int, float)):
        lines.append(f"- {peak / (1 << 30):.2f} GiB of memory a rank at most")
    if facts.attempts:
        ends = ", ".join(f"{n} {how or 'ended without a word'}" for n, how in _ends(facts.attempts))
        lines.append(f"- {_many(len(facts.attempts), 'attempt')}: {ends}")
    return "\n".join(lines)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _ends(attempts: Iterable[str]) -> list[tuple[int, str]]:
    return [(count, how) for how, count in Counter(attempts).items()]


def _software(facts: Facts) -> str:
    known = {name: v for name, v in facts.versions.items() if v}
    lines = ["## Software\n"]
    if known:
        lines.append(", ".join(f"{name} {version}" for name, version in known.items()) + ".")
    git = facts.code.get("git") or {}
    if git.get("commit"):
        text = f"glueline at commit {git['commit']}"
        if git.get("dirty"):
            text += f" with changes that were not committed (SHA-256 {git.get('diff_sha256')})"
        lines.append(f"{text}.")
    if facts.code.get("code"):
        lines.append(f"Digest of the code that ran: {facts.code['code']}.")
    return "\n".join(lines) if len(lines) > 1 else ""


def _again(facts: Facts) -> str:
    if facts.command is None:
        return "## Train it again\n\nNo line of flags says this configuration."
    lines = ["## Train it again\n", "```", facts.command, "```"]
    if "--data DIR" in facts.command:
        folder = facts.config.task.folder
        what = f"DIR holds `{folder}/`" if folder else "DIR is the data set's folder,"
        lines.append(f"\n{what} with the files of the table above.")
    return "\n".join(lines)
