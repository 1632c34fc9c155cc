"""Real programs, started from outside: data sets and models for them, and cleanup after them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import samples

sys.path.insert(0, str(Path(__file__).parent))
import ranks

# Slow tests that mostly wait: other files can run at the same time.
RUN_FIRST = ("test_slurm_jobs.py", "test_scripts.py", "test_benchmarks.py", "test_packaging.py")

# These hardly start ranks, or are for developers: where both MPIs are tested, they are not tested
# with Open MPI again.
INDEPENDENT_OF_MPI = (
    "test_benchmarks.py", "test_completion.py", "test_doctor_faults.py", "test_fashion_mnist.py",
    "test_hdf5_sources.py", "test_interop.py", "test_old_files.py", "test_own_parts.py",
    "test_report.py", "test_scripts.py", "test_sweep.py", "test_tables.py", "test_tasks.py",
    "test_terminal.py", "test_verify.py", "test_watch.py",
)  # fmt: skip
has_other = "DISTBP_TEST_OTHER_VENV" in os.environ
collect_ignore = list(INDEPENDENT_OF_MPI) if ranks.is_open_mpi() and has_other else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest files, so that workers do not wait for one of them at the end."""
    items.sort(key=lambda item: item.path.name not in RUN_FIRST)


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Kill what a test has started and, because it failed, not waited for."""
    yield
    for job in list(ranks.running):
        job.end()
        job.clear()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the sample data sets by name."""
    return samples.write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Path]) -> Path:
    """Return the directory of a run that was trained without MPI."""
    folder = tmp_path_factory.mktemp("trained")
    ranks.distbp("train", data["digits"], "--out", "run", "--epochs", 2, folder=folder)
    return folder / "run"
