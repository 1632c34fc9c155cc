"""What all tests share: where their own modules are, and what a skipped test means.

With DISTBP_TEST_NO_SKIP=1, as in CI, a skip is a failure: a machine that is meant to
run everything has lost something. Otherwise skips are listed at the end.
"""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

NO_SKIP = os.environ.get("DISTBP_TEST_NO_SKIP") == "1"


def pytest_configure(config: pytest.Config) -> None:
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> pytest.TestReport:
    return without_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> pytest.CollectReport:
    return without_skip((yield))


def without_skip(report):
    """Return the report, of a failure if it was of a skip and skips are not allowed."""
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report


# `&` of a shell and `nohup` let commands ignore a signal; what these tests start must not.
for number, default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, default)
