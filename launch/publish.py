"""`glueline publish`: a model card from a run, and its model on the hub."""

from __future__ import annotations

import json
import os
import re
import sys
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
    from launch.hub_push import Pushed
    from training.config import RunConfig
    from training.rundir import RunDir

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_DESCRIBED = (".json", ".md", ".txt", ".jinja")
_VOCABULARY = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
"""Files that hold pieces of words: what looks like a path or a token there is none."""


@click.command("publish", cls=FlagCommand)
@click.argument("run_name", metavar="RUN")
@click.option("--to", "repo", metavar="ORG/NAME", help="Its name on the hub.")
@click.option("--push", "pushed", is_flag=True, help="Upload model/ there.")
@click.option("--private", is_flag=True, help="Only into a repository that is private.")
@click.option("--license", "license_id", metavar="ID", help="Of the model: apache-2.0, mit, …")
@click.option("--force", is_flag=True, help="Replace a card that somebody wrote or changed.")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def publish(
    run_name: str,
    repo: str | None,
    pushed: bool,
    private: bool,
    license_id: str | None,
    force: bool,
    runs: str | None,
    as_json: bool,
) -> int:
    """Write a finished run's model card, model/README.md; with --push upload model/ to the hub.

    RUN is an id or a path. After an upload the hub is asked for the commit and its files, which
    are compared with model/. Exit status 1: the hub failed, or holds something else.
    """
    from launch.card_facts import read_facts
    from launch.existing import need_run
    from launch.model_card import model_card
    from launch.resolve import known_runs

    if repo is not None:
        from launch.hub_push import check_repo

        check_repo(repo)
    if pushed and repo is None:
        raise UsageError("--push needs --to ORG/NAME: where to?")
    if private and not pushed:
        raise UsageError("--private is for --push")
    if license_id is not None and not _LICENSE.fullmatch(license_id):
        raise UsageError(f"--license {license_id}: write an id of the hub: apache-2.0, mit, …")
    run = need_run(known_runs(runs, run_name), run_name)
    facts = read_facts(run, repo, license_id)
    written = write_card(run, model_card(facts), force)
    card = run.model / "README.md"
    if not as_json:
        kept = "" if written else " (kept: somebody wrote or changed it; --force replaces it)"
        print(f"card  {card}{kept}", flush=True)
    found: dict[str, Any] = {"run": run.run_id, "card": str(card), "written": written}
    if pushed and repo is not None:
        from launch.hub_push import PushFailed, push

        check_folder(run, facts.config)
        try:
            done = push(run.model, repo, private, force, f"glueline run {run.run_id}")
        except PushFailed as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        found |= _plain(done)
        _tell(done, as_json)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    return 0


def write_card(run: RunDir, text: str, force: bool) -> bool:
    """Write model/README.md; return False if one that somebody wrote or changed was kept.

    Raises:
        UsageError: the card would hold a secret, or cannot be written.
    """
    from launch.model_card import is_ours
    from training.rundir import write_atomic

    refuse_secrets("the card", text)
    path = run.model / "README.md"
    try:
        there = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        if there is not None and not force and not is_ours(there):
            return False
        if there != text:
            write_atomic(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return True


def refuse_secrets(what: str, text: str) -> None:
    """Raise `UsageError` if a text that is to be published holds a secret."""
    from launch.checks import is_secret
    from launch.model_card import secrets_in

    named = {name: value for name, value in os.environ.items() if is_secret(name)}
    if found := secrets_in(text, named):
        raise UsageError(f"{what} would hold {', '.join(found)}: nothing was published")


def check_folder(run: RunDir, config: RunConfig) -> None:
    """Raise `UsageError` if a file to upload holds a secret or a folder of this machine."""
    places = {str(Path.home()), str(run.path), config.task.path, config.model.path}
    known = [place for place in places if place and len(place) > 2]
    for path in sorted(run.model.rglob("*")):
        if path.suffix not in _DESCRIBED or path.name in _VOCABULARY or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        name = path.relative_to(run.path)
        refuse_secrets(str(name), text)
        for place in known:
            # A whole name of it: /root is none in /rooted.
            if re.search(rf"{re.escape(place)}(?![\w.-])", text):
                raise UsageError(
                    f"{name} names the folder {place} of this machine: nothing was published; "
                    "take it out"
                )


def _plain(done: Pushed) -> dict[str, Any]:
    names = "repo url commit private files bytes head".split()
    return {name: getattr(done, name) for name in names} | {"others": list(done.others)}


def _tell(done: Pushed, as_json: bool) -> None:
    from launch.space import size_text

    if done.others:
        print(f"note: {done.repo} also holds {', '.join(done.others)}", file=sys.stderr)
    if done.head != done.commit:
        print(f"note: main of {done.repo} has moved on to {done.head}", file=sys.stderr)
    if not as_json:
        kind = "private" if done.private else "public"
        print(f"published  {done.url} ({kind})")
        print(f"commit  {done.commit}")
        print(f"read back  {done.files} files, {size_text(done.bytes)}: the same as here")


def main() -> None:
    """Run the command."""
    run_command(publish)


if __name__ == "__main__":
    main()
