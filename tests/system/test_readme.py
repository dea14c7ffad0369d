"""The README's commands work as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.commandline import ROOT, clean_environment

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"<!-- run -->\n```bash\n(.*?)```", TEXT, flags=re.DOTALL)


def test_there_are_commands():
    assert len(BLOCKS) >= 4


@pytest.mark.timeout(900)
def test_commands(tmp_path):
    """Run all blocks in order in one folder, as a reader does; each command must end with 0."""
    for name in ("launch", "slurm", "training", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = str(Path(sys.executable).parent)
    for block in BLOCKS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path, capture_output=True, text=True,
            env=clean_environment(PATH=f"{python}:/usr/bin:/bin", WANDB_MODE="offline"),
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_files_that_it_names_exist():
    for name in re.findall(r"\]\(([\w./-]+)\)", TEXT):
        assert (ROOT / name).exists(), name
