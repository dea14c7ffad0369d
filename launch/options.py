"""Flags that many commands have. Imports click alone: commands that only look must start fast."""

from __future__ import annotations

import click

RUNS_HELP = "Runs folder.  [default: $GLUELINE_RUNS, the profile's, or runs]"
runs_option = click.option("--runs", metavar="DIR", help=RUNS_HELP)
"""The decorator that adds `--runs`."""
