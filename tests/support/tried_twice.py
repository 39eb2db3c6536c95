"""For conftest.py: shows why a test was tried twice, which pytest-rerunfailures keeps to itself (decision 0043)."""

import pytest

TITLE = "tried twice"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if reports := terminalreporter.getreports("rerun"):
        terminalreporter.write_sep("=", TITLE)
        for report in reports:
            terminalreporter.write_sep("_", report.nodeid)
            terminalreporter.write_line(report.longreprtext)
