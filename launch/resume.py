"""`submit --resume RUN`: a run goes on, on another shape if wanted, as the same experiment.

What may change is where and how fast it is computed. What would make it another experiment is
refused, with both values.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from training.checkpoints import FORMAT as CHECKPOINT_FORMAT
from training.checkpoints import complete, format_of, is_newer, newest_sound
from training.config import RunConfig, UsageError, load_config
from training.config.cluster import ClusterConfig
from training.config.schema import field_types, leaves
from training.rundir import RunDir, read_json, write_atomic

from . import checks, presets
from .existing import differences
from .flags import Request
from .manifest import RUN_FORMAT
from .resolve import Draft, fill, put_data, put_typed

if TYPE_CHECKING:
    from .plan import Plan
    from .preparation import Inputs

MAY_CHANGE = frozenset(
    "engine.zero engine.zero_config engine.zero_settings engine.offload engine.timeout "
    "engine.hang_timeout engine.bucket_megabytes batch.micro_tokens train.save_every "
    "train.log_every train.keep train.fault".split()
)
"""Keys that change where, how fast or how visibly a run is computed, never what."""
SECTIONS_MAY_CHANGE = ("cluster", "tracking")

OF_THE_RUN = (
    "nodes procs_per_node time min_nodes max_requeues max_retries requeue successors".split()
)
"""What stays of `cluster` under another site profile; the rest belongs to the old site."""


@dataclass(frozen=True)
class Resumed:
    """How a run is to go on."""

    config: RunConfig
    changed: dict[str, list[Any]]
    """Old and new value by dotted key, ready for JSON."""
    origins: dict[str, str]
    """Where each changed value came from."""
    step: int | None
    """The checkpoint it goes on from; None: from the beginning."""
    notes: tuple[str, ...] = ()


def may_change(key: str) -> bool:
    """Return whether a run may be continued with another value of this key."""
    return key in MAY_CHANGE or key.split(".")[0] in SECTIONS_MAY_CHANGE


def resumed(request: Request, run: RunDir) -> Resumed:
    """Return how a run goes on as the request asks.

    Raises:
        UsageError: it would be another experiment, does not fit where it is to run, or was made
            by a newer glueline.
    """
    old = load_run(run)
    step = check_checkpoints(run)
    asked, origins = apply(request, old)
    refuse_another_experiment(run, old, asked, origins)
    config, decided, notes = decide_again(old, asked, typed=request)
    origins |= decided
    notes += [f"checkpoint {problem}: left out" for problem in newest_sound(run)[1]]
    notes += checks.check_devices(config)
    notes += checks.check_places(config, run.path.parent)
    checks.check_notice(config)
    changed = differences(old, config)
    return Resumed(
        config,
        changed,
        {key: origins.get(key, "follows") for key in changed},
        step,
        tuple(notes),
    )


def load_run(run: RunDir) -> RunConfig:
    """Return a run's configuration.

    Raises:
        UsageError: it cannot be read; where it has unknown keys, that a newer glueline made it.
    """
    manifest = read_json(run.manifest)
    manifest = manifest if isinstance(manifest, dict) else {}
    version = (manifest.get("versions") or {}).get("glueline")
    newer = "a newer glueline" + (f" ({version})" if version else "")
    if manifest.get("format", 0) > RUN_FORMAT:
        raise UsageError(
            f"run {run.run_id} was made by {newer}: its run directory has format "
            f"{manifest['format']}, this one knows {RUN_FORMAT}: continue it with that one"
        )
    try:
        return load_config(run.config)
    except UsageError:
        unknown = _unknown_keys(run.config)
        if not unknown:
            raise
        raise UsageError(
            f"run {run.run_id} was made by {newer}: its config.yaml has keys that this one does "
            f"not know ({', '.join(unknown)}): continue it with that one"
        ) from None


def _unknown_keys(path: Path) -> list[str]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return []
    if not isinstance(values, Mapping):
        return []
    sections, unknown = field_types(RunConfig), []
    for section, content in values.items():
        if section not in sections:
            unknown.append(str(section))
        elif isinstance(content, Mapping):
            known = field_types(sections[section])
            unknown += [f"{section}.{key}" for key in content if key not in known]
    return unknown


def check_checkpoints(run: RunDir) -> int | None:
    """Return the step that a run goes on from, None if it has no checkpoint yet.

    Raises:
        UsageError: its newest checkpoint was written by a newer glueline.
    """
    for folder in complete(run)[:1]:
        if is_newer(folder):
            raise UsageError(
                f"run {run.run_id} was trained by a newer glueline: its checkpoint {folder.name} "
                f"has format {format_of(folder)}, this one reads {CHECKPOINT_FORMAT}: continue it "
                "with that one"
            )
    return newest_sound(run)[0]


def goes_on(step: int | None) -> str:
    """Return in words where a run that is submitted again begins."""
    if step is None:
        return "starts at step 0: it has no checkpoint yet"
    return f"goes on from step {step}"


def apply(request: Request, config: RunConfig) -> tuple[RunConfig, dict[str, str]]:
    """Return a run's configuration with what was typed on top of it, and the origins of that.

    Raises:
        UsageError: a name, key or value is wrong.
    """
    draft = Draft()
    fill(draft, config)
    if request.model:
        _put(draft, presets.model_preset(request.model), "model.")
    if request.task:
        _put(draft, presets.task_preset(request.task), "task.")
    if request.cluster and (site := presets.chosen_cluster(request.cluster)):
        if site.values.get("cluster.profile") != config.cluster.profile:
            _leave_site(draft, site.origin)
        _put(draft, site, "cluster.")
    put_typed(draft, request)
    if request.data is not None:
        put_data(draft, request)
    if request.given("engine.zero_config"):
        draft.put("engine.zero_settings", {}, "read again")
    if request.given("engine.zero") and draft.values["engine.zero"] is None:
        # What only ZeRO has goes with it.
        ours = {"engine.offload": "none", "engine.zero_config": None, "engine.zero_settings": {}}
        for key, none in ours.items():
            if not request.given(key) and draft.values[key] != none:
                draft.put(key, none, "--zero none")
    return draft.build(), draft.origins


def _put(draft: Draft, preset: presets.Preset, section: str) -> None:
    """Put what a preset says of its own section: its defaults for others were the run's choice."""
    for key, value in preset.values.items():
        if key.startswith(section):
            draft.put(key, value, preset.origin)


def _leave_site(draft: Draft, origin: str) -> None:
    """Forget what belongs to the site that the run leaves."""
    fresh = ClusterConfig()
    for key in leaves(RunConfig):
        section, name = key.split(".")
        if section == "cluster" and name not in OF_THE_RUN:
            draft.put(key, getattr(fresh, name), origin)


def refuse_another_experiment(
    run: RunDir, old: RunConfig, asked: RunConfig, origins: Mapping[str, str]
) -> None:
    """Raise `UsageError` if what is asked for is not the run that is there."""
    refused = {k: v for k, v in differences(old, asked).items() if not may_change(k)}
    if not refused:
        return
    shown = "; ".join(
        f"{key} is {there!r} there, {new!r} asked ({origins.get(key, 'typed')})"
        for key, (there, new) in refused.items()
    )
    raise UsageError(
        f"run {run.run_id} would be another experiment: {shown}: leave that out, or submit a new "
        "run without --resume"
    )


def decide_again(
    old: RunConfig, asked: RunConfig, typed: Request
) -> tuple[RunConfig, dict[str, str], list[str]]:
    """Return the configuration with what follows from the shape decided anew.

    Returns:
        The configuration, the reasons by key, and what a person should know.

    Raises:
        UsageError: values contradict each other, or the partition cannot hold the run.
    """
    from .auto import decide

    def moved(*names: str) -> bool:
        return any(
            getattr(old.cluster, name) != getattr(asked.cluster, name)
            for name in ("profile", "partition", "executor", *names)
        )

    def given(name: str) -> bool:
        return typed.given(f"cluster.{name}")

    cluster = asked.cluster
    if moved("procs_per_node") and not given("gpus_per_node"):
        cluster = replace(cluster, gpus_per_node=None)
    if given("gpus_per_node") and not given("procs_per_node") and asked.engine.device == "cuda":
        cluster = replace(cluster, procs_per_node=None)  # one a GPU
    if moved("procs_per_node", "gpus_per_node") and not given("cpus_per_node"):
        cluster = replace(cluster, cpus_per_node=None)
    config = _without_lost(replace(asked, cluster=cluster))
    config.check()
    checks.check_names(config)
    checks.check_packages(config)
    draft = Draft()
    fill(draft, config)
    for key, value, reason in decide(config):
        draft.put(key, value, reason)
    config = draft.build()
    config.check()
    notes = []
    if old.world_size != config.world_size:
        notes.append(f"{old.world_size} ranks before, {config.world_size} now: the same batches")
    return config, draft.origins, notes


def _without_lost(config: RunConfig) -> RunConfig:
    """Return the configuration without folders of fetched things that are gone: fetch again."""
    model, task = config.model, config.task
    if model.hub and model.path and not Path(model.path).exists():
        model = replace(model, path=None)
    if task.hub and task.path and not Path(task.path).exists():
        task = replace(task, path=None)
    return replace(config, model=model, task=task)


@contextlib.contextmanager
def replaced(
    run: RunDir, config: RunConfig, plan: Plan, inputs: Inputs | None = None
) -> Iterator[None]:
    """Write what launch says of a run anew; if what follows fails, the old files stand again.

    Each file is replaced in one move. `request.json` goes: what was asked of the last job (stop,
    say) is not asked of the next one.

    Raises:
        UsageError: the folder cannot be written; nothing is changed then.
    """
    import json

    from .executor import batch_script, node_command
    from .submit import NO_SCRIPT

    texts = {
        run.config: config.dump(),
        run.plan: json.dumps(plan.to_json(), indent=1, ensure_ascii=False) + "\n",
        run.submission: batch_script(config, run) or NO_SCRIPT,
        run.command: node_command(config, run),
    }
    if inputs is not None:
        texts[run.prepared] = json.dumps(inputs.plain(), indent=1) + "\n"
    before = {path: _read(path) for path in (*texts, run.request, run.prepared)}
    try:
        try:
            for path, text in texts.items():
                _write(path, text, executable=path.suffix == ".sh")
            run.request.unlink(missing_ok=True)
            if inputs is None:
                run.prepared.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {run.path}: {error.strerror or error}") from None
        yield
    except BaseException:
        for path, text in before.items():
            with contextlib.suppress(OSError):
                if text is None:
                    path.unlink(missing_ok=True)
                elif _read(path) != text:
                    _write(path, text, executable=path.suffix == ".sh")
        raise


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str, executable: bool) -> None:
    write_atomic(path, text)
    if executable:
        path.chmod(0o755)


@contextlib.contextmanager
def alone(run: RunDir) -> Iterator[None]:
    """Keep a second `--resume` of the same run out while this one submits.

    Raises:
        UsageError: another one is at it.
    """
    descriptor = os.open(run.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"run {run.run_id} is being submitted by another process: wait for it"
            ) from None
        except OSError:
            pass  # a file system without locks: as good as it was
        yield
    finally:
        os.close(descriptor)
