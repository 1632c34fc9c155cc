"""How ranks are started by the launcher of each MPI library."""

import signal

import pytest

from distbp.launch import mpiexec
from distbp.launch.mpiexec import Launcher, MpiLaunch, has_ulfm, make_launcher


@pytest.mark.parametrize(
    ("library", "can"),
    [
        ("Open MPI 5.0.8", True),
        ("Open MPI 10.1.0", True),
        ("Open MPI 4.1.4", False),  # its launcher knows no --with-ft
        ("Open MPI main", False),
        ("MPICH 4.3.2", False),
        ("Intel(R) MPI Library", False),
        ("", False),
    ],
)
def test_which_libraries_survive_the_loss_of_a_rank(monkeypatch, library, can):
    """Only their launchers are told to."""
    assert has_ulfm(library) == can
    if library:
        monkeypatch.setattr(mpiexec.mpi, "library_version", lambda: library)
        monkeypatch.setattr(mpiexec, "_find_launcher", lambda library: "mpiexec")
        assert ("--with-ft" in make_launcher(2, fault_tolerant=True).command) == can
        assert "--with-ft" not in make_launcher(2).command


def test_ranks_that_have_started_stay_so(monkeypatch):
    """A cleaner of temporary files may remove what says so during a long run."""
    asleep = Launcher(["sh", "-c", "sleep 30"], {}, signal.SIGTERM)
    monkeypatch.setattr(mpiexec, "make_launcher", lambda ranks, fault_tolerant: asleep)
    with MpiLaunch(1, []) as launch:
        assert not launch.has_started
        (launch.folder / "started").touch()
        assert launch.has_started
        (launch.folder / "started").unlink()
        assert launch.has_started
