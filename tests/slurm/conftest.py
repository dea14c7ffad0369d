"""The chaos suite prints its table at the end of the tests."""

from . import chaos


def pytest_terminal_summary(terminalreporter):
    """Print a row for every fault that was played."""
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", [])
        if name == "chaos" and report.when == "call"
    ]
    if rows:
        terminalreporter.write_sep("-", "faults and what became of the run")
        terminalreporter.write_line("\n".join([chaos.HEAD, *rows]))
