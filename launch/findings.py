"""What the doctor says: one line for what was found, one for how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Short name: `ports`, `clocks`, …"""
    level: Level
    """ok; note: worth knowing, runs do without; problem: runs fail, or lose what they need."""
    text: str
    """What was found, one line in plain words."""
    mend: str = ""
    """What to do about it, one line; empty where nothing is to be done."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def ok(check: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(check, "ok", _line(text))


def note(check: str, text: str, mend: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(check, "note", _line(text), _line(mend))


def problem(check: str, text: str, mend: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(check, "problem", _line(text), _line(mend))


def any_problem(findings: Iterable[Finding]) -> bool:
    """Return whether anything must be mended."""
    return any(f.level == "problem" for f in findings)


def few(names: Iterable[str], most: int = 4) -> str:
    """Return names with commas, the first ones of many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _line(text: str) -> str:
    return " ".join(text.split())
