"""`glueline leaderboard`: predictions of the test sets as the GLUE server takes them."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError

if TYPE_CHECKING:
    from launch.glue_files import GlueFile, Problem
    from launch.glue_runs import Candidate, Rows
    from training.predictions import Predictions

OFFICIAL = "the official test split"
SHOWN = 5
"""Problems that are told of one file."""


@dataclass(frozen=True)
class Made:
    """One file of a submission that was made."""

    file: GlueFile
    text: str
    rows: int
    candidate: Candidate
    computed: bool
    """Predicted now by the run's model; else by the run, at its end."""


class CannotMake(Exception):
    """A file that these runs cannot make, though nothing is wrong with them."""


@click.command("leaderboard", cls=FlagCommand)
@click.argument("names", metavar="[RUN|SWEEP...]", nargs=-1)
@click.option("--out", metavar="ZIP", help="Write the submission there.  [default: submission.zip]")
@click.option("--check", "checked", metavar="ZIP", help="Look whether the server would take it.")
@click.option("--data", metavar="DIR", help="Folder with glue/: AX is predicted, rows are counted.")
@click.option("--seed", type=int, metavar="N", help="Only runs with this seed.")
@click.option("--partial", is_flag=True, help="Some of the eleven files may be missing.")
@click.option("--unofficial", is_flag=True, help="The rows may be others than GLUE's test sets.")
@click.option("--force", is_flag=True, help="Overwrite another file.")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def leaderboard(
    names: tuple[str, ...],
    out: str | None,
    checked: str | None,
    data: str | None,
    seed: int | None,
    partial: bool,
    unofficial: bool,
    force: bool,
    runs: str | None,
    as_json: bool,
) -> int:
    """Zip the test-set predictions of finished runs for the GLUE server, or check such a zip.

    RUN is an id or a path, SWEEP stands for its finished trials. Of several runs of a task the one
    with the best dev score is taken. MNLI's two files and AX come from the run of mnli.
    """
    folder = _data_folder(data)
    if checked is not None:
        if names or out or seed is not None:
            raise UsageError("--check ZIP looks at a submission: leave runs, --out and --seed out")
        return check(Path(checked).expanduser(), folder, partial, unofficial, as_json)
    if not names:
        raise UsageError("which runs? give RUN or SWEEP, one run a task at least, or --check ZIP")
    from launch.glue_runs import choose, find_candidates
    from launch.resolve import known_runs

    candidates, notes = find_candidates(known_runs(runs, *names), names)
    chosen = choose(candidates, seed)
    for note in notes:
        _say(note)
    for task, taken in chosen.items():
        among = sum(c.task == task for c in candidates)
        if among > 1 and not as_json:
            print(f"{task}: {taken.run.run_id} of {among} runs: {_score(taken)}, {_why(seed)}")
    made = make(chosen, folder, partial, unofficial)
    path = Path(out or "submission.zip").expanduser()
    write(path, {m.file.name: m.text for m in made}, force)
    _print_made(path, made, as_json)
    return 0


def _data_folder(data: str | None) -> Path | None:
    if data is None:
        return None
    folder = Path(data).expanduser().absolute()
    if not folder.is_dir():
        raise UsageError(f"--data {data}: there is no such folder")
    return folder


def _why(seed: int | None) -> str:
    return "the best" if seed is None else f"the best with seed {seed}"


def _score(taken: Candidate) -> str:
    value = "no score" if taken.score is None else f"{taken.score:.4f}"
    return f"{taken.metric} {value} on {taken.split}"


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def make(
    chosen: Mapping[str, Candidate], data: Path | None, partial: bool, unofficial: bool
) -> list[Made]:
    """Return the files that these runs make, each checked.

    Args:
        chosen: the run of each task.
        data: the folder of `--data`; None: where each run's rows are, if they are still there.
        partial: files that cannot be made are left out, and said.
        unofficial: row counts may be others than the official ones.

    Raises:
        UsageError: a file cannot be made, or would not be right.
    """
    from launch.glue_files import FILES

    missing = {f.name: f"no run of {f.task}" for f in FILES if f.task not in chosen}
    if missing and not partial:
        told = "; ".join(f"{name}: {why}" for name, why in missing.items())
        raise UsageError(
            f"the server wants all eleven files ({told}): name more runs, or use --partial to "
            "write those that are there"
        )
    made = []
    for file in FILES:
        if file.name in missing:
            continue
        try:
            made.append(make_one(file, chosen[file.task], data, unofficial))
        except CannotMake as error:
            if not partial:
                raise UsageError(f"{file.name}: {error}; --partial leaves it out") from None
            _say(f"{file.name} is left out: {error}")
    if not made:
        raise UsageError("none of the eleven files can be made of these runs")
    return made


def make_one(file: GlueFile, candidate: Candidate, data: Path | None, unofficial: bool) -> Made:
    """Return one file that a run makes.

    Raises:
        CannotMake: the run neither predicted the split nor can now.
        UsageError: what it predicted is not what the server takes.
    """
    from launch import glue_runs as found
    from launch.glue_files import find_problems, server_labels, translate, tsv
    from training.predictions import read_predictions

    text = candidate.config.task.text
    rows = found.rows_below(file, data, text) if data else found.own_rows(file, candidate)
    stored = None
    if file.source == file.task:
        with contextlib.suppress(FileNotFoundError):
            stored = read_predictions(candidate.run, file.split)
    if stored is not None and rows is not None:
        reason = found.other_version(candidate, rows)
        if reason:
            raise UsageError(f"{file.name}: {reason}")
    predicted = stored or _compute(file, candidate, rows, data)
    held, seen = (rows.held, rows.seen) if rows else (None, ())
    labels = server_labels(file, predicted.classes, held, seen)
    text = tsv(translate(file, predicted.answers, labels))
    problem = next(find_problems(file, text, _counts(file, rows, unofficial)), None)
    if problem is not None:
        hint = ""
        if len(predicted.answers) != file.rows and (rows is None or rows.count != file.rows):
            hint = ": not GLUE's test set, the server refuses it (--unofficial writes it)"
        raise UsageError(f"{problem} (run {candidate.run.run_id}){hint}")
    return Made(file, text, len(predicted.answers), candidate, stored is None)


def _compute(
    file: GlueFile, candidate: Candidate, rows: Rows | None, data: Path | None
) -> Predictions:
    from launch.glue_runs import predict

    run = candidate.run
    if not run.model.is_dir():
        raise CannotMake(
            f"this takes the model of run {run.run_id}, which kept none "
            f"(train.keep={candidate.config.train.keep}, or clean --models): train it again with "
            f"{_again(candidate)}"
        )
    if rows is None:
        where = f"{data} does not have them" if data else "use --data DIR, a folder with glue/"
        raise CannotMake(f"this takes the rows of {file.source} {file.split}: {where}")
    return predict(file, candidate, rows)


def _again(candidate: Candidate) -> str:
    """Return the line that trains a run again and keeps its model."""
    from launch.existing import command_line
    from launch.reporting.repeat import submit_arguments

    runs = candidate.run.path.parent
    words = submit_arguments(candidate.config.with_values({"train.keep": "model"}), runs)
    if words is None:
        return "--set train.keep=model"
    return command_line("submit", *words)


def _counts(file: GlueFile, rows: Rows | None, unofficial: bool) -> dict[str, int]:
    """Return how many rows a file must have, by who says so."""
    counts = {} if unofficial else {OFFICIAL: file.rows}
    return counts | ({rows.where: rows.count} if rows else {})


def write(path: Path, files: Mapping[str, str], force: bool) -> None:
    """Write a submission; the same one again changes nothing.

    Raises:
        UsageError: another file is there, or it cannot be written.
    """
    from launch.glue_zip import pack
    from training.rundir import write_atomic

    content = pack(files)
    try:
        if path.exists() and not force and path.read_bytes() != content:
            raise UsageError(f"{path} is there and holds something else: use --force or --out ZIP")
        write_atomic(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}: use --out ZIP") from None


def _print_made(path: Path, made: Iterable[Made], as_json: bool) -> None:
    from launch.glue_files import absent
    from training.rundir import file_sha256

    made = list(made)
    missing = absent([m.file.name for m in made])
    others = [m.file.name for m in made if m.rows != m.file.rows]
    if as_json:
        value = {
            "path": str(path),
            "sha256": file_sha256(path),
            "complete": not missing and not others,
            "missing": missing,
            "files": [_plain(m) for m in made],
        }
        print(json.dumps(value, ensure_ascii=False))
        return
    from launch.status import print_rows

    table = [["file", "rows", "run", "seed", "dev score"]]
    for m in made:
        seed = str(m.candidate.config.train.seed)
        table.append([m.file.name, str(m.rows), m.candidate.run.run_id, seed, _score(m.candidate)])
    print_rows(table, 0)
    print(f"submission  {path}")
    if others:
        _say(f"not GLUE's test sets, the server refuses them: {', '.join(others)}")
    if missing:
        _say(f"the server wants all eleven files, missing are {', '.join(missing)}")


def _plain(made: Made) -> dict[str, Any]:
    candidate = made.candidate
    return {
        "name": made.file.name,
        "rows": made.rows,
        "official_rows": made.file.rows,
        "run": candidate.run.run_id,
        "seed": candidate.config.train.seed,
        "metric": candidate.metric,
        "split": candidate.split,
        "score": candidate.score,
        "computed": made.computed,
    }


def check(path: Path, data: Path | None, partial: bool, unofficial: bool, as_json: bool) -> int:
    """Print whether the server would take a submission; return the exit status, 1 if it would not.

    Raises:
        UsageError: there is no such file, or it is no zip.
    """
    from launch.glue_files import BY_NAME, name_problems
    from launch.glue_zip import names_of

    names = names_of(path)
    problems = list(name_problems(names, partial))
    for name in dict.fromkeys(n for n in names if n in BY_NAME):
        problems += check_one(path, BY_NAME[name], data, unofficial)
    if as_json:
        found = [{"file": p.file, "line": p.line, "reason": p.reason} for p in problems]
        print(json.dumps({"path": str(path), "problems": found}, ensure_ascii=False))
    elif problems:
        print("\n".join(map(str, problems)))
    else:
        print(f"{path}: {len(names)} files, nothing wrong")
    return int(bool(problems))


def check_one(path: Path, file: GlueFile, data: Path | None, unofficial: bool) -> list[Problem]:
    """Return what is wrong with one file of a submission; of many problems the first few."""
    from launch.glue_files import Problem, find_problems
    from launch.glue_runs import rows_below
    from launch.glue_zip import read_text

    text, unreadable = read_text(path, file.name)
    if unreadable:
        return [Problem(file.name, None, unreadable)]
    rows = rows_below(file, data) if data else None
    if data and rows is None:
        _say(f"{file.name} is not compared: {data} has no {file.source} {file.split}")
    every = find_problems(file, text, _counts(file, rows, unofficial))
    shown = list(itertools.islice(every, SHOWN))
    more = sum(1 for _ in every)
    return [*shown, Problem(file.name, None, f"and {more} more problems")] if more else shown


def main() -> None:
    """Run the command."""
    run_command(leaderboard)


if __name__ == "__main__":
    main()
