"""Command-line flags, built from the configuration's dataclasses: one place of documentation.

A field made with `option(default, "--flag")` is a flag; its help is the docstring under it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

import click

from training.config import RunConfig, UsageError
from training.config.schema import describe_type, field_types, leaves

from .options import RUNS_HELP

SECTIONS = ("task", "model", "batch", "optim", "train", "engine", "cluster", "tracking")

SPLIT_FILES = {"--train-file": "train", "--validation-file": "validation", "--test-file": "test"}


@dataclass(frozen=True)
class Override:
    """One value that the command line sets."""

    key: str
    """Dotted key of the configuration: `optim.lr`."""
    value: Any
    """As typed: text, or True of a switch."""
    origin: str
    """The flag that set it, for `--dry-run` and for error messages."""


@dataclass(frozen=True)
class Request:
    """What was typed, before any file is read."""

    task: str | None = None
    """`--task`: a name in `configs/tasks/`, or a YAML file."""
    model: str | None = None
    """`--model`: a name in `configs/models/`, a folder, or a hub id."""
    data: str | None = None
    """`--data`: a folder that holds data sets in hub layout."""
    runs: str | None = None
    """`--runs`: the runs folder."""
    cluster: str | None = None
    """`--cluster`: a site profile."""
    reference: str | None = None
    """`--reference`: published numbers whose recipe is trained."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files by split, from `--train-file` and its like."""
    sbatch: Mapping[str, str] = field(default_factory=dict)
    """`--sbatch`: options for sbatch; the empty text is a switch."""
    flags: tuple[Override, ...] = ()
    """Values of the other flags, in the order of the configuration."""
    sets: tuple[Override, ...] = ()
    """`--set` values, in the order typed."""

    def given(self, key: str) -> bool:
        """Return whether the command line sets this dotted key."""
        return any(o.key == key for o in (*self.flags, *self.sets))


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under every field of a dataclass, from its source."""
    module = importlib.import_module(cls.__module__)
    source = Path(inspect.getfile(module)).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.ClassDef) and node.name == cls.__name__):
            continue
        for statement, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = " ".join(after.value.value.split())
    return found


class FlagOption(click.Option):
    """A click option that knows its heading in the help and the configuration key it sets."""

    def __init__(self, *args: Any, section: str = "", key: str = "", **kwargs: Any) -> None:
        self.section = section
        self.key = key
        super().__init__(*args, **kwargs)


class FlagCommand(click.Command):
    """A command whose help groups the flags by the section of the configuration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags under their headings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "section", "") or "Options"
                groups.setdefault(heading, []).append(record)
        for heading in sorted(groups, key=lambda h: h == "Options"):
            with formatter.section(heading):
                formatter.write_dl(groups[heading])


def _shown_default(default: Any) -> str:
    if default in (None, (), MISSING) or isinstance(default, (bool, dict)):
        return ""
    return f"  [default: {default}]"


def config_flags(sections: Iterable[str] = SECTIONS) -> list[FlagOption]:
    """Return a click option for every configuration field that has a flag."""
    classes = field_types(RunConfig)
    options = []
    for key, (spec, annotation) in leaves(RunConfig).items():
        section = key.split(".")[0]
        flag = spec.metadata.get("flag")
        if flag is None or section not in sections or key == "cluster.profile":
            continue
        text = field_docs(classes[section]).get(spec.name, "") + _shown_default(spec.default)
        common: dict[str, Any] = {"help": text, "section": section.capitalize(), "key": key}
        name = key.replace(".", "__")
        if annotation is bool:
            # None means not typed: then the files' value stands.
            common |= {"is_flag": True, "default": None}
        else:
            common["metavar"] = flag.metavar or describe_type(annotation).upper()
        options.append(FlagOption([flag.name, name], **common))
    return options


def _special_flags(sections: tuple[str, ...]) -> list[FlagOption]:
    def option(flag: str, metavar: str, text: str, section: str, **more: Any) -> FlagOption:
        return FlagOption([flag], metavar=metavar, help=text, section=section, **more)

    made = []
    if "task" in sections:
        made += [
            option("--task", "NAME|FILE", "A task in configs/tasks/, or a YAML file.", "Task"),
            option("--data", "DIR", "Folder that holds glue/, ag_news/, … in hub layout.", "Task"),
        ]
    for flag, split in SPLIT_FILES.items() if "task" in sections else ():
        text = f"CSV, TSV, JSONL or parquet file of {split} rows; several with commas."
        made.append(option(flag, "FILE", text, "Task", multiple=True))
    if "model" in sections:
        text = "In configs/models/, a hub id ORG/NAME, or a folder.  [default: bert-base-uncased]"
        made.append(option("--model", "NAME|HUB_ID|FOLDER", text, "Model"))
    if "cluster" in sections:
        text = "Site profile: a name in configs/clusters/ or a YAML file; none: not the saved one."
        made.append(option("--cluster", "PROFILE", text, "Cluster"))
        text = "Option for sbatch, as it is: reservation=x, exclusive. Repeatable."
        made.append(option("--sbatch", "KEY[=VALUE]", text, "Cluster", multiple=True))
    text = "Any other key, such as model.dropout=0. Repeatable."
    made.append(option("--set", "SECTION.KEY=VALUE", text, "Options", multiple=True))
    made.append(option("--runs", "DIR", RUNS_HELP, "Options"))
    return made


def request_options(sections: tuple[str, ...] = SECTIONS) -> Callable[[Any], Any]:
    """Return a decorator that adds the flags of these sections to a click command's function.

    The function gets them as one keyword argument, `request: Request`. Use it below
    `@click.command(cls=FlagCommand)`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options = [*_special_flags(sections), *config_flags(sections)]
        order = {name.capitalize(): place for place, name in enumerate((*SECTIONS, "options"))}
        options.sort(key=lambda o: order[o.section])
        names = {option.name: option for option in options}

        @wraps(function)
        def call(**values: Any) -> Any:
            own = {k: v for k, v in values.items() if k not in names}
            typed = {k: v for k, v in values.items() if k in names}
            return function(request=make_request(typed, names), **own)

        # click reads this list in reverse: decorators stack from below.
        call.__click_params__ = [  # type: ignore[attr-defined]
            *getattr(function, "__click_params__", []),
            *reversed(options),
        ]
        return call

    return decorate


def trial_options(noun: str = "trials", packed: bool = False) -> Callable[[Any], Any]:
    """Return a decorator that adds the flags of commands that submit many runs.

    Args:
        noun: what the command calls one of them, in the plural.
        packed: whether the command itself decides how many share a node, where that is not typed.
    """
    rule = "  [default: as many as their batches leave GPUs for]" if packed else ""
    decorators = [
        click.option(
            "--max-parallel",
            cls=FlagOption,
            type=click.IntRange(min=1),
            metavar="N",
            help=f"Jobs at a time ({noun}, with --executor local; default there: 1).",
        ),
        click.option(
            "--workers",
            cls=FlagOption,
            type=click.IntRange(min=1),
            metavar="N",
            help=f"Array elements at most: each takes {noun} while its time lasts.",
        ),
        click.option(
            "--pack",
            cls=FlagOption,
            type=click.IntRange(min=1),
            default=None if packed else 1,
            metavar="N",
            help=f"{noun.capitalize()} at a time on one node, which they share.{rule}",
        ),
        click.option(
            "--retry-failed", cls=FlagOption, is_flag=True, help=f"Run failed {noun} again."
        ),
        click.option("--yes", cls=FlagOption, is_flag=True, help="Do not ask."),
        click.option(
            "--dry-run",
            cls=FlagOption,
            is_flag=True,
            help=f"Show the {noun} and their cost; touch nothing.",
        ),
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in reversed(decorators):
            function = add(function)
        return function

    return decorate


def make_request(values: Mapping[str, Any], options: Mapping[Any, FlagOption]) -> Request:
    """Return the request that these parsed flags make.

    Raises:
        UsageError: a `--set` or `--sbatch` is not of the form asked for.
    """
    files = {
        split: paths
        for flag, split in SPLIT_FILES.items()
        if (paths := _split_commas(values.get(flag[2:].replace("-", "_")) or ()))
    }
    flags = tuple(
        Override(option.key, values[name], option.opts[0])
        for name, option in options.items()
        if option.key and values.get(name) is not None
    )
    plain = {k: values.get(k) for k in ("task", "model", "data", "runs", "cluster")}
    return Request(
        **plain,
        files=files,
        sbatch=dict(_parse_sbatch(text) for text in values.get("sbatch") or ()),
        flags=flags,
        sets=tuple(parse_set(text) for text in values.get("set") or ()),
    )


def _split_commas(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for text in texts for part in text.split(",") if part)


def parse_set(text: str) -> Override:
    """Return the override that `section.key=value` means.

    Raises:
        UsageError: there is no `=`, or no section.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or "." not in key:
        raise UsageError(f"--set '{text}': write SECTION.KEY=VALUE, such as model.dropout=0")
    return Override(key, value.strip(), "--set")


def _parse_sbatch(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    key = key.strip().removeprefix("--")
    if not key.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--sbatch '{text}': write KEY=VALUE, such as reservation=monday")
    return key, value.strip()


def with_flag(request: Request, key: str, value: Any, origin: str) -> Request:
    """Return the request with one more value, as if it had been typed."""
    return replace(request, flags=(*request.flags, Override(key, value, origin)))
