"""The same suite on 1, 2, 3 and 4 ranks: its fixtures, and a check that it ran.

A test gathers what every rank has found with mpi4py itself, not with the code under test, and
asserts on every rank.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")  # there are more ranks than cores

import pytest
from mpi4py import MPI

from distbp.parallel.comm import Group
from distbp.parallel.topology import Topology, make_topology

sys.path.insert(0, str(Path(__file__).parent))
from nodes import TwoNodes

WORLD = MPI.COMM_WORLD
ran = {"mpi": 0, "other": 0}


@pytest.fixture(params=["one node", "two nodes"])
def comm(request: pytest.FixtureRequest) -> Topology:
    """Return all ranks, on this node or as if they were distributed over two."""
    return make_topology(Group(WORLD if request.param == "one node" else TwoNodes(WORLD)))


@pytest.fixture
def everywhere() -> Callable[[Any], list[Any]]:
    """Return a function that returns every rank's value, in the launcher's order, on every rank."""
    return WORLD.allgather


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here is about a power failure."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def pytest_configure(config: pytest.Config) -> None:
    # Ranks that share pytest's folder for temporary files would remove each other's old ones.
    root = tempfile.mkdtemp(prefix=f"distbp-rank-{WORLD.rank}-")
    os.environ["PYTEST_DEBUG_TEMPROOT"] = root
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    if WORLD.rank > 0:  # their reports would repeat that of rank 0
        config.option.verbose -= 2
        config.option.reportchars = ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        ran["mpi" if "mpi" in report.keywords else "other"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if no MPI test has run: pytest-mpi skips them silently without --with-mpi."""
    asked = session.config.option.with_mpi or session.config.option.only_mpi
    if session.testscollected and not ran["mpi"] and (asked or not ran["other"]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().line("no MPI test ran: use --with-mpi", red=True)
