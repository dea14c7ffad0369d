"""A search's pruner, beside a run that trains: scores on the way go to Optuna, and it may say no.

The run is asked to end as by a person, with where it was: `request.json` has `pruned`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from slurm.scontrol import say
from slurm.search_file import SearchFile, read_search
from slurm.trial import trial_config
from training.config import UsageError
from training.rundir import read_json, read_metrics, write_json
from training.sweepdir import SweepDir, Trial

LOOK_SECONDS = 1.0
"""How often the run's scores are looked at."""
WHOLE = 100
"""Optuna is told of a run's way in hundredths of its steps: trials of other batch sizes have
other steps."""


@contextlib.contextmanager
def watched(sweep: SweepDir, trial: Trial) -> Iterator[None]:
    """Watch a trial's run while the block trains it; nothing where there is no pruner."""
    try:
        found = read_search(sweep)
        split, metric = _scored(sweep, trial) if found else ("", "")
    except UsageError:
        found, split, metric = None, "", ""
    if found is None or found.search.pruner == "none" or trial.best_of is not None or not split:
        yield
        return
    done = threading.Event()
    watch = _Watch(sweep, trial, found, split, metric)
    thread = threading.Thread(target=watch.run, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        # A look that waits for a slow disk does not keep the next trial waiting for long.
        thread.join(timeout=60.0)


class _Watch:
    def __init__(
        self, sweep: SweepDir, trial: Trial, found: SearchFile, split: str, metric: str
    ) -> None:
        self._sweep, self._trial, self._found = sweep, trial, found
        self._split, self._metric = split, metric
        self._run = sweep.run(trial)
        self._told: set[int] = set()
        self._size = -1
        self._study = None

    def run(self, done: threading.Event) -> None:
        """Look every few seconds until the run has ended."""
        while not done.wait(LOOK_SECONDS):
            try:
                share = self._look()
            except Exception as error:  # a run is not lost because it cannot be judged
                say(f"trial {self._trial.number} is not judged: {error}")
                continue
            if share is not None:
                say(f"trial {self._trial.number}: pruned after {share} % of its steps")
                return

    def _look(self) -> int | None:
        """Report new scores; return where the run was asked to end, None if it goes on."""
        with contextlib.suppress(OSError):
            size = self._run.metrics.stat().st_size
            if size == self._size:
                return None
            self._size = size
        total = (read_json(self._run.progress) or {}).get("total_steps")
        if not total:
            self._size = -1
            return None
        last = None
        for share, value in self.scores(int(total)):
            if share not in self._told:
                self._report(share, value)
                self._told.add(share)
                last = share
        if last is None or not self._judged() or self._run.request.exists():
            return None
        request = {"stop": True, "pruned": last / WHOLE, "time": time.time()}
        write_json(self._run.request, request)
        return last

    def scores(self, total: int) -> list[tuple[int, float]]:
        """Return the scores on the way, by hundredths of all steps."""
        found = []
        for line in read_metrics(self._run.metrics):
            if line.get("kind") == "eval" and line.get("split") == self._split:
                value = line.get(self._metric)
                share = round(WHOLE * int(line.get("step", 0)) / total)
                if isinstance(value, (int, float)) and share < WHOLE:
                    found.append((share, float(value)))
        return found

    def _report(self, share: int, value: float) -> None:
        from slurm import study as studies

        if self._study is None:
            self._study = studies.open_study(self._sweep.journal, self._found)
        studies.report(self._study, self._trial.number, share, value)

    def _judged(self) -> bool:
        from slurm import study as studies

        assert self._study is not None
        return studies.should_prune(self._study, self._trial.number)


def _scored(sweep: SweepDir, trial: Trial) -> tuple[str, str]:
    """Return the split and the metric that a trial is judged by."""
    task = trial_config(sweep, trial).task
    splits = task.validation_splits
    return (splits[0] if splits else ""), task.primary_metric
