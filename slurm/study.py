"""Optuna's study in a journal on the shared file system. Imported by a search alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from slurm.search_file import Axis, Search, SearchFile
from slurm.turns import Turn

NAME = "search"
STARTUP = 5
"""Complete trials before the median of them is a measure; a quarter of them in a small search."""
FIRST_RUNG, ETA = 25, 2
"""Successive halving: after a quarter and after half of its steps the better half goes on."""
STALE_SECONDS = 60.0

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Journal(JournalFileBackend):
    """Optuna's journal file, which outlives a writer that died or a disk that was full."""

    def __init__(self, place: Path) -> None:
        self._path = place
        # Optuna's own locks let two that wait for a dead one break each other's.
        lock: Any = Turn(place.with_name(place.name + ".turn"), STALE_SECONDS)
        super().__init__(str(place), lock_obj=lock)
        self._turn = lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines whole, after what stands there whole."""
        with self._turn.held():
            self._mend()
            text = "".join(_line(log) for log in logs)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                data = text.encode()
                before = os.fstat(descriptor).st_size
                try:
                    while data:
                        data = data[os.write(descriptor, data) :]
                    os.fsync(descriptor)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(descriptor, before)
                    raise
            finally:
                os.close(descriptor)

    def _mend(self) -> None:
        """Cut off half a line at the end: nobody ever read it, and its writer is gone."""
        with self._path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if not size:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


def _line(log: Mapping[str, Any]) -> str:
    import json

    return json.dumps(log, separators=(",", ":")) + "\n"


def open_study(place: Path, found: SearchFile) -> optuna.Study:
    """Return the study of a journal, made if it is not there.

    It draws at random: a sampler is set for each trial, see `sampler_of`.

    Raises:
        OSError: the journal cannot be written.
        ValueError: it is damaged.
    """
    return optuna.create_study(
        storage=JournalStorage(Journal(place)),
        study_name=NAME,
        direction="maximize" if found.maximize else "minimize",
        sampler=optuna.samplers.RandomSampler(),
        pruner=_pruner(found.search),
        load_if_exists=True,
    )


def sampler_of(search: Search, asked: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial.

    Args:
        search: what is asked for.
        asked: trials there are: workers that start alike must not draw alike.
    """
    seed = int.from_bytes(hashlib.sha256(f"{search.seed} {asked}".encode()).digest()[:4], "big")
    if search.sampler == "grid":
        # Its order is the same for all workers.
        choices = {axis.name: list(axis.choices) for axis in search.axes}
        return optuna.samplers.GridSampler(choices, seed=search.seed)
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(max(1, min(STARTUP, search.trials // 4)))
    if search.pruner == "successive-halving":
        return optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, ETA)
    return optuna.pruners.NopPruner()


def suggest(trial: optuna.Trial, axes: Sequence[Axis]) -> dict[str, Any]:
    """Return a value for each axis; one that a worker drew before it died stays."""
    values: dict[str, Any] = {}
    for axis in axes:
        if axis.choices:
            values[axis.name] = trial.suggest_categorical(axis.name, axis.choices)
        elif axis.whole:
            low, high = int(axis.low), int(axis.high)
            values[axis.name] = trial.suggest_int(axis.name, low, high, log=axis.log)
        else:
            values[axis.name] = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
    return values


def tell(study: optuna.Study, trial: FrozenTrial, state: TrialState, value: float | None) -> None:
    """Tell how a trial ended; what was told before stands."""
    # Told an end, Optuna's grid would stop a loop that there is none of.
    study.sampler = optuna.samplers.RandomSampler()
    try:
        study.tell(trial.number, value, state, skip_if_finished=True)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        pass  # another worker was first


def again(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Return a trial to go on with, that a worker began."""
    return optuna.Trial(study, trial._trial_id)


def tell_double(study: optuna.Study, trial: optuna.Trial, twin: int) -> None:
    """Tell that a trial is another one again: it is not run."""
    trial.set_user_attr("double_of", twin)
    tell(study, study.get_trials(deepcopy=False)[trial.number], TrialState.FAIL, None)


def add_result(study: optuna.Study, like: FrozenTrial, value: float) -> None:
    """Add the score of a trial that was told to have failed, and was run again."""
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            value=value,
            params=like.params,
            distributions=like.distributions,
            user_attrs={"again": like.number},
        )
    )


def reserve(study: optuna.Study, best_of: int, seed: int | None) -> None:
    """Take a number for a run on all rows; samplers and pruners look over it."""
    attrs = {"best_of": best_of, "seed": seed}
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs))


def is_own(trial: FrozenTrial) -> bool:
    """Return whether a trial counts: it is no double, no repetition and no run on all rows."""
    return not trial.user_attrs.keys() & {"double_of", "again", "best_of"}


def report(study: optuna.Study, number: int, share: int, value: float) -> None:
    """Report a score on the way, at a step in hundredths of all steps."""
    trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that was resumed reports a step again
        trial.report(value, share)


def should_prune(study: optuna.Study, number: int) -> bool:
    """Return whether a trial is not worth going on with."""
    return study.pruner.prune(study, study.get_trials(deepcopy=False)[number])
