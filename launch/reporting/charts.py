"""The plots: lines with error bars, stacked bars, a time line. Each is one SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from . import svg
from .svg import Kind, Scale

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 46
ROW = 18
"""Height of a row of the legend."""
SHOWN_MARKERS = 30
"""A line of more points has a marker now and then only."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows."""

    label: str
    """With its unit."""
    kind: Kind = "linear"
    ends: tuple[float, float] | None = None
    """None: from the values."""


@dataclass(frozen=True)
class Point:
    """A value with its error."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None
    tip: str = ""
    label: str = ""
    """Written beside it."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    points: tuple[Point, ...]
    style: int = 0
    joined: bool = True
    marked: bool = True


@dataclass(frozen=True)
class Rule:
    """A line across the plot at a value of y, or of x."""

    at: float
    label: str
    vertical: bool = False


def line_chart(
    title: str,
    x: Axis,
    y: Axis,
    curves: Sequence[Curve],
    rules: Sequence[Rule] = (),
    aside: bool = True,
) -> str:
    """Return a plot of lines with markers and error bars; empty where there is nothing to show.

    Args:
        title: for who cannot see it.
        x: the axis across.
        y: the axis up.
        curves: what is shown.
        rules: lines across the plot.
        aside: error bars of several lines at one place stand side by side.
    """
    shown = [c for c in curves if any(_fits(p, x, y) for p in c.points)]
    if not shown:
        return ""
    points = [p for c in shown for p in c.points if _fits(p, x, y)]
    legend = _legend(shown)
    height = HEIGHT + ROW * len(legend)
    bottom = HEIGHT - BOTTOM
    xs = [v for p in points for v in (p.x, p.left, p.right) if v is not None]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    xs += [r.at for r in rules if r.vertical]
    ys += [r.at for r in rules if not r.vertical]
    across = Scale(x.kind, *(x.ends or svg.span(xs, x.kind)), LEFT, WIDTH - RIGHT)
    up = Scale(y.kind, *(y.ends or svg.span(ys, y.kind)), bottom, TOP)
    parts = [*_frame(x, y, across, up, bottom)]
    parts += [_rule(rule, across, up, bottom, _crowded(rule, points, across, up)) for rule in rules]
    count = len(shown)
    for place, curve in enumerate(shown):
        shift = (place - (count - 1) / 2) * min(6.0, 24.0 / count) if count > 1 else 0.0
        several = aside and any(p.low is not None for p in curve.points)
        parts.append(_curve(curve, x, y, across, up, shift if several else 0.0))
    for row, entries in enumerate(legend):
        parts.append(_legend_row(entries, HEIGHT + ROW * row + 8))
    return _wrap(title, parts, WIDTH, height)


def _fits(point: Point, x: Axis, y: Axis) -> bool:
    return (x.kind == "linear" or point.x > 0) and (y.kind == "linear" or point.y > 0)


def _frame(x: Axis, y: Axis, across: Scale, up: Scale, bottom: float) -> list[str]:
    parts = []
    at = svg.ticks(across.low, across.high, x.kind)
    for value, words in zip(at, svg.tick_words(at), strict=True):
        place = across(value)
        parts.append(svg.line(place, bottom, place, bottom + 4, "axis"))
        parts.append(svg.text(place, bottom + 17, words))
    at = svg.ticks(up.low, up.high, y.kind)
    for value, words in zip(at, svg.tick_words(at), strict=True):
        parts.append(svg.line(LEFT, up(value), WIDTH - RIGHT, up(value), "grid"))
        parts.append(svg.text(LEFT - 7, up(value) + 4, words, anchor="end"))
    parts.append(svg.line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis"))
    parts.append(svg.line(LEFT, TOP, LEFT, bottom, "axis"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(svg.text(middle, bottom + 37, x.label, "label"))
    high = (TOP + bottom) / 2
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(14 {high:.1f}) '
        f'rotate(-90)">{escape(y.label)}</text>'
    )
    return parts


def _crowded(rule: Rule, points: Sequence[Point], across: Scale, up: Scale) -> bool:
    """Return whether points lie where a rule's label would stand at the right."""
    if rule.vertical:
        return False
    start = WIDTH - RIGHT - svg.width_of(rule.label)
    return any(across(p.x) > start and abs(up(p.y) - up(rule.at)) < 20 for p in points)


def _rule(rule: Rule, across: Scale, up: Scale, bottom: float, left: bool) -> str:
    if rule.vertical:
        place = across(rule.at)
        side = "end" if place > (LEFT + WIDTH - RIGHT) / 2 else "start"
        near = place - 5 if side == "end" else place + 5
        return svg.line(place, TOP, place, bottom, "rule", "5 4") + svg.text(
            near, TOP + 10, rule.label, "note", side
        )
    height = up(rule.at)
    # Above the line, unless that is outside of the plot.
    words = height - 5 if height > TOP + 16 else height + 13
    place, anchor = (LEFT + 6, "start") if left else (WIDTH - RIGHT - 2, "end")
    return svg.line(LEFT, height, WIDTH - RIGHT, height, "rule", "5 4") + svg.text(
        place, words, rule.label, "note", anchor
    )


def _curve(curve: Curve, x: Axis, y: Axis, across: Scale, up: Scale, shift: float) -> str:
    points = [p for p in curve.points if _fits(p, x, y)]
    css = f"c{curve.style % svg.COLOURS}"
    places = [(across(p.x) + shift, up(p.y)) for p in points]
    parts = []
    if curve.joined and len(points) > 1:
        parts.append(svg.path(places, css, svg.dash_of(curve.style)))
    for point, (px, py) in zip(points, places, strict=True):
        if point.low is not None and point.high is not None:
            parts.append(_bar(px, _inside(up, point.low), px, _inside(up, point.high), css))
        if point.left is not None and point.right is not None:
            parts.append(
                _bar(_inside(across, point.left), py, _inside(across, point.right), py, css)
            )
    every = max(1, len(points) // 8) if len(points) > SHOWN_MARKERS else 1
    if curve.marked:
        for i, (point, (px, py)) in enumerate(zip(points, places, strict=True)):
            if i % every == every // 2 or every == 1:
                parts.append(svg.marker(px, py, curve.style, point.tip or curve.name))
            if point.label:
                parts.append(svg.text(px + 7, py - 7, point.label, "note", "start"))
    return "".join(parts)


def _inside(scale: Scale, value: float) -> float:
    """Return the pixel of a value, at the end of the axis where it lies beyond."""
    return scale(min(max(value, scale.low), scale.high))


def _bar(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    if x1 == x2:
        caps = ((x1 - 3, y1, x1 + 3, y1), (x1 - 3, y2, x1 + 3, y2))
    else:
        caps = ((x1, y1 - 3, x1, y1 + 3), (x2, y1 - 3, x2, y1 + 3))
    css = f"{css} bar"
    return svg.line(x1, y1, x2, y2, css) + "".join(svg.line(*cap, css) for cap in caps)


def _legend(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Return the entries of the legend in rows; none for a single line without a name."""
    named = [c for c in curves if c.name]
    if len(named) < 2 and len(curves) < 2:
        return []
    rows: list[list[Curve]] = []
    used = 0.0
    for curve in named:
        wide = 44 + svg.width_of(curve.name)
        if not rows or used + wide > WIDTH - 20:
            rows.append([])
            used = 0.0
        rows[-1].append(curve)
        used += wide
    return rows


def _legend_row(entries: Sequence[Curve], height: float) -> str:
    parts, place = [], 14.0
    for curve in entries:
        css = f"c{curve.style % svg.COLOURS}"
        if curve.joined:
            parts.append(svg.line(place, height, place + 28, height, css, svg.dash_of(curve.style)))
        if curve.marked:
            parts.append(svg.marker(place + 14, height, curve.style))
        parts.append(svg.text(place + 34, height + 4, curve.name, "tick", "start"))
        place += 44 + svg.width_of(curve.name)
    return "".join(parts)


def _wrap(title: str, parts: Sequence[str], width: float, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width * 1.25:.0f}px">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class Bar:
    """One bar of parts that add up to at most 1."""

    label: str
    parts: tuple[tuple[str, float], ...]
    """(name, share)."""


def stacked_chart(title: str, label: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars of shares, each part with a hatching of its own and its percentage."""
    if not bars:
        return ""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    left = min(170.0, 16 + max(svg.width_of(b.label) for b in bars))
    each, top = 30, 8
    bottom = top + each * len(bars)
    across = Scale("linear", 0.0, 1.0, left, WIDTH - 2 * RIGHT)
    parts = []
    for i in range(0, 101, 20):
        place = across(i / 100)
        parts.append(svg.line(place, top, place, bottom + 4, "grid"))
        parts.append(svg.text(place, bottom + 17, f"{i}%"))
    for row, bar in enumerate(bars):
        y, at = top + each * row + 4, 0.0
        parts.append(svg.text(left - 7, y + 15, bar.label, anchor="end"))
        for name, share in bar.parts:
            start, stop = across(at), across(at + share)
            kind = names.index(name)
            tip = f"<title>{escape(f'{bar.label}: {name} {share:.1%}')}</title>"
            parts.append(
                f'<rect class="h{kind}" x="{start:.1f}" y="{y}" width="{max(0, stop - start):.1f}" '
                f'height="{each - 8}">{tip}</rect>'
            )
            words = f"{share:.0%}"
            if stop - start > svg.width_of(words) + 8:
                parts.append(svg.text((start + stop) / 2, y + 15, words, f"on{kind}"))
            at += share
    parts.append(svg.text((left + WIDTH - 2 * RIGHT) / 2, bottom + 37, label, "label"))
    place, height = 14.0, bottom + 58
    for kind, name in enumerate(names):
        if place + 34 + svg.width_of(name) > WIDTH:
            place, height = 14.0, height + ROW
        parts.append(
            f'<rect class="h{kind}" x="{place:.0f}" y="{height - 9}" width="16" height="12"/>'
        )
        parts.append(svg.text(place + 21, height + 1, name, anchor="start"))
        place += 36 + svg.width_of(name)
    return _wrap(title, parts, WIDTH, height + 12)


@dataclass(frozen=True)
class Span:
    """One bar of a time line."""

    label: str
    start: float
    """Seconds since the first one's start."""
    stop: float
    how: str
    """finished, failed, interrupted, running, or nothing."""
    tip: str = ""


def timeline(title: str, spans: Sequence[Span]) -> str:
    """Return a time line, a row a span, each with how it ended in words."""
    if not spans:
        return ""
    end = max(s.stop for s in spans) or 1.0
    unit, scale = _unit(end)
    each, top, left = 28, 8, 82
    bottom = top + each * len(spans)
    across = Scale("linear", 0.0, end / scale, left, WIDTH - RIGHT)
    parts = []
    for value in svg.ticks(0.0, end / scale, "linear"):
        parts.append(svg.line(across(value), top, across(value), bottom + 4, "grid"))
        parts.append(svg.text(across(value), bottom + 17, svg.number(value)))
    for row, span in enumerate(spans):
        y = top + each * row + 4
        start, stop = across(span.start / scale), across(span.stop / scale)
        wide = max(2.0, stop - start)
        tip = f"<title>{escape(span.tip)}</title>" if span.tip else ""
        parts.append(svg.text(left - 7, y + 14, span.label, anchor="end"))
        parts.append(
            f'<rect class="e-{span.how or "lost"}" x="{start:.1f}" y="{y}" width="{wide:.1f}" '
            f'height="{each - 8}">{tip}</rect>'
        )
        words = span.how or "left no word"
        inside = svg.width_of(words) + 8 < wide
        beyond = start + wide + 5 + svg.width_of(words) < WIDTH
        place = (start + 6) if inside else (start + wide + 5) if beyond else (start - 5)
        anchor = "start" if inside or beyond else "end"
        parts.append(svg.text(place, y + 14, words, "on0" if inside else "tick", anchor))
    parts.append(
        svg.text((left + WIDTH - RIGHT) / 2, bottom + 37, f"time since start ({unit})", "label")
    )
    return _wrap(title, parts, WIDTH, bottom + 46)


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 180:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)
