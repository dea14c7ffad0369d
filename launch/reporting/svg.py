"""Scales, ticks and the parts of an SVG plot. Pure text.

Colours are classes of the page's style sheet, so that a plot follows dark mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Kind = Literal["linear", "log2", "log10"]

DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2 1 2")
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = 6
LETTER = 0.56
"""Width of a letter over its size, about."""


def text(x: float, y: float, words: str, css: str = "tick", anchor: str = "middle") -> str:
    """Return a text."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{css}" {place}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str, dash: str = "") -> str:
    """Return a straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{dashes}/>'


def path(points: Iterable[tuple[float, float]], css: str, dash: str = "") -> str:
    """Return a line through points."""
    steps = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="{css}" d="{steps}" fill="none"{dashes}/>' if steps else ""


def marker(x: float, y: float, number: int, tip: str = "", size: float = 4.5) -> str:
    """Return the marker of a series; `tip` shows where a mouse rests on it."""
    shape, css = MARKERS[number % len(MARKERS)], f"m{number % COLOURS}"
    title = f"<title>{escape(tip)}</title>" if tip else ""
    r = size
    if shape in ("circle", "ring"):
        hollow = " hollow" if shape == "ring" else ""
        return f'<circle class="{css}{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{title}</circle>'
    if shape == "cross":
        d = f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x - r:.1f} {y + r:.1f}"
        d += f"L{x + r:.1f} {y - r:.1f}"
        return f'<path class="{css} hollow" d="{d}">{title}</path>'
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "triangle": ((0, -1.25 * r), (1.15 * r, 0.85 * r), (-1.15 * r, 0.85 * r)),
        "diamond": ((0, -1.35 * r), (1.35 * r, 0), (0, 1.35 * r), (-1.35 * r, 0)),
    }[shape]
    d = "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "Z"
    return f'<path class="{css}" d="{d}">{title}</path>'


def dash_of(number: int) -> str:
    """Return the dash pattern of a series."""
    return DASHES[(number + number // COLOURS) % len(DASHES)]


def number(value: float) -> str:
    """Return a number for an axis or a table, to three digits: 12.8k, 0.864, 3e-05."""
    size = abs(value)
    if value == 0:
        return "0"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            scale = 1e3 if letter == "k" else unit
            return f"{_three(value / scale)}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return _three(value)


def _three(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    out = f"{value:.{min(digits, 6)}f}"
    return out.rstrip("0").rstrip(".") if "." in out else out


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    kind: Kind
    low: float
    high: float
    start: float
    """Pixel of `low`."""
    stop: float
    """Pixel of `high`."""

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = (_bend(v, self.kind) for v in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return self.start + share * (self.stop - self.start)


def _bend(value: float, kind: Kind) -> float:
    return value if kind == "linear" else math.log10(max(value, 1e-300))


def span(values: Iterable[float], kind: Kind, room: float = 0.06) -> tuple[float, float]:
    """Return the ends of an axis that shows all values with some room."""
    bent = [_bend(v, kind) for v in values if kind == "linear" or v > 0] or [0.0, 1.0]
    low, high = min(bent), max(bent)
    if high - low < 1e-12:
        half = abs(high) * 0.1 or 0.5
        if kind != "linear":
            half = 0.15
        low, high = low - half, high + half
    low, high = low - room * (high - low), high + room * (high - low)
    return (low, high) if kind == "linear" else (10**low, 10**high)


def ticks(low: float, high: float, kind: Kind, most: int = 6) -> list[float]:
    """Return round values between the ends of an axis."""
    if kind == "log2":
        first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
        step = max(1, math.ceil((last - first + 1) / most))
        return [2.0**n for n in range(first, last + 1, step)]
    if kind == "log10":
        for heads in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            found = [
                h * 10.0**n
                for n in range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
                for h in heads
                if low <= h * 10.0**n <= high
            ]
            if len(found) >= 3:
                return found[:: max(1, math.ceil(len(found) / most))]
    return _round_ticks(low, high, most)


def _round_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_words(values: Sequence[float]) -> list[str]:
    """Return the labels of an axis, with as many digits as tell neighbours apart."""
    words = [number(v) for v in values]
    if len(set(words)) == len(words):
        return words
    return [f"{v:.6g}" for v in values]


def width_of(words: str, size: float = 13.5) -> float:
    """Return about how wide a text is, in pixels."""
    return LETTER * size * len(words)
