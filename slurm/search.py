"""A search's trials: asked of Optuna, told to it from what the run directories say.

Every worker, and the login node, may settle anything at any time: what a trial became follows from
its files alone. A worker that dies between asking and claiming leaves a number without a trial;
the next one that asks takes that number.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from slurm.claims import MOST_LOST, lost_claims, publish
from slurm.search_file import Search, SearchFile, read_search
from slurm.trial import trial_config
from slurm.turns import Turn
from slurm.verdicts import asked_to_end
from training.rundir import RunDir, node_records, read_json
from training.sweepdir import SweepDir, Trial, pruned_at, read_trials

if TYPE_CHECKING:
    from optuna import Study

ASK_SECONDS = 300.0
"""How long one worker may ask, by the clock of the others."""
DOUBLES = 5
"""Trials drawn that were tried before, before one that was not is chosen at random."""
MANY = 100_000
"""Configurations that are looked through for those not tried."""
GONE_SECONDS = 600.0
"""A pruned run whose worker did not say that it ended has ended by then."""
DIVERGED = "FloatingPointError"


def is_search(sweep: SweepDir) -> bool:
    """Return whether a sweep's trials are asked for one by one."""
    return sweep.search.exists()


def ask(sweep: SweepDir) -> Trial | None:
    """Return a new trial, not claimed yet; None if all were asked for.

    Raises:
        UsageError: the search's file is damaged.
        OSError: the sweep's folder cannot be written.
    """
    found = read_search(sweep)
    if found is None:
        return None
    from slurm import study as studies

    with _turn(sweep).held():
        study = studies.open_study(sweep.journal, found)
        _settle(sweep, found, study)
        doubles = 0
        while True:
            known = {trial.number: trial for trial in read_trials(sweep)}
            trials = study.get_trials(deepcopy=False)
            # Of workers that died before there was a file, or of the last one here.
            begun = [
                t for t in trials if t.number not in known and t.state == studies.TrialState.RUNNING
            ]
            own = [t for t in trials if studies.is_own(t) and t.state != studies.TrialState.WAITING]
            if not begun and len(own) >= found.search.target:
                return None
            if doubles >= DOUBLES and not begun:
                study.enqueue_trial(_untried(found.search, known.values()))
            study.sampler = studies.sampler_of(found.search, len(trials))
            trial = studies.again(study, begun[0]) if begun else study.ask()
            made = found.trial(trial.number, studies.suggest(trial, found.search.axes))
            twin = next((t for t in known.values() if t.run_id == made.run_id), None)
            if twin is not None:
                studies.tell_double(study, trial, twin.number)
                doubles += 1
            elif _publish(sweep, made):
                return made


def settle(sweep: SweepDir) -> None:
    """Tell Optuna what became of the trials that it does not know the end of.

    Raises:
        UsageError, OSError: as `ask`.
    """
    found = read_search(sweep)
    if found is None or not sweep.journal.exists():
        return
    from slurm import study as studies

    with _turn(sweep).held():
        _settle(sweep, found, studies.open_study(sweep.journal, found))


def last_runs(sweep: SweepDir) -> list[Trial]:
    """Return the trials on all rows; made here once the search itself is over.

    Raises:
        UsageError, OSError: as `ask`.
    """
    found = read_search(sweep)
    if found is None or not found.search.last_runs:
        return []
    trials = read_trials(sweep)
    own = [t for t in trials if t.best_of is None]
    if len(own) < found.search.target or not all(over(sweep, t) for t in own):
        return [t for t in trials if t.best_of is not None]
    from slurm import study as studies

    with _turn(sweep).held():
        study = studies.open_study(sweep.journal, found)
        _settle(sweep, found, study)
        for best, _ in ranked(sweep, found, own)[: found.search.finish]:
            values = {axis.name: best.axes[axis.name] for axis in found.search.axes}
            for seed in found.search.finish_seeds or (None,):
                known = {t.run_id for t in read_trials(sweep)}
                if found.trial(-1, values, best.number, seed).run_id in known:
                    continue
                number = _reserved(study, best.number, seed)
                if number is None:
                    studies.reserve(study, best.number, seed)
                    number = _reserved(study, best.number, seed)
                assert number is not None
                _publish(sweep, found.trial(number, values, best.number, seed))
    return [t for t in read_trials(sweep) if t.best_of is not None]


def ranked(
    sweep: SweepDir, found: SearchFile, trials: Iterable[Trial]
) -> list[tuple[Trial, float]]:
    """Return the trials that have a score, with it, the best first."""
    scores = [(t, value) for t in trials if (value := score(sweep.run(t))) is not None]
    return sorted(scores, key=lambda s: (-s[1] if found.maximize else s[1], s[0].number))


def score(run: RunDir) -> float | None:
    """Return the score of a finished run; None without one."""
    results = read_json(run.results)
    value = results.get("primary_value") if isinstance(results, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def over(sweep: SweepDir, trial: Trial) -> bool:
    """Return whether nobody will go on with a trial."""
    run = sweep.run(trial)
    return (
        read_json(run.results) is not None
        or asked_to_end(run)
        or _failed(run) is not None
        or len(lost_claims(sweep, trial.number)) >= MOST_LOST
    )


def _settle(sweep: SweepDir, found: SearchFile, study: Study) -> None:
    from slurm import study as studies

    known = {trial.number: trial for trial in read_trials(sweep)}
    trials = study.get_trials(deepcopy=False)
    again = {t.user_attrs["again"] for t in trials if "again" in t.user_attrs}
    states = studies.TrialState
    for frozen in trials:
        trial = known.get(frozen.number)
        if trial is None or trial.best_of is not None:
            continue
        run = sweep.run(trial)
        value = score(run)
        if frozen.state == states.FAIL and value is not None and frozen.number not in again:
            studies.add_result(study, frozen, value)
        if frozen.state != states.RUNNING:
            continue
        if value is not None:
            studies.tell(study, frozen, states.COMPLETE, value)
        elif read_json(run.results) is not None:
            studies.tell(study, frozen, states.FAIL, None)  # its score is not defined
        elif pruned_at(run) is not None:
            if _ended(run):
                studies.tell(study, frozen, states.PRUNED, None)
                # Nobody will go on from there.
                if trial_config(sweep, trial).train.keep != "all":
                    shutil.rmtree(run.checkpoints, ignore_errors=True)
        elif (why := _failed(run)) is not None:
            # A sampler looks over what failed, and keeps away from what was pruned: that the
            # loss went to infinity says something about the values.
            state = states.PRUNED if why == DIVERGED else states.FAIL
            studies.tell(study, frozen, state, None)
        elif asked_to_end(run) and _ended(run):
            studies.tell(study, frozen, states.FAIL, None)


def _failed(run: RunDir) -> str | None:
    """Return the kind of failure after which a run is not tried again."""
    last = max(run.attempt_numbers(), default=None)
    verdict = read_json(run.verdict(last)) if last is not None else None
    if isinstance(verdict, dict) and verdict.get("action") == "stop":
        return str(verdict.get("kind"))
    return None


def _ended(run: RunDir) -> bool:
    """Return whether the last attempt of a run that was asked to end has ended."""
    last = max(run.attempt_numbers(), default=None)
    if last is None or all(n.get("ended") for n in node_records(run, last)):
        return True
    request = read_json(run.request)
    asked = request.get("time") if isinstance(request, dict) else None
    return isinstance(asked, (int, float)) and time.time() - asked > GONE_SECONDS


def _reserved(study: Study, best_of: int, seed: int | None) -> int | None:
    wanted = {"best_of": best_of, "seed": seed}
    trials = study.get_trials(deepcopy=False)
    return next((t.number for t in trials if t.user_attrs == wanted), None)


def _untried(search: Search, known: Iterable[Trial]) -> dict[str, Any]:
    """Return values that no trial has, at random."""
    names = [axis.name for axis in search.axes]
    tried = [{name: trial.axes.get(name) for name in names} for trial in known]
    rng = random.Random(f"{search.seed} {len(tried)}")
    if search.size <= MANY:
        left = [values for values in search.everything() if values not in tried]
        return rng.choice(left)  # there are fewer trials than configurations
    while (values := {a.name: a.draw(rng) for a in search.axes}) in tried:
        pass
    return values


def _publish(sweep: SweepDir, trial: Trial) -> bool:
    sweep.asked.mkdir(exist_ok=True)
    text = json.dumps(trial.plain(), ensure_ascii=False) + "\n"
    return publish(sweep.asked / f"{trial.number}.json", text)


def _turn(sweep: SweepDir) -> Turn:
    return Turn(sweep.path / "ask.turn", ASK_SECONDS)
