"""`distbp doctor` finds real faults: a full /dev/shm, a quota, libraries that cannot be loaded."""

import os

import pytest
from control_groups import control_group, inside
from doctor_output import examined, problems, verdict
from hosts import can_make_hosts
from ranks import FULL, Job, command_of, distbp

CORES = len(os.sched_getaffinity(0))


def test_the_table(tmp_path):
    """A line for each check, and how many warnings there are."""
    ended = distbp("doctor", "--ranks", 1, folder=tmp_path, environment={"OMP_NUM_THREADS": "8"})
    lines = ended.out.splitlines()
    assert f"{len(lines) - 2} checks: " in lines[-1]
    (line,) = [line for line in lines if line.startswith("blas threads")]
    assert " warning  OMP_NUM_THREADS=8: NumPy starts these threads" in line
    assert line.endswith("unset OMP_NUM_THREADS; use --threads.")


def test_a_library_and_a_folder_that_do_not_work(tmp_path):
    """No MPI can be loaded, and nothing can be written below /proc."""
    words = ["doctor", "--json", "--out", "/proc"]
    variables = {"MPI4PY_LIBMPI": "/nonexistent/libmpi.so"}
    found = examined(distbp(*words, folder=tmp_path, environment=variables, status=1))
    assert [one["check"] for one in problems(found)] == ["folder /proc"]
    assert verdict(found, "mpi library") == "warning"
    assert "runs on one rank only" in found["by name"]["mpi library"]["found"]


@pytest.mark.skipif(not can_make_hosts(), reason="needs root and namespaces")
def test_a_full_dev_shm_few_files_and_slow_kernels(tmp_path):
    """Of limits that containers have, and a variable that somebody has set."""
    mount = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && ulimit -n 100 && exec "$0" "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount]
    command += command_of(["doctor", "--json", "--ranks", 1])
    ended = Job(command, tmp_path, {"OPENBLAS_CORETYPE": "Nehalem"}).wait()
    found = examined(ended)
    assert [one["check"] for one in problems(found)] == ["/dev/shm"]
    assert found["by name"]["limits"]["found"].startswith("100 open files")
    assert verdict(found, "limits") == "warning"
    assert verdict(found, "kernels") == "warning"
    assert found["by name"]["kernels"]["remedy"] == "unset OPENBLAS_CORETYPE"


if FULL:  # a control group can only be made by root, where it is not read-only

    def test_a_quota(tmp_path):
        """Half of the time of two cores is one core."""
        command = command_of(["doctor", "--json", "--ranks", 2])
        with control_group("cpu", 100_000) as group:
            found = examined(Job(inside(group, command), tmp_path).wait())
        assert verdict(found, "cpu quota") == "warning"
        expected = f"the time of 1 core, of {CORES} that can be used"
        assert expected in found["by name"]["cpu quota"]["found"]
        assert "at most 1 rank here" in found["by name"]["cpu quota"]["remedy"]
