"""For all tests: the import path of their helpers, and what a skipped test means.

With DISTBP_TEST_NO_SKIP=1, as in CI, a skip is a failure: a machine that should be able to run
all tests lacks something. Otherwise skips are listed at the end. Never a failure is that there are
newer versions of NumPy or OpenBLAS than those that a literal digest holds for.
"""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

OTHER_VERSIONS = "other versions"  # how the reason of a skip begins that is always allowed
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
    """Return the report, as a failure if it is a skip and skips are not allowed."""
    is_allowed = hasattr(report, "wasxfail") or f"Skipped: {OTHER_VERSIONS}" in str(report.longrepr)
    if NO_SKIP and report.skipped and not is_allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped, although DISTBP_TEST_NO_SKIP=1: {report.longrepr}"
    return report


# The compiled engine has tests of its own, which ask for it.
os.environ.setdefault("DISTBP_ENGINE", "numpy")

# Programs that these tests start must not ignore signals, as the tests themselves may because
# they were started by `nohup` or by `&` in a shell.
for number, default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, default)
