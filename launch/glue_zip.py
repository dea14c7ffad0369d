"""The zip of a submission: the same bytes for the same files, and what it takes to read one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from training.config import UsageError

LARGEST = 64 << 20
"""Bytes of a file that is read: the largest, QQP.tsv, has four million."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name: without the clock the same files are the same bytes."""


def pack(files: Mapping[str, str]) -> bytes:
    """Return the zip that holds these texts by name, at its top."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text.encode())
    return out.getvalue()


def names_of(path: Path) -> list[str]:
    """Return the names of everything in a zip, folders too.

    Raises:
        UsageError: it cannot be read, or is no zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    # Its version, the coding of a name, a length: what is damaged has an exception of its own.
    except Exception as error:
        raise UsageError(f"{path} is no whole zip: {_said(error)}") from None


def read_text(path: Path, name: str) -> tuple[str, str]:
    """Return a file's text, and what is wrong with it instead (then the text is empty)."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > LARGEST:
                return "", f"has more than {LARGEST >> 20} MB"
            content = archive.read(name)
    # An unknown compression, a password, a damaged part: each has an exception of its own.
    except Exception as error:
        return "", f"cannot be read from the zip: {_said(error)}"
    try:
        return content.decode(), ""
    except UnicodeDecodeError as error:
        return "", f"is not UTF-8 text (byte {error.start})"


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
