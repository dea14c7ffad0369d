"""From what was typed to a complete configuration, every value with where it came from.

Precedence: defaults < model file < task file < site profile < reference < flags < `--set`. What is
`auto` is decided here, once, from what Slurm or this machine says, and stored as decided.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.config import RunConfig, TaskConfig, UsageError, slug
from training.config.schema import build, coerce, leaves, set_dotted
from training.rundir import RUN_ID
from training.sweepdir import sweeps_folder

from . import checks, presets
from .auto import decide
from .flags import Request
from .with_reference import asked_reference, recipe, recipe_notes

DEFAULT_MODEL = "bert-base-uncased"
HELD_OUT = 0.1
"""Fraction of the training rows that validates where files were given, but none for validation."""


@dataclass(frozen=True)
class Resolved:
    """A run's configuration before anything is fetched."""

    config: RunConfig
    origins: dict[str, str]
    """Where each value that is not a default came from, by dotted key."""
    runs: Path
    """The runs folder."""
    notes: list[str] = field(default_factory=list)
    """What a person should know, although it is no error."""


class Draft:
    """Values by dotted key, typed, with their origins; later ones win."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def put(self, key: str, value: Any, origin: str, where: str | None = None) -> None:
        """Set a value.

        Args:
            key: dotted; below a mapping (`cluster.env.X`) one entry of it.
            value: as typed, or of its type.
            origin: who sets it.
            where: how an error names the place, if not by origin and key.

        Raises:
            UsageError: there is no such key, or the value is of the wrong type.
        """
        leaf = presets.check_key(key, where or origin)
        annotation = leaves(RunConfig)[leaf][1]
        if leaf != key:  # one entry of a mapping: the others stay
            below = key[len(leaf) + 1 :]
            value = {**self.values.get(leaf, {}), below: value}
        self.values[leaf] = coerce(value, annotation, where or f"{origin}: {key}")
        self.origins[leaf] = origin

    def preset(self, preset: presets.Preset) -> None:
        """Set all values of a preset."""
        for key, value in preset.values.items():
            self.put(key, value, preset.origin)

    def build(self) -> RunConfig:
        """Return the configuration that the values make."""
        nested: dict[str, Any] = {}
        for key, value in self.values.items():
            set_dotted(nested, key, value)
        return build(RunConfig, nested)


def runs_folder(typed: str | None, profile: str | None = None) -> Path:
    """Return the runs folder: `--runs`, else $GLUELINE_RUNS, the profile's, or `runs` here."""
    text = typed or os.environ.get("GLUELINE_RUNS") or profile or "runs"
    path = Path(text).expanduser().absolute()
    # Nodes need not have the folders that `..` leads out of.
    return path.resolve() if ".." in path.parts else path


def known_runs(typed: str | None, *names: str) -> Path:
    """Return the runs folder of a command that looks at runs: the one that `submit` takes here.

    Where neither `--runs` nor $GLUELINE_RUNS says it, that is the saved profile's, but for runs
    that lie in `runs` here: `--executor local` takes no profile.

    Args:
        typed: what `--runs` says.
        names: of the runs or sweeps that are looked at; none: all.
    """
    here = runs_folder(typed)
    if typed or os.environ.get("GLUELINE_RUNS"):
        return here
    plain = [n for n in names if RUN_ID.match(n)]
    if any((here / n).exists() or (sweeps_folder(here) / n).exists() for n in plain):
        return here
    try:
        site = presets.chosen_cluster(None)
    except presets.UnknownCluster as error:
        print(f"note: looked in {here}: {error}; --runs DIR names a folder", file=sys.stderr)
        return here
    except UsageError:
        return here  # a profile that is wrong is told where one is needed
    if site is None or site.runs is None:
        return here
    folder = runs_folder(None, site.runs)
    if not names and folder != here and here.is_dir():
        print(f"note: these are in {folder}; for those in {here} add --runs runs", file=sys.stderr)
    return folder


def compose(request: Request) -> tuple[RunConfig, dict[str, str], str | None]:
    """Return the configuration as asked for, `auto` values still in it.

    Returns:
        The configuration, the origins by dotted key, and the profile's runs folder.

    Raises:
        UsageError: a name, key or value is wrong.
    """
    draft = Draft()
    reference = asked_reference(request)
    published = reference.model if reference else DEFAULT_MODEL
    draft.preset(presets.model_preset(request.model or published))
    if task := request.task or (reference.task if reference else None):
        draft.preset(presets.task_preset(task))
    profile = None
    executor = next((o.value for o in request.flags if o.key == "cluster.executor"), None)
    site = presets.chosen_cluster(request.cluster, executor)
    if site is not None:
        draft.preset(site)
        profile = site.runs
    if reference is not None:
        for key, value, origin in recipe(reference, request):
            draft.put(key, value, origin)
    put_typed(draft, request)
    put_data(draft, request)
    return draft.build(), draft.origins, profile


def put_typed(draft: Draft, request: Request) -> None:
    """Set what was typed key by key: flags, files, options of sbatch, then `--set`.

    Raises:
        UsageError: a key or value is wrong, or a file is not there.
    """
    for override in request.flags:
        draft.put(override.key, override.value, override.origin, override.origin)
    put_files(draft, request)
    for key, value in request.sbatch.items():
        draft.put(f"cluster.sbatch.{key}", value, "--sbatch")
    for override in request.sets:
        draft.put(override.key, override.value, override.origin, f"--set {override.key}")


def put_files(draft: Draft, request: Request) -> None:
    """Make the splits of a task what the files given by flags hold."""
    if not request.files:
        return
    if "train" not in request.files:
        raise UsageError("--validation-file and --test-file need --train-file too")
    files = {
        split: [str(Path(f).expanduser().absolute()) for f in paths]
        for split, paths in request.files.items()
    }
    for split, paths in files.items():
        for path in paths:
            if Path(path).is_dir():
                raise UsageError(f"--{split}-file {path} is a folder: name the files in it")
            if not Path(path).is_file():
                raise UsageError(f"--{split}-file {path}: there is no such file")
    # Files take the place of the rows that the task has of its own, and of what it says of them.
    own = [k for k in ("generated", "hub", "path", "subset") if draft.values.get(f"task.{k}")]
    for key in own:
        draft.put(f"task.{key}", None, "--train-file takes its place")
    if draft.values.get("task.description") and (own or draft.values.get("task.files")):
        draft.put("task.description", "", "--train-file takes its place")
    if draft.values.get("task.labels"):
        draft.put("task.labels", [], "--train-file takes their place")
    draft.put("task.files", files, "--train-file")
    draft.put("task.train", "train", "--train-file")
    given = "validation" in files
    draft.put("task.validation", ["validation"] if given else [], "files given")
    draft.put("task.test", ["test"] if "test" in files else [], "files given")
    if given:
        draft.put("task.holdout", 0.0, "--validation-file")
    elif not draft.values.get("task.holdout"):
        draft.put("task.holdout", HELD_OUT, "no --validation-file: held out of the training rows")


def put_data(draft: Draft, request: Request) -> None:
    """Name a task that no file names, and say where its data lies."""
    if not request.task and "task.name" not in draft.values:
        if request.files:
            name = Path(request.files["train"][0]).stem
        elif draft.values.get("task.hub"):
            subset = draft.values.get("task.subset")
            name = draft.values["task.hub"].split("/")[-1] + (f"-{subset}" if subset else "")
        elif draft.values.get("task.path"):
            name = Path(draft.values["task.path"]).name
        else:
            raise UsageError(
                "which task? use --task NAME or FILE, --train-file FILE or --dataset HUB_ID "
                f"(tasks: {', '.join(presets.names('tasks'))})"
            )
        draft.put("task.name", slug(name), "the data's name")
    if own := draft.values.get("task.path"):
        draft.values["task.path"] = str(Path(own).expanduser().absolute())
    if request.data is not None and not draft.values.get("task.files"):
        from training.sources import resolve_data_dir

        folder = Path(request.data).expanduser()
        if not folder.is_dir():
            raise UsageError(f"--data {request.data}: there is no such folder")
        task = draft.build().task
        if task.generated is None:
            path = resolve_data_dir(task, folder.absolute())
            draft.put("task.path", str(path), "--data")


def load_task(text: str) -> TaskConfig:
    """Return the task that a name in `configs/tasks/` or a YAML file means.

    Raises:
        UsageError: it is unknown or wrong.
    """
    draft = Draft()
    for key, value in presets.task_preset(text).values.items():
        if key.startswith("task."):
            draft.put(key, value, f"task {text}")
    task = draft.build().task
    task.check()
    return task


def resolve(request: Request) -> Resolved:
    """Return the complete configuration that a request means.

    Raises:
        UsageError: something about the request is wrong, as far as this machine can tell; rows
            and weights are looked at by `checks.look_at_inputs`.
    """
    config, origins, profile = compose(request)
    config.check()
    checks.check_names(config)
    checks.check_packages(config)
    draft = Draft()
    fill(draft, config)
    notes: list[str] = []
    for key, value, reason in decide(config):
        draft.put(key, value, reason)
        origins[key] = reason
    config = draft.build()
    config.check()
    runs = runs_folder(request.runs, profile)
    if request.cluster is None and config.cluster.profile is not None:
        notes.append(
            f"site profile {config.cluster.profile}, which doctor saved, is in use "
            "(--cluster none leaves it out)"
        )
    if (reference := asked_reference(request)) is not None:
        place = tuple(o for o in request.flags if o.key.startswith("cluster."))
        published, _, _ = compose(replace(request, flags=place, sets=()))
        notes += recipe_notes(reference, request, config, published)
    notes += checks.unused_settings(config)
    notes += checks.check_devices(config)
    notes += checks.check_places(config, runs)
    checks.check_notice(config)
    return Resolved(config, origins, runs, notes)


def fill(draft: Draft, config: RunConfig) -> None:
    """Put every value of a built configuration into a draft."""
    for key in leaves(RunConfig):
        section, name = key.split(".")
        draft.values[key] = getattr(getattr(config, section), name)


def as_rows(config: RunConfig, origins: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """Return (key, value, origin) of every value of the configuration, in its order."""
    rows = []
    for key in leaves(RunConfig):
        section, name = key.split(".")
        rows.append((key, getattr(getattr(config, section), name), origins.get(key, "default")))
    return rows
