"""From a finished run's folder to what its model card tells."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.model_card import Facts, known_places, without_paths
from launch.reporting.records import mapping, number, read_attempts
from launch.reporting.stats import Interval, wilson
from training.config import RunConfig, UsageError, load_config
from training.config.cluster import ClusterConfig
from training.config.tracking import TrackingConfig
from training.predictions import Predictions, predicted_splits, read_predictions
from training.rundir import CACHE_FOLDER, RunDir, read_json, snapshot

_FETCHED = re.compile(r"@([0-9a-f]{40})(-|$)")
"""The commit in the name of a folder that was fetched from the hub."""


def read_facts(run: RunDir, name: str | None = None, license_id: str | None = None) -> Facts:
    """Return what a run's card tells.

    Args:
        run: a finished run with its model.
        name: ORG/NAME where it is to be published; None: the run's id.
        license_id: of the model.

    Raises:
        UsageError: the run has not finished or kept no model, or its files do not agree.
    """
    config = load_config(run.config)
    results = read_json(run.results)
    if not isinstance(results, dict):
        raise UsageError(f"run {run.run_id} has not finished: there is nothing to publish yet")
    described = read_json(run.model / "config.json")
    if not isinstance(described, dict):
        raise UsageError(
            f"run {run.run_id} kept no model (train.keep={config.train.keep}, or clean --models): "
            "train it with --set train.keep=model"
        )
    answers = {split: read_predictions(run, split) for split in predicted_splits(run)}
    check_scores(run, results, answers)
    manifest = mapping(read_json(run.manifest))
    files = snapshot(run)
    attempts = read_attempts(run, files, "finished", None)
    environment = mapping(read_json(run.environment(max(run.attempt_numbers(), default=0))))
    ids = mapping(described.get("id2label"))
    regression = config.task.problem == "regression"
    plan_rows = mapping(mapping(read_json(run.plan)).get("rows"))
    rows = {split: count for split, count in plan_rows.items() if isinstance(count, int)}
    return Facts(
        name=name or run.run_id,
        config=config,
        results=results,
        rows=rows | {split: len(own) for split, own in answers.items()},
        labels=() if regression else tuple(str(ids[key]) for key in sorted(ids, key=int)),
        intervals=score_intervals(answers, results),
        commit=_commit(config),
        data=_fingerprints(manifest.get("data"), config.task.path, config.task.subset),
        weights=_fingerprints(manifest.get("weights")),
        ranks=[mapping(rank) for rank in environment.get("ranks") or []],
        versions=_versions(manifest, environment),
        code={key: manifest.get(key) for key in ("git", "code")},
        attempts=[a.how for a in attempts],
        command=command(config, run.path.parent),
        license=license_id,
    )


def check_scores(
    run: RunDir, results: Mapping[str, Any], answers: Mapping[str, Predictions]
) -> None:
    """Raise `UsageError` if accuracies are not those of the predictions: a file was changed."""
    for split, metrics in mapping(results.get("metrics")).items():
        told, own = number(mapping(metrics).get("accuracy")), answers.get(split)
        if told is None or own is None or own.right is None or not len(own):
            continue
        if abs(told - own.right / len(own)) > 1e-6:
            raise UsageError(
                f"run {run.run_id}: results.json says accuracy {told:.4f} on {split}, its "
                f"predictions {own.right / len(own):.4f}: one of the files was changed"
            )


def score_intervals(
    answers: Mapping[str, Predictions], results: Mapping[str, Any]
) -> dict[tuple[str, str], Interval]:
    """Return the interval of every score that has one, by split and metric.

    Wilson's, of accuracies. The one place to change where other metrics are to have one: labels
    and predictions of every row are at hand.
    """
    found = {}
    for split, metrics in mapping(results.get("metrics")).items():
        own = answers.get(split)
        if own is None or own.right is None:
            continue
        interval = wilson(own.right, len(own))
        if interval is not None and "accuracy" in mapping(metrics):
            found[split, "accuracy"] = interval
    return found


def _commit(config: RunConfig) -> str | None:
    """Return the commit of the hub's data set that the rows were fetched from."""
    found = _FETCHED.search(Path(config.task.path or "").name) if _fetched(config) else None
    return found[1] if found else None


def _fetched(config: RunConfig) -> bool:
    """Return whether launch fetched the rows from the hub."""
    return CACHE_FOLDER in Path(config.task.path or "").parts


def _fingerprints(
    value: Any, root: str | None = None, subset: str | None = None
) -> list[tuple[str, int, str | None]]:
    """Return name, bytes and digest of a manifest's files, without where they lay.

    Args:
        value: files, as the manifest lists them.
        root: the folder of the data set.
        subset: the configuration of it that was trained on.
    """
    found = []
    for entry in value if isinstance(value, list) else []:
        path, size, digest = (mapping(entry).get(key) for key in ("path", "bytes", "sha256"))
        if not path or not isinstance(size, int):
            continue
        name = _inside(Path(str(path)), root, subset)
        found.append((name, size, str(digest) if digest else None))
    return found


def _inside(path: Path, root: str | None, subset: str | None) -> str:
    """Return a file's name; in a data set from the folder of its configuration on.

    That folder tells it from another configuration's file. Folders above the data set are this
    site's, whatever they are called.
    """
    if not root or not path.is_relative_to(root):
        return path.name
    parts = path.relative_to(root).parts
    named = [place for place, part in enumerate(parts[:-1]) if part == subset]
    return "/".join(parts[named[-1] :]) if named else path.name


def _versions(manifest: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions that the job saw; what it did not tell, as at submission."""
    found = {"python": manifest.get("python"), **mapping(manifest.get("versions"))}
    return found | {k: v for k, v in mapping(environment.get("versions")).items() if v}


def command(config: RunConfig, runs: Path) -> str | None:
    """Return the line that trains a run again anywhere: without this site and its folders.

    Of the cluster nodes and ranks are told, not its name, its partition or its account. Paths
    become names.

    Returns:
        None where no line of flags says the configuration.
    """
    from launch.reporting.repeat import submit_arguments

    cluster, task, model = config.cluster, config.task, config.model
    public = replace(
        config,
        cluster=ClusterConfig(
            executor="local" if cluster.executor == "local" else "auto",
            nodes=cluster.nodes,
            procs_per_node=cluster.procs_per_node,
        ),
        tracking=TrackingConfig(),
        task=replace(task, path=None) if task.hub or task.folder else task,
        model=replace(model, path=None) if model.hub or model.package else model,
        train=replace(config.train, fault=None),
    )
    words = submit_arguments(public, runs)
    if words is None:
        return None
    if task.path and public.task.path is None and not _fetched(config):
        words += ["--data", "DIR"]
    places = known_places(config)
    return shlex.join(["glueline", "submit", *(_public(word, places) for word in words)])


def _public(word: str, places: Sequence[str]) -> str:
    """Return a word of a line without the folders of this machine; `places` are known ones."""
    word = without_paths(word, places)
    key, equals, value = word.rpartition("=")
    names = [Path(v).name if v.startswith(("/", "~")) else v for v in value.split(",")]
    return without_paths(f"{key}{equals}{','.join(names)}")
