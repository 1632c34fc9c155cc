"""How ranks are started by the launcher of each MPI library."""

import pytest

from distbp.launch import mpiexec
from distbp.launch.mpiexec import has_ulfm, make_launcher


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
