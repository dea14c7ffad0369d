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
    # A relative path is meant from the repository root, where the tests are started.
    folder = (ROOT / (os.environ.get("GLUELINE_DATA") or "../shared/data")).resolve()
    if not (folder / "glue").is_dir():
        reason = f"no real rows in {folder} ($GLUELINE_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
