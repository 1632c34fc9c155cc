"""Ranks that do not belong to one MPI world are refused, once, with the likely reason.

The launcher of one MPI with a Python that uses another one starts N separate runs of one
rank, which would all write the same files. DISTBP_TEST_OTHER_VENV is the path of a virtual
environment with the other MPI.
"""

import os
from pathlib import Path

import pytest
from ranks import FULL, Job, command_of, distbp, distbp_messages, mpiexec

OTHER = os.environ.get("DISTBP_TEST_OTHER_VENV", "")
needs_other = pytest.mark.skipif(not OTHER, reason="DISTBP_TEST_OTHER_VENV is not set")


@needs_other
@pytest.mark.parametrize("direction", ["this launcher", "the other launcher"])
@pytest.mark.parametrize("verb", ["train", "evaluate"] if FULL else ["train"])
def test_the_launcher_of_another_mpi_is_refused(tmp_path, data, run, direction, verb):
    words = {
        "train": ["-m", "distbp", "train", data["digits"], "--out", "new", "--epochs", 1],
        "evaluate": ["-m", "distbp", "evaluate", run, data["digits"]],
    }[verb]
    other = Path(OTHER, "bin")
    own_python = command_of([])[0]
    launcher, python = (
        (mpiexec(), other / "python")
        if direction == "this launcher"
        else (mpiexec(other), own_python)
    )
    # mpi4py may warn about it too.
    ended = Job([launcher, "-n", 3, python, *words], tmp_path, {"PYTHONWARNINGS": ""}).wait()
    message = distbp_messages(ended.err)
    assert ended.status == 1, str(ended)
    assert message.count("distbp: ") == 1, str(ended)
    assert "3 ranks were started" in message, str(ended)
    assert "mpirun" in message, str(ended)
    assert "Traceback" not in ended.err, str(ended)
    assert ended.out == "", str(ended)
    assert not (tmp_path / "new").exists()


@needs_other
@pytest.mark.parametrize(
    "direction", ["this launcher", "the other launcher"] if FULL else ["this launcher"]
)
def test_doctor_finds_the_launcher_of_another_mpi(tmp_path, direction):
    """One table, and a problem in it, instead of an error."""
    other = Path(OTHER, "bin")
    launcher, python = (
        (mpiexec(), other / "python")
        if direction == "this launcher"
        else (mpiexec(other), command_of([])[0])
    )
    words = [launcher, "-n", 2, python, "-m", "distbp", "doctor"]
    ended = Job(words, tmp_path, {"PYTHONWARNINGS": ""}).wait()
    assert ended.status == 1, str(ended)
    assert ended.out.count(" problem ") == 1, str(ended)
    assert "2 ranks did not connect: 2 ranks were started, but each" in ended.out, str(ended)


@needs_other
def test_ranks_option_does_not_use_the_launcher_of_another_mpi(tmp_path, data):
    """Even if the other MPI comes first on the PATH."""
    path = f"{OTHER}/bin:{os.environ['PATH']}"
    words = ("train", data["digits"], "--out", "run", "--epochs", 1, "--ranks", 2)
    ended = distbp(*words, folder=tmp_path, environment={"PATH": path})
    assert "2 ranks" in ended.out


@pytest.mark.parametrize(("requested", "n"), [(3, 2), (1, 2)])
def test_a_wrong_number_of_ranks_is_refused(tmp_path, data, requested, n):
    """The number that --ranks requested is compared with the size of the world."""
    words = ["train", data["digits"], "--out", "new", "--epochs", 1]
    ended = Job(command_of(words, n=n), tmp_path, {"DISTBP_RANKS": str(requested)}).wait()
    message = distbp_messages(ended.err)
    assert ended.status == 1, str(ended)
    assert message.count("distbp: ") == 1, str(ended)
    assert str(requested) in message, str(ended)
    assert str(n) in message, str(ended)
    assert not (tmp_path / "new").exists()


def test_a_limit_that_is_no_number_is_refused(tmp_path, data):
    """Of the time that the ranks may take to connect: they need it to report the error, too."""
    words = ["train", data["digits"], "--out", "new", "--epochs", 1]
    ended = Job(command_of(words, n=2), tmp_path, {"DISTBP_START_LIMIT": "5m"}).wait()
    assert ended.status == 2, str(ended)
    assert distbp_messages(ended.err) == (
        "distbp: DISTBP_START_LIMIT=5m: expected a number of seconds, at least 1."
    )
    assert "Traceback" not in ended.err, str(ended)


def test_without_a_launcher_there_is_one_rank(tmp_path, data):
    """Whatever MPI is installed."""
    ended = distbp("train", data["digits"], "--out", "run", "--epochs", 1, folder=tmp_path)
    assert "1 rank on 1 node" in ended.out
