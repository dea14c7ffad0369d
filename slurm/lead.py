"""How long before the end of an allocation the ranks must be told to stop. Pure."""

from __future__ import annotations

MARGIN_SECONDS = 15.0
"""For what is not measured: the agent's look, the signal's way, the requeue."""
LEAST_SECONDS = 20.0
UNKNOWN_SECONDS = 60.0
"""Where no step was measured yet."""


def lead_seconds(
    step_seconds: float | None, save_seconds: float | None, limit_seconds: float | None = None
) -> float:
    """Return how many seconds before the end of the job the ranks must be told to stop.

    They finish the step they are in, then save; either may take twice as long as it did so far.

    Args:
        step_seconds: the slowest recent optimizer step; None before the first one.
        save_seconds: of a whole checkpoint, measured or estimated; None where neither is known.
        limit_seconds: the job's time limit: more than half of it is never given up.
    """
    if step_seconds is None and save_seconds is None:
        lead = UNKNOWN_SECONDS
    else:
        lead = 2 * ((step_seconds or 0.0) + (save_seconds or 0.0)) + MARGIN_SECONDS
    lead = max(LEAST_SECONDS, lead)
    return lead if limit_seconds is None else min(lead, limit_seconds / 2)


def describe_lead(limit_seconds: float | None) -> str:
    """Return `lead_seconds` in words, as a plan says it before anything is measured.

    Args:
        limit_seconds: the job's time limit, None without one.
    """
    return (
        f"stops to save {lead_seconds(None, None, limit_seconds):.0f} s ahead, once steps are "
        f"measured as long as two of them and two saves take, and {MARGIN_SECONDS:.0f} s"
    )
