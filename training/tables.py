"""Columns of CSV, TSV, JSONL, JSON and parquet files, read with pyarrow, little at a time.

Nothing is cleaned or interpreted here. An empty CSV cell is an empty text and a missing number.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import UsageError, nearest
from .hub_layout import SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 4 << 20
_SMALL = 8 << 20
"""Line files up to this size are read whole when they are sampled."""
_PLACES = 64
"""Places at which a large JSONL file is sampled."""


def file_format(path: Path) -> str:
    """Return `csv`, `json` or `parquet` by a file's suffix.

    Raises:
        UsageError: it has another one.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: unknown kind of file: {', '.join(SUFFIXES)} are read")
    return SUFFIXES[path.suffix]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a reader says of a broken file into one line.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        yield
    except UsageError:
        raise
    except KeyError as error:  # pyarrow finds a column by name twice, or not at all
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} cannot be read: is a column's name there twice? {reason}"
        ) from None
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are both or either
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{path} cannot be read: {' '.join(reason.split())[:200]}") from None


def column_types(path: Path) -> dict[str, str]:
    """Return the columns of a file with their types as pyarrow writes them.

    CSV and JSON types are those of the first rows.
    """
    with readable(path):
        kind = file_format(path)
        if kind == "parquet":
            import pyarrow.parquet as pq

            schema: Any = pq.read_schema(path)
        elif kind == "csv":
            with _open_csv(path, None) as reader:
                schema = reader.schema
        else:
            import pyarrow as pa

            schema = pa.Table.from_pylist(_widest(list(itertools.islice(_json_rows(path), 1000))))
            schema = schema.schema
        return {name: str(schema.field(name).type) for name in schema.names}


def hub_features(path: Path) -> dict[str, Any]:
    """Return the features that `datasets` wrote into a parquet file's schema, by column."""
    if file_format(path) != "parquet":
        return {}
    import pyarrow.parquet as pq

    with readable(path):
        stored = (pq.read_schema(path).metadata or {}).get(b"huggingface")
        return json.loads(stored)["info"]["features"] if stored else {}


def count_rows(path: Path) -> int:
    """Return the number of rows of a file, reading as little as its format allows."""
    with readable(path):
        kind = file_format(path)
        if kind == "parquet":
            import pyarrow.parquet as pq

            return pq.read_metadata(path).num_rows
        if kind == "csv":
            with _open_csv(path, None) as reader:
                return sum(batch.num_rows for batch in reader)
        return sum(1 for _ in _json_rows(path))


def null_count(path: Path, column: str) -> int:
    """Return how many rows of a parquet file have no value, by its statistics; else 0."""
    if file_format(path) != "parquet":
        return 0
    import pyarrow.parquet as pq

    with readable(path):
        metadata = pq.read_metadata(path)
        found = 0
        for g in range(metadata.num_row_groups):
            group = metadata.row_group(g)
            for c in range(group.num_columns):
                chunk = group.column(c)
                if chunk.path_in_schema == column and chunk.statistics is not None:
                    found += chunk.statistics.null_count or 0
        return found


def read_column(path: Path, column: str) -> pa.ChunkedArray:
    """Return one column of a file. A column that some JSON rows lack is null there."""
    import pyarrow as pa

    with readable(path):
        kind = file_format(path)
        if kind == "parquet":
            import pyarrow.parquet as pq

            return pq.ParquetFile(path).read(columns=[column]).column(column)
        if kind == "csv":
            return _read_csv_column(path, column)
        return pa.chunked_array([pa.array([row.get(column) for row in _json_rows(path)])])


def read_columns(path: Path, columns: list[str]) -> dict[str, list[Any]]:
    """Return whole columns of a file as Python values; CSV columns as text.

    Raises:
        UsageError: a column is missing (the nearest is named), or the file cannot be read.
    """
    types = column_types(path)
    for column in columns:
        if column not in types:
            raise UsageError(f"{path} has no column '{column}': {nearest(column, types)}")
    with readable(path):
        kind = file_format(path)
        if kind == "parquet":
            import pyarrow.parquet as pq

            table: Any = pq.ParquetFile(path).read(columns=columns)
            return {column: table.column(column).to_pylist() for column in columns}
        if kind == "csv":
            with _open_csv(path, tuple(columns)) as reader:
                table = reader.read_all()
            return {column: table.column(column).to_pylist() for column in columns}
        rows = list(_json_rows(path))
        return {column: [row.get(column) for row in rows] for column in columns}


def sample_rows(
    path: Path, columns: tuple[str, ...], n: int, rng: random.Random
) -> list[tuple[Any, ...]]:
    """Return about `n` rows of a file, or all if it has fewer, reading a bounded part of it.

    Parquet: row groups at random until they hold four times `n` rows. JSONL: lines after random
    positions. CSV and JSON arrays: the head (up to four times `n` rows), because a position
    inside a CSV file does not tell whether it lies within quotes.
    """
    with readable(path):
        kind = file_format(path)
        if kind == "parquet":
            rows = _parquet_part(path, columns, n, rng)
        elif kind == "csv":
            rows = _csv_head(path, columns, 4 * n)
        else:
            rows = [tuple(r.get(c) for c in columns) for r in _json_part(path, n, rng)]
    return rng.sample(rows, n) if len(rows) > n else rows


def _parquet_part(
    path: Path, columns: tuple[str, ...], n: int, rng: random.Random
) -> list[tuple[Any, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    groups = list(range(file.num_row_groups))
    rng.shuffle(groups)
    taken, rows = [], 0
    for group in groups:
        taken.append(group)
        rows += file.metadata.row_group(group).num_rows
        if rows >= 4 * n:
            break
    table = file.read_row_groups(sorted(taken), columns=list(columns))
    if table.num_rows > n:
        table = table.take(pa.array(sorted(rng.sample(range(table.num_rows), n))))
    return list(zip(*(table.column(c).to_pylist() for c in columns), strict=True))


def _csv_head(path: Path, columns: tuple[str, ...], rows: int) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    with _open_csv(path, columns) as reader:
        for batch in reader:
            found += zip(*(batch.column(c).to_pylist() for c in columns), strict=True)
            if len(found) >= rows:
                break
    return found[:rows]


def _json_part(path: Path, n: int, rng: random.Random) -> list[dict[str, Any]]:
    size = path.stat().st_size
    if size <= _SMALL or _is_array(path):
        return list(itertools.islice(_json_rows(path), None if size <= _SMALL else 4 * n))
    found: dict[int, dict[str, Any]] = {}
    with path.open("rb") as file:
        for _ in range(_PLACES):
            file.seek(rng.randrange(size))
            file.readline()
            for _ in range(-(-2 * n // _PLACES)):
                start = file.tell()
                if line := file.readline().strip():
                    found[start] = json.loads(line)
    return list(found.values())


def _csv_options(path: Path, columns: tuple[str, ...] | None, as_text: bool) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    return {
        "read_options": pacsv.ReadOptions(block_size=_BLOCK),
        "parse_options": pacsv.ParseOptions(
            delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True
        ),
        "convert_options": pacsv.ConvertOptions(
            include_columns=list(columns) if columns else None,
            column_types=dict.fromkeys(columns, pa.string()) if columns and as_text else None,
            null_values=[""],
            strings_can_be_null=False,
            # "2004" or "10:30" in a text column must not become a time.
            timestamp_parsers=[],
        ),
    }


def _open_csv(path: Path, columns: tuple[str, ...] | None) -> Any:
    import pyarrow.csv as pacsv

    _refuse_empty(path)
    return pacsv.open_csv(path, **_csv_options(path, columns, as_text=True))


def _read_csv_column(path: Path, column: str) -> pa.ChunkedArray:
    """Read a CSV column whole, so that its type is that of all rows and not of the first."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    _refuse_empty(path)
    values = pacsv.read_csv(path, **_csv_options(path, (column,), as_text=False)).column(column)
    if pa.types.is_temporal(values.type):
        return values.cast(pa.string())
    return values


def _refuse_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty")


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON array or of a file with one object a line."""
    if _is_array(path):
        rows: Any = enumerate(json.loads(path.read_text(encoding="utf-8-sig")), 1)
        what = "entry"
    else:
        what = "line"
        with path.open(encoding="utf-8-sig") as file:
            yield from _objects(path, what, _parsed(path, file))
        return
    yield from _objects(path, what, rows)


def _parsed(path: Path, lines: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path} cannot be read: line {number} is not JSON: {error}") from None


def _objects(path: Path, what: str, rows: Any) -> Iterator[dict[str, Any]]:
    for number, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"{path} cannot be read: {what} {number} is no object with columns")
        yield row


def _widest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every row the columns of all: pyarrow takes them from the first row alone."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]
