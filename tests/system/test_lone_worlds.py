"""Ranks that do not find each other: refused, once, with the likely reason.

The launcher of one MPI and a Python that uses the other one make N runs of one rank,
which all write the same files. The virtual environment with the other MPI is named
by DISTBP_TEST_OTHER_VENV.
"""

import os
from pathlib import Path

import pytest
from ranks import FULL, Job, command_of, distbp, mpiexec, plain

OTHER = os.environ.get("DISTBP_TEST_OTHER_VENV", "")
needs_other = pytest.mark.skipif(not OTHER, reason="DISTBP_TEST_OTHER_VENV names no other MPI")


@needs_other
@pytest.mark.parametrize("direction", ["this launcher", "the other launcher"])
@pytest.mark.parametrize("verb", ["train", "evaluate"] if FULL else ["train"])
def test_the_launcher_of_another_mpi_is_refused(tmp_path, data, run, direction, verb):
    words = {
        "train": ["-m", "distbp", "train", data["digits"], "--out", "new", "--epochs", 1],
        "evaluate": ["-m", "distbp", "evaluate", run, data["digits"]],
    }[verb]
    other = Path(OTHER, "bin")
    ours = command_of([])[0]
    launcher, python = (
        (mpiexec(), other / "python") if direction == "this launcher" else (mpiexec(other), ours)
    )
    # mpi4py may warn of it too.
    ended = Job([launcher, "-n", 3, python, *words], tmp_path, {"PYTHONWARNINGS": ""}).wait()
    message = plain(ended.err)
    assert ended.status == 1, str(ended)
    assert message.count("distbp: ") == 1, str(ended)
    assert "3 ranks were started" in message, str(ended)
    assert "mpirun" in message, str(ended)
    assert "Traceback" not in ended.err, str(ended)
    assert ended.out == "", str(ended)
    assert not (tmp_path / "new").exists()


@needs_other
def test_ranks_does_not_take_another_mpis_launcher(tmp_path, data):
    """With the other MPI first on the PATH, --ranks starts the one that Python uses."""
    path = f"{OTHER}/bin:{os.environ['PATH']}"
    words = ("train", data["digits"], "--out", "run", "--epochs", 1, "--ranks", 2)
    ended = distbp(*words, folder=tmp_path, environment={"PATH": path})
    assert "2 ranks" in ended.out


@pytest.mark.parametrize(("said", "n"), [(3, 2), (1, 2)])
def test_another_number_of_ranks_than_asked_for_is_refused(tmp_path, data, said, n):
    """What --ranks asked for is compared with what there is."""
    words = ["train", data["digits"], "--out", "new", "--epochs", 1]
    ended = Job(command_of(words, n=n), tmp_path, {"DISTBP_RANKS": str(said)}).wait()
    message = plain(ended.err)
    assert ended.status == 1, str(ended)
    assert message.count("distbp: ") == 1, str(ended)
    assert str(said) in message, str(ended)
    assert str(n) in message, str(ended)
    assert not (tmp_path / "new").exists()


def test_a_python_without_a_launcher_is_alone(tmp_path, data):
    """No launcher, no MPI variables: one rank, whatever MPI is installed."""
    ended = distbp("train", data["digits"], "--out", "run", "--epochs", 1, folder=tmp_path)
    assert "1 rank on 1 node" in ended.out
