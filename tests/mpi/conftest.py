"""The same suite at 1, 2, 3 and 4 ranks: what its tests are given, and that they ran.

A test gathers what every rank has seen by mpi4py itself, not by what is tested, and
asserts on every rank.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")  # ranks outnumber the cores

import pytest
from mpi4py import MPI

from distbp.parallel.comm import Comm

sys.path.insert(0, str(Path(__file__).parent))
from nodes import Dealt

WORLD = MPI.COMM_WORLD
ran = {"mpi": 0, "other": 0}


@pytest.fixture(params=["one node", "two nodes"])
def comm(request: pytest.FixtureRequest) -> Comm:
    """Return all ranks, on this one node or as if they were dealt out to two."""
    return Comm(WORLD if request.param == "one node" else Dealt(WORLD))


@pytest.fixture
def everywhere() -> Callable[[Any], list[Any]]:
    """Return a function that returns every rank's value, in the launcher's order, on every rank."""
    return WORLD.allgather


@pytest.fixture(autouse=True)
def no_forcing_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here is about a loss of power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def pytest_configure(config: pytest.Config) -> None:
    # Ranks that share one folder for temporary files remove each other's old ones, and fail.
    root = tempfile.mkdtemp(prefix=f"distbp-rank-{WORLD.rank}-")
    os.environ["PYTEST_DEBUG_TEMPROOT"] = root
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    if WORLD.rank > 0:  # they have the same to say
        config.option.verbose -= 2
        config.option.reportchars = ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        ran["mpi" if "mpi" in report.keywords else "other"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of these tests in which none has run: pytest has nothing against it."""
    asked = session.config.option.with_mpi or session.config.option.only_mpi
    if session.testscollected and not ran["mpi"] and (asked or not ran["other"]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().line("no MPI test ran: use --with-mpi", red=True)
