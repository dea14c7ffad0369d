"""What the files of a run say of it, as far as another run may differ in it.

A file that is missing or damaged is named in `notes`, and what it would have said is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.manifest import HASH_LIMIT
from launch.reporting.records import mapping, whole
from training.config import ModelConfig, RunConfig, UsageError
from training.label_order import look_at_head
from training.predictions import predicted_classes
from training.rundir import (
    CACHE_FOLDER,
    RunDir,
    read_json,
    read_metrics,
    run_state,
    snapshot,
)
from training.scaling import scaled_for
from training.schedule import warmup_steps
from training.sources import model_folder

COUNTED = ("out_of_memory", "interrupted", "checkpoint_damaged")
"""Events of the log that are counted."""

WEIGHTS = (".safetensors", ".bin")
PLAIN = "plain"
"""Of heads: drawn anew, or with its labels in the data's order."""
HEAD_EVENT = "pretrained_head"
"""Logged at the start of a run whose model came with a head for other labels."""


@dataclass(frozen=True)
class Digests:
    """The files of one kind by what they hold, not by where they lie."""

    files: Mapping[str, str]
    """Name of a file that was read to its SHA-256."""
    unread: Mapping[str, int | None] = field(default_factory=dict)
    """Name of a file that was too large to be read to its bytes; None: not known either."""

    def __bool__(self) -> bool:
        return bool(self.files or self.unread)

    def __len__(self) -> int:
        return len(self.files) + len(self.unread)

    def same(self, other: Digests) -> bool | None:
        """Return whether both hold the same; None where that is not known.

        Files of which only the size is known differ where that does, and where it is the same
        nothing is known.
        """
        if not self or not other:
            return None
        if sorted(self.files.values()) != sorted(other.files.values()):
            return False
        if Counter(self.unread.values()) != Counter(other.unread.values()):
            return None if None in (*self.unread.values(), *other.unread.values()) else False
        return None if self.unread else True

    def unlike(self, other: Digests) -> list[str]:
        """Return the names of the files here that the other has nothing like."""
        digests, sizes = set(other.files.values()), set(other.unread.values())
        found = [name for name, digest in self.files.items() if digest not in digests]
        return sorted([*found, *(name for name, size in self.unread.items() if size not in sizes)])

    def brief(self) -> list[str]:
        """Return for each file its name, and how its digest begins or its size."""
        read = [f"{name} {digest[:8]}" for name, digest in self.files.items()]
        return sorted([*read, *(f"{name} {size} bytes" for name, size in self.unread.items())])


NONE = Digests({})


@dataclass(frozen=True)
class Facts:
    """A run as another one is compared with it."""

    run_id: str
    path: Path
    finished: bool
    state: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """By dotted key; empty where it cannot be read."""
    in_force: Mapping[str, Any] = field(default_factory=dict)
    """What follows from the configuration: the optimizer's settings after the learning-rate rule
    by dotted key, `warmup` and `steps` in optimizer steps."""
    results: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows by split, as planned."""
    data: Digests = NONE
    tokens: Mapping[str, Digests] = field(default_factory=dict)
    """Prepared arrays by split: what the run reads; empty where nothing was prepared."""
    weights: Digests = NONE
    tokenizer: Digests = NONE
    data_labels: tuple[str, ...] = ()
    """As prepared; where that is gone, as the predictions name their columns."""
    model_labels: tuple[str, ...] = ()
    head: str = ""
    """How the pretrained model's own head stood to the data's labels: `label_order.Head.kind`, or
    `plain` where there was nothing to say; empty if nothing is known."""
    head_handled: bool = False
    """The run's log says that this was seen."""
    history: Mapping[str, int] = field(default_factory=dict)
    """Attempts, and events that are counted."""
    code: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Files that are missing or damaged."""


def read_facts(run: RunDir) -> Facts:
    """Return what a run's files say.

    Raises:
        UsageError: a newer glueline made it, or its configuration holds a wrong value.
    """
    notes: list[str] = []
    config = _config(run, notes)
    files = snapshot(run)
    manifest = _read(run, run.manifest, notes)
    results = _read(run, run.results, notes, needed=False)
    plan = _read(run, run.plan, notes)
    attempts = run.attempt_numbers()
    seen = _environment(run, attempts)
    if results and not seen:
        notes.append("attempts/*/environment.json: missing or damaged")
    splits, names = _tokens(run)
    names = names or predicted_classes(run)
    return Facts(
        run_id=run.run_id,
        path=run.path,
        finished=bool(results),
        state=run_state(files, None),
        config=_flat(config) if config else {},
        in_force=_in_force(config, plan, results) if config else {},
        results=results,
        rows={k: v for k, n in mapping(plan.get("rows")).items() if (v := whole(n)) is not None},
        data=_digests(manifest.get("data")),
        tokens=splits,
        weights=_digests(manifest.get("weights"), _of_weights),
        tokenizer=_digests(manifest.get("weights"), _of_tokenizer),
        data_labels=names,
        model_labels=_model_labels(run),
        **_head(run, config, names),
        history=_history(run, attempts),
        code=_code(manifest),
        versions=_versions(manifest, seen),
        hardware=_hardware(plan, results, seen),
        notes=tuple(f"{run.run_id}: {note}" for note in notes),
    )


def same_commit(left: Any, right: Any) -> bool:
    """Return whether two folders hold the same commit of the hub, as the cache names them."""
    paths = [Path(str(side)) for side in (left, right)]
    return all(CACHE_FOLDER in p.parts for p in paths) and paths[0].name == paths[1].name


def unread_notes(a: Facts, b: Facts) -> list[str]:
    """Return what two runs' files do not tell because they were too large to be read."""
    found = []
    for what, key, ours, theirs in (
        ("data", "task.path", a.data, b.data),
        ("weights", "model.path", a.weights, b.weights),
    ):
        if same_commit(a.config.get(key), b.config.get(key)):
            continue
        if ours.unread and theirs.unread and ours.same(theirs) is None:
            names = ", ".join(sorted(ours.unread))
            found.append(
                f"{what}: whether {names} holds the same in both is not known: of files above "
                f"{HASH_LIMIT >> 30} GiB only the size is compared"
            )
    return found


def label_warnings(facts: Facts) -> list[str]:
    """Return what is wrong with the order of a run's labels, a line each."""
    found = []
    if facts.model_labels and facts.data_labels and facts.model_labels != facts.data_labels:
        found.append(
            f"{facts.run_id}: model/ has the labels {', '.join(facts.model_labels)}, its data "
            f"{', '.join(facts.data_labels)}: scores by number and by name do not agree"
        )
    if facts.head == "reordered" and not facts.head_handled:
        found.append(
            f"{facts.run_id}: its pretrained model has a trained head with the labels in another "
            "order than the data, and the run did not put its rows in order"
        )
    return found


def _config(run: RunDir, notes: list[str]) -> RunConfig | None:
    """Return the configuration; None where the file is missing or no YAML.

    Raises:
        UsageError: a newer glueline made the run, or a value is wrong.
    """
    from launch.presets import read_yaml
    from launch.resume import load_run

    try:
        return load_run(run)
    except UsageError as error:
        try:
            read_yaml(run.config)
        except UsageError:
            newer = whole(mapping(read_json(run.manifest)).get("format"))
            from launch.manifest import RUN_FORMAT

            if newer is None or newer <= RUN_FORMAT:
                notes.append(f"config.yaml: {error}")
                return None
        raise


def _read(run: RunDir, path: Path, notes: list[str], needed: bool = True) -> dict[str, Any]:
    found = read_json(path)
    if isinstance(found, dict):
        return found
    if path.exists():
        notes.append(f"{path.relative_to(run.path)}: damaged, no JSON object")
    elif needed:
        notes.append(f"{path.relative_to(run.path)}: missing")
    return {}


def _flat(config: RunConfig) -> Mapping[str, Any]:
    from launch.reporting.repeat import flat

    return flat(config)


def _in_force(
    config: RunConfig, plan: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    optim = scaled_for(config)
    steps = whole(plan.get("steps")) or config.train.max_steps
    if results and not results.get("stopped_early"):
        steps = whole(results.get("steps")) or steps
    found: dict[str, Any] = {f"optim.{key}": value for key, value in vars(optim).items()}
    return found | {"steps": steps, "warmup": warmup_steps(optim, steps) if steps else None}


def _environment(run: RunDir, attempts: Iterable[int]) -> dict[str, Any]:
    """Return the `environment.json` of the last attempt that wrote one."""
    for number in sorted(attempts, reverse=True):
        if found := mapping(read_json(run.environment(number))):
            return found
    return {}


def _of_tokenizer(path: Path) -> bool:
    """Return whether a model's file belongs to its tokenizer."""
    named = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")
    return path.name.startswith(named) or path.suffix == ".model"


def _of_weights(path: Path) -> bool:
    return path.suffix in WEIGHTS


def _digests(listed: Any, wanted: Callable[[Path], bool] | None = None) -> Digests:
    found: dict[str, str] = {}
    unread: dict[str, int | None] = {}
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            continue
        path = Path(entry["path"])
        if wanted is not None and not wanted(path):
            continue
        name, count = path.name, 2
        while name in found or name in unread:  # the same name in two folders
            name, count = f"{path.name} ({count})", count + 1
        if digest := entry.get("sha256"):
            found[name] = str(digest)
        else:
            unread[name] = whole(entry.get("bytes"))
    return Digests(found, unread)


def _tokens(run: RunDir) -> tuple[dict[str, Digests], tuple[str, ...]]:
    """Return the digests of the prepared arrays by split, and the data's label names."""
    from training.prepared import read_entry

    note = mapping(read_json(run.prepared))
    entry = read_entry(run.cache, str(note["entry"])) if note.get("entry") else None
    about = mapping(read_json(entry.tokens / "manifest.json")) if entry else {}
    splits: dict[str, dict[str, str]] = {}
    for name, file in mapping(about.get("files")).items():
        split, _, array = str(name).partition("/")
        digest = mapping(file).get("sha256")
        if array and digest:
            splits.setdefault(split, {})[array.removesuffix(".npy")] = str(digest)
    return {k: Digests(v) for k, v in splits.items()}, _names(about.get("label_names"))


def _names(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _model_labels(run: RunDir) -> tuple[str, ...]:
    """Return the labels of the exported model in order; none of a regression, or without one."""
    described = mapping(read_json(run.model / "config.json"))
    if described.get("problem_type") == "regression":
        return ()
    named = {str(k): str(v) for k, v in mapping(described.get("id2label")).items()}
    found = tuple(named.get(str(i), "") for i in range(len(named)))
    return found if all(found) else ()


def _head(run: RunDir, config: RunConfig | None, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return how the pretrained head stood to the data's labels, where anything tells it.

    The log of a run does, if there was anything to say; else its model, while that is there.
    """
    logged = [e for e in read_metrics(run.metrics) if e.get("event") == HEAD_EVENT]
    if logged:
        return {"head": str(logged[-1].get("labels") or ""), "head_handled": True}
    if config is None:
        return {}
    model = config.model
    from_sizes = model.architecture and not (model.path or model.package)
    if config.task.problem == "regression" or from_sizes or not model.pretrained:
        return {"head": PLAIN}
    if not wanted or not _has_model(model):
        return {}
    head = look_at_head(model, wanted)
    return {"head": head.kind if head else PLAIN}


def _has_model(model: ModelConfig) -> bool:
    """Return whether a run's model is still there to be looked at."""
    try:
        folder = model_folder(model)
    except UsageError:
        return False
    return folder is not None and isinstance(read_json(folder / "config.json"), dict)


def _history(run: RunDir, attempts: list[int]) -> dict[str, int]:
    events = [e for e in read_metrics(run.metrics) if e.get("kind") == "event"]
    found = {name: sum(e.get("event") == name for e in events) for name in COUNTED}
    return {"attempts": len(attempts), **found}


def _code(manifest: Mapping[str, Any]) -> dict[str, Any]:
    git = mapping(manifest.get("git"))
    return {
        "commit": git.get("commit"),
        "diff": git.get("diff_sha256"),
        "digest": manifest.get("code"),
    }


def _versions(manifest: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, str]:
    """Return versions of packages: those that ranks saw go before those of the login node."""
    found = {**mapping(manifest.get("versions")), **mapping(seen.get("versions"))}
    if "python" not in found and manifest.get("python"):
        found["python"] = manifest["python"]
    return {str(k): str(v) for k, v in found.items() if v is not None}


def _hardware(
    plan: Mapping[str, Any], results: Mapping[str, Any], seen: Mapping[str, Any]
) -> dict[str, Any]:
    listed = seen.get("ranks")
    ranks = [r for r in listed if isinstance(r, dict)] if isinstance(listed, list) else []
    kinds = sorted({str(r.get("model") or r.get("device")) for r in ranks})
    return {
        "world_size": whole(results.get("world_size")) or whole(plan.get("world_size")),
        "device": ", ".join(kinds) or None,
        "hosts": ", ".join(sorted({str(r.get("host")) for r in ranks})) or None,
    }
