from __future__ import annotations

import pytest

from launch.gpus import memory_gb


@pytest.mark.parametrize(
    ("names", "size"),
    [
        (["a100"], 40),
        (["a100_80g"], 80),
        (["nvidia_a100-sxm4-80gb"], 80),
        (["a100_1g.10gb"], 10),
        (["h100"], 80),
        (["h200", "v100"], 16),
        (["tesla_v100-pcie-32gb"], 32),
        (["gpu:l40s:4"], 48),
        (["rtx_2080_ti"], 11),
        (["gpu:4"], None),
        (["shiny"], None),
        ([], None),
    ],
    ids=str,
)
def test_memory_by_name(names: list[str], size: int | None) -> None:
    found = memory_gb(names)
    assert (found[0] if found else None) == size
