"""The commands run from a clone that is not installed, and from an installed wheel."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.launch.commandline import ROOT, clean_environment

DRY = ["submit", "--executor", "local", "--task", "demo", "--model", "tiny", "--dry-run"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, with what this Python has installed."""
    source = tmp_path_factory.mktemp("source")
    for name in ("launch", "slurm", "training", "configs", "pyproject.toml", "README.md"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    shutil.copy(ROOT / "LICENSE", source / "LICENSE")
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(source)],
        check=True, capture_output=True, env=clean_environment(),
    )  # fmt: skip
    return next(out.glob("glueline-*.whl"))


@pytest.mark.timeout(900)
def test_from_an_installed_wheel(wheel, tmp_path):
    # Our own dependencies come from this Python: only the wheel is new.
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "venv" / "lib" / version / "site-packages"
    ours = Path(next(p for p in sys.path if p.endswith("site-packages")))
    # A path file for dependencies, but not for an editable install of this clone.
    (packages / "zz-dependencies.pth").write_text(f"{ours}\n")
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "glueline"), *DRY, "--json"],
        cwd=tmp_path, capture_output=True, text=True, env=clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where = "import launch, configs; print(launch.__file__, configs.__file__)"
    shown = subprocess.run(
        [str(python), "-c", where], cwd=tmp_path, capture_output=True, text=True,
        env=clean_environment(),
    ).stdout  # fmt: skip
    assert shown.count(str(packages)) == 2
    assert len(list((packages / "configs" / "tasks").glob("*.yaml"))) >= 13


def test_from_a_plain_clone_in_any_folder(tmp_path):
    for name in ("launch", "slurm", "training", "configs"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name)
    other = tmp_path / "somewhere else"
    other.mkdir()
    # A module of the user's with our name in the working directory must not take its place.
    (other / "training.py").write_text("raise SystemExit('wrong module')\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "clone" / "launch" / "submit.py"), *DRY[1:]],
        cwd=other, capture_output=True, text=True, env=clean_environment(PYTHONSAFEPATH=""),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The job runs a copy of the clone's code.
    assert str(other / "runs" / ".cache" / "code") in done.stdout
