"""What is learned: the data set, its columns and labels, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .schema import UsageError, nearest, option

CLASSIFICATION_METRICS = ("accuracy", "f1", "matthews", "macro_f1", "weighted_f1")
REGRESSION_METRICS = ("pearson", "spearman", "mse")
CLEANING_STEPS = ("html", "whitespace")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A text classification or regression task. One YAML file in `configs/tasks/` each."""

    name: str = "custom"
    """Short name, part of the run's id."""
    description: str = ""
    """One line for people."""
    problem: Literal["classification", "regression"] = "classification"
    """Regression has one output and the squared error as its loss."""

    hub: str | None = option(None, "--dataset", "HUB_ID")
    """Id of the data set on the hub, such as nyu-mll/glue."""
    revision: str | None = None
    """Branch, tag or commit of the hub data set; none means its main branch."""
    subset: str | None = option(None, "--subset", "NAME")
    """Name of the configuration inside the data set, such as mnli."""
    folder: str | None = None
    """Name of this data set's folder below --data DIR, such as glue."""
    path: str | None = None
    """Local folder in hub layout that holds the data; set from --data or after fetching."""
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Local CSV, TSV, JSONL or parquet files by split, instead of a data set."""
    generated: Literal["demo"] | None = None
    """Rows made by a seeded generator, for trying without any data."""

    text: tuple[str, ...] = option((), "--text-columns", "A[,B]")
    """One or two text columns; two are encoded as a pair."""
    label: str | None = option(None, "--label-column", "NAME")
    """The column of labels (names or numbers); none for a task that is only predicted."""
    labels: tuple[str, ...] = option((), "--labels", "A,B,…")
    """Label names in order; empty takes them from the data."""
    train: str | None = "train"
    """The split to train on; none for a task that is only predicted."""
    validation: tuple[str, ...] = ("validation",)
    """Splits that are evaluated; the first selects the checkpoint."""
    test: tuple[str, ...] = ()
    """Splits that are predicted once at the end, and scored where they have labels."""
    holdout: float = 0.0
    """Fraction of the training rows, stratified, that validates where there is no such split."""
    holdout_seed: int = 1234
    """Seed of the hold-out; apart from the run's seed, so that all runs hold out the same rows."""
    train_fraction: float = 1.0
    """Fraction of the training rows, stratified, that is trained on; the same in all runs."""

    metrics: tuple[str, ...] = ()
    """Scores to compute; empty: accuracy, macro and weighted F1, or Pearson and Spearman."""
    primary: str | None = None
    """The metric that selects the best checkpoint; none takes the first."""
    clean: tuple[str, ...] = ()
    """Text cleaning before tokenising: html (entities and tags), whitespace."""
    max_length: int = option(128, "--max-length", "N")
    """Longest input in tokens; what is longer is truncated."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics with the problem's defaults filled in."""
        if self.metrics:
            return self.metrics
        if self.problem == "regression":
            return ("pearson", "spearman")
        return ("accuracy", "macro_f1", "weighted_f1")

    @property
    def primary_metric(self) -> str:
        """The metric that selects the best checkpoint."""
        return self.primary or self.metric_names[0]

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """Evaluated splits; a hold-out of the training rows is called `validation`."""
        return ("validation",) if self.holdout > 0 else self.validation

    def check(self) -> None:
        """Raise `UsageError` for values that contradict each other."""
        where = f"task {self.name}"
        known = REGRESSION_METRICS if self.problem == "regression" else CLASSIFICATION_METRICS
        for metric in self.metrics:
            if metric not in known:
                raise UsageError(f"{where}: unknown metric '{metric}': {nearest(metric, known)}")
        if self.primary and self.primary not in self.metric_names:
            hint = nearest(self.primary, self.metric_names)
            raise UsageError(f"{where}: primary metric '{self.primary}' is not computed: {hint}")
        for step in self.clean:
            if step not in CLEANING_STEPS:
                raise UsageError(
                    f"{where}: unknown cleaning '{step}': {nearest(step, CLEANING_STEPS)}"
                )
        if not 1 <= len(self.text) <= 2:
            raise UsageError(
                f"{where}: 1 or 2 text columns needed, {len(self.text)} given: "
                "use --text-columns A[,B]"
            )
        if len(set(self.text)) != len(self.text):
            raise UsageError(f"{where}: text column '{self.text[0]}' is given twice")
        if self.label in self.text:
            raise UsageError(f"{where}: column '{self.label}' is both text and label")
        if self.labels and self.problem == "regression":
            raise UsageError(f"{where}: a regression has values, not --labels")
        if not 0 <= self.holdout < 1:
            raise UsageError(f"{where}: task.holdout must be at least 0 and below 1")
        if not 0 < self.train_fraction <= 1:
            raise UsageError(
                f"{where}: task.train_fraction must be above 0 and at most 1, "
                f"got {self.train_fraction:g}"
            )
        if self.max_length < 4:
            raise UsageError(f"{where}: --max-length must be at least 4, got {self.max_length}")
        if not (self.hub or self.path or self.files or self.generated):
            raise UsageError(
                f"{where}: no data given: use --dataset HUB_ID, --data DIR or --train-file FILE"
            )
        if len(set(self.labels)) != len(self.labels):
            raise UsageError(f"{where}: a label name stands twice in {list(self.labels)}")
