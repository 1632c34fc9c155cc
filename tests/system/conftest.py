"""Real programs, started from outside: data sets and models to start them on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import samples

sys.path.insert(0, str(Path(__file__).parent))
import ranks

# These take a minute and more, and mostly wait: the others can go on beside them.
FIRST = ("test_slurm_jobs.py", "test_scripts.py", "test_benchmarks.py", "test_packaging.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that nothing is left to go on alone at the end."""
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """End what a test has started and, because it failed, not waited for."""
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
    """Return the directory of a run, trained alone."""
    folder = tmp_path_factory.mktemp("trained")
    ranks.distbp("train", data["digits"], "--out", "run", "--epochs", 2, folder=folder)
    return folder / "run"
