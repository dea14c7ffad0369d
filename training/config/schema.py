"""Strict, typed configuration: nested frozen dataclasses from plain dictionaries.

A key that does not exist or a value of the wrong type is a `UsageError` that names the nearest
valid one. Nothing here knows what the configuration is about.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class UsageError(Exception):
    """The request was wrong. The message is one line: what is wrong, where, what to type instead.

    Commands print it on stderr and exit with status 2.
    """


@dataclass(frozen=True)
class Flag:
    """How a field appears on the command line."""

    name: str
    """The long flag, with its dashes: `--global-batch`."""
    metavar: str | None = None
    """What stands for the value in the help text."""


def option(default: Any, flag: str, metavar: str | None = None) -> Any:
    """Return a dataclass field that also has a flat command-line flag of its own."""
    metadata = {"flag": Flag(flag, metavar)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest choice, or the list of choices if none is near."""
    choices = sorted(set(choices))
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.55)
    if close:
        return f"did you mean '{close[0]}'?"
    if not choices:
        return "there are none"
    shown = ", ".join(choices[:20]) + (", …" if len(choices) > 20 else "")
    return f"choose from: {shown}"


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the resolved annotation of every field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def describe_type(annotation: Any) -> str:
    """Return a type as a person would say it, for error messages."""
    origin = typing.get_origin(annotation)
    args = typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(a) for a in args if a is not type(None))
    if origin is tuple:
        return f"a list of {describe_type(args[0])}"
    if origin is dict:
        return "a mapping"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def coerce(value: Any, annotation: Any, where: str) -> Any:
    """Return `value` as the annotated type, or raise.

    Text is accepted for every scalar (flags and `--set` arrive as text). A list stands for a
    tuple, and text is split at commas.

    Raises:
        UsageError: the value does not fit; the message names `where`.
    """
    origin = typing.get_origin(annotation)
    args = typing.get_args(annotation)
    wrong = UsageError(f"{where}: expected {describe_type(annotation)}, got {value!r}")
    if origin in (Union, types.UnionType):
        if type(None) in args and (value is None or value in ("none", "null")):
            return None
        options = [a for a in args if a is not type(None)]
        for i, candidate in enumerate(options):
            try:
                return coerce(value, candidate, where)
            except UsageError:
                if i == len(options) - 1:
                    raise wrong from None
    if origin is Literal:
        for choice in args:
            if value == choice or str(value) == str(choice):
                return choice
        hint = nearest(str(value), [str(a) for a in args])
        raise UsageError(f"{where}: unknown value '{value}': {hint}")
    if origin is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            raise wrong
        return tuple(coerce(item, args[0], where) for item in value)
    if annotation is Any:
        with contextlib.suppress(ValueError, TypeError):
            return json.loads(value)
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(k): coerce(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(annotation):
        return build(typing.cast(type, annotation), value, where)
    if annotation is bool:
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise wrong
    if isinstance(value, bool):
        if annotation is str:
            return str(value).lower()
        raise wrong
    if annotation is int:
        try:
            number = float(value) if isinstance(value, str) else value
            if isinstance(number, (int, float)) and int(number) == number:
                return (
                    int(value)
                    if isinstance(value, str) and value.lstrip("+-").isdigit()
                    else int(number)
                )
        except (ValueError, OverflowError):
            pass
        raise wrong
    if annotation is float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise wrong from None
        if not math.isfinite(number):
            raise wrong
        return number
    if annotation is str:
        if isinstance(value, (str, int, float)):
            return str(value)
        raise wrong
    return value


def build(cls: type[T], values: Any, where: str = "") -> T:
    """Return an instance of a dataclass from a mapping, strictly.

    Raises:
        UsageError: a key is unknown (the nearest valid one is named), required and missing, or
            its value has the wrong type.
    """
    if isinstance(values, cls):
        return values
    place = where or "the configuration"
    if values is None and where:
        values = {}
    if not isinstance(values, Mapping):
        raise UsageError(f"{place}: expected keys and values, got {values!r}")
    hints = field_types(cls)
    for key in values:
        if key not in hints:
            raise UsageError(f"{place}: unknown key '{key}': {nearest(str(key), hints)}")
    kwargs = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        path = f"{where}.{field.name}" if where else field.name
        if field.name in values:
            kwargs[field.name] = coerce(values[field.name], hints[field.name], path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{place}: the key '{field.name}' is missing")
    return cls(**kwargs)


def to_plain(value: Any) -> Any:
    """Return nested dataclasses as dictionaries, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


@cache
def leaves(cls: type, prefix: str = "") -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return every dotted key below a dataclass with its field and type.

    A field that is itself a dataclass is entered; mappings and lists are leaves.
    """
    found: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    hints = field_types(cls)
    for field in dataclasses.fields(typing.cast(Any, cls)):
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            found.update(leaves(hints[field.name], path + "."))
        else:
            found[path] = (field, hints[field.name])
    return found


def set_dotted(values: dict[str, Any], path: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries, making the levels that are missing."""
    *parents, last = path.split(".")
    for name in parents:
        values = values.setdefault(name, {})
    values[last] = value


def get_dotted(values: Any, path: str) -> Any:
    """Return `a.b.c` of nested dictionaries or dataclasses."""
    for name in path.split("."):
        values = values[name] if isinstance(values, Mapping) else getattr(values, name)
    return values
