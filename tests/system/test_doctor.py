"""`distbp doctor` on this machine: alone, on ranks, and over hosts that differ.

The speed of the machine and its load are not judged here: it may be busy with other tests.
"""

import os
import sys
from pathlib import Path

import pytest
from doctor_output import examined, problems, verdict
from hosts import Hosts, can_make_hosts, environment
from ranks import ROOT, Job, base_environment, distbp, is_open_mpi

CORES = len(os.sched_getaffinity(0))


def test_alone(tmp_path):
    """Everything that does not depend on the load is known, and two ranks are tried."""
    found = examined(distbp("doctor", "--json", "--out", "a", tmp_path, folder=tmp_path))
    assert problems(found) == []
    for check in ("python", "libraries", "compiler", "mpi library", "ranks", "hdf5 in a", "blas"):
        assert verdict(found, check) == "ok", found["by name"][check]
    assert verdict(found, f"locks in {tmp_path}") == "ok"
    assert (found["schema"], found["ranks"], found["facts"]["world"]["ranks"]) == (1, 1, 2)
    assert ("Open MPI" in found["by name"]["mpi library"]["found"]) == is_open_mpi()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", ["--ranks", "mpiexec"])
def test_on_ranks(tmp_path, start):
    """One table for all of them; more than there are cores are a warning."""
    n = CORES + 1
    words = ["doctor", "--json", *(["--ranks", n] if start == "--ranks" else [])]
    found = examined(distbp(*words, folder=tmp_path, n=n if start == "mpiexec" else None))
    assert problems(found) == []
    assert (found["ranks"], found["facts"]["world"]["ranks"]) == (n, n)
    assert [one["rank"] for one in found["facts"]["ranks"]] == list(range(n))
    assert all("speed" in one["areas"] for one in found["facts"]["ranks"])
    assert verdict(found, "cores") == "warning"
    assert f"{n} ranks; " in found["by name"]["cores"]["found"]
    assert verdict(found, "differences") == "ok"


@pytest.mark.skipif(not can_make_hosts(), reason="needs root and namespaces")
def test_hosts_that_differ(tmp_path):
    """One table for two hosts; the one that is different is named."""
    variables = environment(
        PYTHONPATH=str(ROOT), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"
    )
    program = [*variables, sys.executable, "-m", "distbp", "doctor", "--json", "--out", "/dev/shm"]
    with Hosts(2, tmp_path / "hosts") as hosts:
        hosts._run("n2", "mount -o remount,size=90m /dev/shm")
        command = hosts.mpirun(Path(sys.executable).parent, [1, 2], program)
        ended = Job(command, tmp_path, base_environment()).wait()
    found = examined(ended)
    assert (found["ranks"], found["hosts"]) == (3, ["n1", "n2"])
    assert "; n2: " in found["by name"]["/dev/shm"]["found"]
    assert verdict(found, "differences") == "warning"
    assert "size of /dev/shm 94.4 MB on n2, " in found["by name"]["differences"]["found"]
    assert verdict(found, "clocks") == "ok"
    assert [one["check"] for one in problems(found)] == ["shared folders"]
    assert "not seen by n2 in /dev/shm" in found["by name"]["shared folders"]["found"]
