"""The README's two commands, from a fresh clone, as a newcomer gives them."""

import re
import subprocess
import sys

import pytest
from ranks import ROOT, Job, is_open_mpi

# Nothing of this checkout: what a clone needs, it installs.
FRESH = {"PYTHONPATH": "", "PYTHONWARNINGS": "", "PYTHON": sys.executable}
LIMIT = 1200.0  # seconds, with the download of what is installed


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a fresh clone, at a path with a space."""
    folder = tmp_path_factory.mktemp("fresh") / "a clone"
    command = ["git", "-c", "safe.directory=*", "clone", "--quiet", ROOT, folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def mpi():
    return "openmpi" if is_open_mpi() else "mpich"


def test_demo(clone, mpi):
    """It installs distbp, trains five networks and says how good they are; once more, faster."""
    command = ["scripts/demo", "--mpi", mpi]
    first = Job(command, clone, FRESH, LIMIT).wait()
    assert first.status == 0, str(first)
    assert len(re.findall(r"^seed \d +\d\d\.\d\d% right$", first.out, re.M)) == 5, str(first)
    median = re.search(r"^median +(\d\d\.\d\d)% right", first.out, re.M)
    assert median is not None, str(first)
    assert float(median[1]) >= 97.0
    again = Job(command, clone, FRESH, LIMIT).wait()
    assert again.status == 0, str(again)
    assert "making" not in again.out + again.err


def test_the_tests(clone, mpi, tmp_path):
    """A short run of them passes, in environments that it makes itself."""
    environment = FRESH | {"DISTBP_TEST_HOME": str(tmp_path / "home")}
    ended = Job(["scripts/test", "--quick", "--mpi", mpi], clone, environment, LIMIT).wait()
    assert ended.status == 0, str(ended)
    counted = re.search(r"^(\d+) passed, 0 failed$", ended.out, re.M)
    assert counted is not None, str(ended)
    assert int(counted[1]) > 100
