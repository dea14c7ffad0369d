"""Small data set folders in hub layout, with rows of our own."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml


def write_parquet(path: Path, columns: dict[str, list[Any]], names: dict[str, list[str]] = {}):  # noqa: B006
    """Write a parquet file as `datasets` does: features in the schema's metadata.

    `names` gives columns of classes their names.
    """
    table = pa.table(columns)
    features = {
        column: {"names": names[column], "_type": "ClassLabel"}
        if column in names
        else {"dtype": str(table.schema.field(column).type), "_type": "Value"}
        for column in table.column_names
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def pairs(n: int, first: str, second: str, labels: list[Any]) -> dict[str, list[Any]]:
    """Return columns of `n` pairs of texts, the labels going round."""
    return {
        first: [f"the {i}. first text of some words" for i in range(n)],
        second: [f"and the {i}. second" for i in range(n)],
        "label": [labels[i % len(labels)] for i in range(n)],
        "idx": list(range(n)),
    }


def readme(folder: Path, **card: Any) -> None:
    """Write a README.md with this front matter."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"---\n{yaml.safe_dump(card)}---\n# A data set\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def glue_like(folder: Path, subset: str, first: str, second: str, names: list[str]) -> Path:
    """Write one configuration of GLUE: train, validation, and test with secret labels."""
    splits = {"train": 60, "validation": 20, "test": 10}
    for split, n in splits.items():
        labels = [-1] if split == "test" else list(range(len(names)))
        columns = pairs(n, first, second, labels)
        write_parquet(
            folder / subset / f"{split}-00000-of-00001.parquet", columns, {"label": names}
        )
    files = [{"split": s, "path": f"{subset}/{s}-*"} for s in splits]
    readme(folder, configs=[{"config_name": subset, "data_files": files}])
    return folder
