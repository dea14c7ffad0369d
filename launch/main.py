"""The console script: `glueline NAME …` is `python launch/NAME.py …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "doctor": "Check this cluster, and write its site profile.",
    "submit": "Submit a fine-tuning run to Slurm, or run it on this machine.",
    "sweep": "Submit many runs that differ in batch, learning rate, seed, …, as one array.",
    "reproduce": "Train a published recipe on several seeds, and judge the published score.",
    "replay": "Train again what a receipt says, here, and compare.",
    "status": "Show how runs are doing, and the first cause of a failure.",
    "list": "List runs by task, model, state, any setting.",
    "logs": "Print what a run's ranks printed; the first error with its traceback.",
    "save": "Have a running run write a checkpoint now.",
    "cancel": "Stop a queued or running run.",
    "sync": "Send runs to W&B that could not reach it from their nodes.",
    "report": "Report on a run or a sweep: a page, CSV tables, JSON.",
    "references": "List published numbers, their recipes and sources.",
    "diff": "Say what differs between two runs, and whether their scores do.",
    "rehearse": "Hurt a run on purpose, and see that it goes on where it was.",
    "clean": "Remove what no run needs any more: checkpoints, cached data and code.",
    "prepare": "Fetch and tokenise ahead of time; look at a task's rows.",
    "predict": "Label texts with a finished run's model.",
    "leaderboard": "Zip test-set predictions for the GLUE server, or check such a zip.",
    "publish": "Write a run's model card; upload its model to the hub.",
}
"""Commands with their one-line help, in the order of use; a module is imported when called."""


def run_command(command: object, args: Sequence[str] | None = None) -> NoReturn:
    """Run a click command as the whole program: exit status and error line as documented.

    A wrong request (`UsageError`, click's own) is one line on stderr and status 2; Ctrl-C is 130.
    Any other exception keeps its traceback: it is a bug of ours. The command's return value, if
    it is a number, is the exit status.
    """
    import click

    from training.config.schema import UsageError

    assert isinstance(command, click.Command)
    typed = Path(sys.argv[0])
    program = f"glueline {typed.stem}" if typed.suffix == ".py" else sys.argv[0]
    try:
        status = command.main(args, prog_name=program, standalone_mode=False)
    except UsageError as error:
        _fail(str(error))
    except click.NoSuchOption as error:
        _fail(_unknown_option(error))
    except click.BadParameter as error:
        _fail(_bad_value(error))
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _unknown_option(error: object) -> str:
    import click

    from training.config.schema import nearest

    assert isinstance(error, click.NoSuchOption)
    known = [
        name
        for parameter in (error.ctx.command.params if error.ctx else [])
        for name in parameter.opts
        if name.startswith("--")
    ]
    return f"unknown flag '{error.option_name}': {nearest(error.option_name, [*known, '--help'])}"


def _bad_value(error: object) -> str:
    """Return what a flag with a number wants, in the words that the configuration has for it."""
    import click

    assert isinstance(error, click.BadParameter)
    kind = error.param.type if error.param else None
    whole = isinstance(kind, type(click.INT))
    if error.param is None or not (whole or isinstance(kind, type(click.FLOAT))):
        return error.format_message()
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    span = "" if low is None else f" from {low:g} {'on' if high is None else f'to {high:g}'}"
    got = error.message.split(" is not ")[0].strip("'")
    unit = error.param.metavar or ""
    words = ("a whole number" if whole else "a number") + (f" ({unit})" if len(unit) > 1 else "")
    return f"{error.param.opts[-1]}: expected {words}{span}, got '{got}'"


def _fail(message: str) -> NoReturn:
    """Print one line on stderr, whatever the message holds, and exit with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "Usage: glueline COMMAND [OPTIONS]\n\n"
        "Large-batch fine-tuning of transformer classifiers on Slurm.\n\n"
        f"Commands:\n{rows}\n\n"
        "glueline COMMAND --help tells the flags of one."
    )


def main() -> NoReturn:
    """Run the command named by the first argument."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(_help())
        sys.exit(0)
    if name == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"glueline {version('glueline')}")
        except PackageNotFoundError:
            print("glueline (a clone, not installed)")
        sys.exit(0)
    if name not in COMMANDS:
        from training.config.schema import nearest

        _fail(f"unknown command '{name}': {nearest(name, COMMANDS)}")
    sys.argv = [f"glueline {name}", *rest]
    sys.exit(importlib.import_module(f"launch.{name}").main())


if __name__ == "__main__":
    main()
