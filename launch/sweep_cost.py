"""What the trials of a sweep take together, as far as their plans know: hours, and until when."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from typing import Any

from training.config import RunConfig

from . import machine
from .duration import words
from .packing import Packing

Planned = tuple[RunConfig, Mapping[str, Any] | None]
"""A trial's configuration, and its plan's `time`."""


def cost_of(trials: Sequence[Planned], packing: Packing) -> dict[str, Any]:
    """Return what trials cost, ready for JSON.

    `seconds` is from the first start to the last end; where Slurm may start as many as fit, it is
    as if that were all of them, and `seconds_in_a_row` as if it were one at a time.

    Args:
        trials: in the order of their start.
        packing: how they share the nodes.
    """
    here = machine.cores()
    hours, unit = 0.0, ""
    times: dict[int, list[float]] = {}
    for config, planned in trials:
        if planned is None:
            continue
        # Of a node's cores each trial has a share for longer; of its GPUs for as long as planned.
        shared = packing.lanes_of(config) if config.engine.device != "cpu" else 1
        hours += planned["hours"] / shared
        unit = planned["unit"]
        lane = times.setdefault(packing.lanes_of(config), [])
        lane.append(planned["seconds"] * packing.slowdown(config, here))
    jobs = packing.jobs(trials[0][0].cluster) if trials else 1
    in_a_row = sum(elapsed(some, lanes) for lanes, some in times.items())
    # Trials of which another number shares a node have jobs of their own: as if those came next.
    at_once = [elapsed(some, jobs and jobs * lanes) for lanes, some in times.items()]
    return {
        "trials": len(trials),
        "unknown": len(trials) - sum(len(some) for some in times.values()),
        "hours": hours,
        "unit": unit,
        "seconds_in_a_row": in_a_row,
        "seconds": sum(at_once) if jobs else max(at_once, default=0.0),
        "parallel": jobs and jobs * max(times, default=1),
    }


def elapsed(seconds: Sequence[float], at_once: int | None) -> float:
    """Return how long trials take that start in this order, each as soon as there is a place.

    Args:
        seconds: of each trial.
        at_once: how many run at a time; None: all.
    """
    places = [0.0] * min(at_once or len(seconds), len(seconds))
    for each in seconds:
        heapq.heapreplace(places, places[0] + each)
    return max(places, default=0.0)


def cost_words(cost: Mapping[str, Any], now: float | None = None) -> str | None:
    """Return a cost for people; None where nothing is known of it.

    Args:
        cost: as `cost_of`.
        now: epoch seconds; None: ask.
    """
    if not cost["unit"]:
        return None
    unknown = f", {cost['unknown']} trials not counted" if cost["unknown"] else ""
    spent = f"about {cost['hours']:.2g} {cost['unit']}{unknown}"
    if cost["hours"] >= 10:
        spent = f"about {cost['hours']:,.0f} {cost['unit']}{unknown}"
    took, in_a_row = words(cost["seconds"]), words(cost["seconds_in_a_row"])
    if cost["parallel"] is None and took != in_a_row:
        return f"{spent}; {took} if all start at once, {in_a_row} one job after the other"
    now = time.time() if now is None else now
    form = "%H:%M" if cost["seconds"] < 20 * 3600 else "%a %d %b, %H:%M"
    end = time.strftime(form, time.localtime(now + cost["seconds"]))
    at_a_time = f", {cost['parallel']} at a time" if (cost["parallel"] or 1) > 1 else ""
    return f"{spent}; {took}{at_a_time}: until {end} if the first starts now"
