"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder with real rows in hub layout: $GLUELINE_DATA, or shared/data next to us.

    Without it the test is skipped; where CI is set it fails, so that nobody skips it unnoticed.
    """
    folder = Path(os.environ.get("GLUELINE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "glue").is_dir():
        reason = f"no real rows in {folder} ($GLUELINE_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
