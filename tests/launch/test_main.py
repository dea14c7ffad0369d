from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from launch.main import COMMANDS, run_command
from training.config import UsageError

from .commandline import ROOT, assert_refused, clean_environment, glueline


def console(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the console script's entry point."""
    code = "import sys; sys.argv[0] = 'glueline'; from launch.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_the_commands(tmp_path: Path) -> None:
    for args in ((), ("--help",), ("-h",)):
        done = console(*args, cwd=tmp_path)
        assert done.returncode == 0
        assert all(name in done.stdout and text in done.stdout for name, text in COMMANDS.items())


def test_unknown_command(tmp_path: Path) -> None:
    assert_refused(console("submti", cwd=tmp_path), "unknown command 'submti'", "'submit'")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_start_both_ways_from_any_folder(name: str, tmp_path: Path) -> None:
    """As a file of a clone and as a console script; traps lie in the working directory."""
    (tmp_path / "training.py").write_text("raise SystemExit('a stranger was imported')")
    as_file = glueline(name, "--help", cwd=tmp_path)
    assert as_file.returncode == 0, as_file.stderr
    assert as_file.stdout.startswith(f"Usage: glueline {name} ")
    (tmp_path / "training.py").unlink()
    assert console(name, "--help", cwd=tmp_path).stdout == as_file.stdout


def test_a_file_works_with_safe_path(tmp_path: Path) -> None:
    done = glueline("submit", "--help", cwd=tmp_path, env={"PYTHONSAFEPATH": "1"})
    assert done.returncode == 0, done.stderr


def test_launch_is_not_on_the_path_of_a_command(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "sys.path[0] = sys.argv[0].rpartition('/')[0]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print([p for p in sys.path if p.endswith('launch')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "launch" / "submit.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[]\n"


def _command(error: BaseException) -> click.Command:
    @click.command()
    def fails() -> None:
        raise error

    return fails


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UsageError("two\nlines"), 2, "error: two lines\n"),
        (click.UsageError("bad"), 2, "error: bad\n"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_errors_are_one_line(
    error: BaseException, status: int, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(_command(error), [])
    assert stop.value.code == status
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    if text is not None:
        assert shown == text


@pytest.mark.parametrize(
    ("kind", "typed", "text"),
    [
        (click.FloatRange(min=0), "x", "expected a number (DAYS) from 0 on, got 'x'"),
        (click.FloatRange(0.5, 1), "2", "expected a number (DAYS) from 0.5 to 1, got '2.0'"),
        (click.IntRange(1), "0", "expected a whole number (DAYS) from 1 on, got '0'"),
        (int, "1.5", "expected a whole number (DAYS), got '1.5'"),
        (click.Choice(["a", "b"]), "c", "Invalid value for '--old': 'c' is not one of 'a', 'b'."),
    ],
)
def test_a_number_that_is_none_is_told_what_is_wanted(
    kind: click.ParamType, typed: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @click.option("--old", type=kind, metavar="DAYS")
    def asks(old: object) -> None:
        """Take a value."""

    with pytest.raises(SystemExit) as stop:
        run_command(asks, ["--old", typed])
    assert stop.value.code == 2
    assert capsys.readouterr().err.removeprefix("error: ").removeprefix("--old: ").strip() == text


def test_our_own_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(_command(ZeroDivisionError()), [])


def test_the_return_value_is_the_exit_status() -> None:
    command = click.Command("x", callback=lambda: 1)
    with pytest.raises(SystemExit) as stop:
        run_command(command, [])
    assert stop.value.code == 1
