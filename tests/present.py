"""What a test knows to be there, said to the type checker and checked."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def present(value: T | None) -> T:
    """Return `value`; a missing one fails the test."""
    assert value is not None, "a value was expected here, there is none"
    return value
