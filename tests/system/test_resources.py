"""Threads and memory that ranks use, and the permissions that they need."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import samples
from control_groups import control_group, inside
from hosts import can_make_hosts
from ranks import FULL, Job, command_of, distbp

from distbp.storage.scaling import Scaling

TWO_THREADS = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
CORES = len(os.sched_getaffinity(0))


def measured(folder: Path, words: list, n: int | None = None, **environment: str) -> list[dict]:
    """Run `train` and return the measurements of each rank; see inside/measure.py."""
    results = folder / "measured"
    results.mkdir(exist_ok=True)
    words = ["train", *words, "--quiet"]
    distbp(
        *words, folder=folder, n=n, environment={"DISTBP_TEST_MEASURE": str(results)} | environment
    )
    found = [json.loads(path.read_text()) for path in sorted(results.iterdir())]
    shutil.rmtree(results)
    return found


@pytest.mark.parametrize("start", ["alone", "--ranks", "mpiexec"])
@pytest.mark.parametrize("variables", [{}, TWO_THREADS] if FULL else [TWO_THREADS])
def test_a_rank_has_one_blas_thread(tmp_path, data, start, variables):
    """However it is started and whatever the environment says: only --threads sets it."""
    words = [data["digits"], "--out", "run", "--epochs", 1]
    words += ["--ranks", 2] if start == "--ranks" else []
    found = measured(tmp_path, words, 2 if start == "mpiexec" else None, **variables)
    assert [rank["threads"] for rank in found] == [[1]] * (1 if start == "alone" else 2)


@pytest.mark.parametrize("start", ["alone", "mpiexec"])
def test_threads_option_sets_the_number_of_blas_threads(tmp_path, data, start):
    words = [data["digits"], "--out", "run", "--epochs", 1, "--threads", 2]
    found = measured(tmp_path, words, 2 if start == "mpiexec" else None)
    assert [rank["threads"] for rank in found] == [[2]] * len(found)


def test_more_ranks_than_cores_is_a_warning(tmp_path, data):
    """It makes a run slower: one warning, and the run continues."""
    words = ("train", data["digits"], "--out", "run", "--epochs", 1, "--shards", CORES + 1)
    ended = distbp(*words, folder=tmp_path, n=CORES + 1)
    warnings = ended.err.splitlines()
    assert len([line for line in warnings if "share" in line and "core" in line]) == 1, str(ended)
    assert all(line.startswith("distbp: warning: ") for line in warnings), str(ended)


if FULL:  # a control group can only be made by root, where it is not read-only

    def test_a_quota_counts_as_cores(tmp_path, data):
        """As of a container: half of the time of two cores is one core."""
        words = ["train", data["digits"], "--out", "run", "--epochs", 1]
        with control_group("cpu", 100_000) as group:
            ended = Job(inside(group, command_of(words, 2)), tmp_path).wait()
        assert ended.status == 0, str(ended)
        assert f"share 1 core (of {CORES}, by the CPU quota" in ended.err, str(ended)

    def test_a_plan_counts_the_quota(tmp_path):
        """As many ranks per node as cores whose time this container has."""
        words = ["plan", "--sizes", "20,3", "--up-to", 2]
        with control_group("cpu", 100_000) as group:
            ended = Job(inside(group, command_of(words)), tmp_path).wait()
        assert "up to 1 ranks per node" in ended.out, str(ended)


def test_more_ranks_than_shards_is_a_warning(tmp_path, data):
    """It recommends a number of shards that would use all ranks."""
    words = ("train", data["digits"], "--out", "run", "--epochs", 1, "--shards", 2)
    ended = distbp(*words, folder=tmp_path, n=3)
    (warning,) = [line for line in ended.err.splitlines() if "nothing to compute" in line]
    assert "1 of 3 ranks" in warning
    assert "--shards 3" in warning


# Memory

ROWS, WIDTH = 200_000, 1000  # 200 MB of bytes


@pytest.fixture(scope="module", params=["contiguous", "compressed"])
def large(request, tmp_path_factory) -> Path:
    """Return a data set of 200 MB, contiguous or compressed, with few different values."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    small = (np.zeros((2, WIDTH), np.uint8), np.arange(2))
    samples.write(path, {"train": small}, Scaling(np.zeros(1), np.array([1 / 255])), 2)
    storage = (
        {"chunks": (1000, WIDTH), "compression": "gzip"} if request.param == "compressed" else {}
    )
    with h5py.File(path, "r+") as file:
        samples.forget_arrays(file)
        del file["train/x"], file["train/y"]
        x = file.create_dataset("train/x", (ROWS, WIDTH), np.uint8, **storage)
        for start in range(0, ROWS, 20_000):
            x[start : start + 20_000] = start // 20_000
        file["train/y"] = np.arange(ROWS) % 2
    yield path
    path.unlink()


def test_ranks_share_the_data_set(tmp_path, large):
    """Two ranks read all of 200 MB, of which no rank has a private copy, or half of one."""
    words = [large, "--out", "run", "--epochs", 1, "--hidden", 8, "--batch-size", 20_000]
    found = measured(tmp_path, [*words, "--shards", 8], n=2)
    private = [rank["memory"]["Private_Clean"] + rank["memory"]["Private_Dirty"] for rank in found]
    assert len(private) == 2
    assert max(private) < 120e6, private
    total = sum(rank["memory"]["Pss"] for rank in found)
    assert total < 200e6 + 2 * 120e6, total


@pytest.mark.skipif(not can_make_hosts(), reason="needs root and namespaces")
@pytest.mark.parametrize(
    ("environment", "warning"),
    [
        ({}, "not where it is fastest (/dev/shm: No space left on device)"),
        ({"TMPDIR": "/dev/shm"}, "cannot share memory (/dev/shm: No space left on device"),
    ],
    ids=["another folder", "messages"],
)
def test_a_small_dev_shm_does_not_change_the_digest(tmp_path, data, environment, warning):
    """With 64 MB, as in containers: another folder or messages are used, with one warning."""
    words = ["train", data["digits"], "--epochs", 1, "--hidden", 120_000, "--quiet"]
    expected = distbp(*words, "--out", "reference", folder=tmp_path)
    small = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    small += ['mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$0" "$@"']
    command = [*small, *command_of([*words, "--out", "run"], n=2)]
    ended = Job(command, tmp_path, environment).wait()
    assert ended.status == 0, str(ended)
    assert ended.err.count("distbp: warning") == 1, str(ended)
    assert warning in ended.err, str(ended)
    digests = {distbp("digest", name, folder=tmp_path).out for name in ("reference", "run")}
    assert len(digests) == 1, expected


# Permissions


def as_nobody() -> list[str]:
    """Return the prefix of a command that runs it as the user nobody.

    If Python is in root's home, nobody is granted permission to read all files, but not to
    write them.
    """
    unprivileged = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    reading += ["--bounding-set", "-all,+dac_read_search", "--securebits", "+no_setuid_fixup"]
    for start in (unprivileged, [*unprivileged, *reading]):
        command = [*start, "sh", "-c", 'exec "$0" -c ""', sys.executable]
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return start
    pytest.skip("the user nobody cannot run this Python")


def test_an_ordinary_user_can_train(tmp_path, data):
    """As the user nobody, with --ranks 2, no home folder and a writable working directory."""
    if os.geteuid() != 0:
        folder, start = tmp_path, []
    else:
        folder, start = Path("/tmp") / f"distbp-nobody-{os.getpid()}", as_nobody()
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    try:
        copy = folder / "digits.h5"
        shutil.copyfile(data["digits"], copy)
        copy.chmod(0o644)
        words = ["train", "digits.h5", "--out", "run", "--epochs", 1, "--ranks", 2]
        results = folder / "measured"
        results.mkdir()
        results.chmod(0o777)
        environment = {"DISTBP_TEST_MEASURE": str(results), "HOME": "/nonexistent"}
        ended = Job([*start, *command_of(words)], folder, environment).wait()
        assert ended.status == 0, str(ended)
        found = [json.loads(path.read_text()) for path in results.iterdir()]
        assert [rank["uid"] for rank in found] == [os.geteuid() or 65534] * 2
    finally:
        if os.geteuid() == 0:
            shutil.rmtree(folder)


def test_root_can_use_the_ranks_option(tmp_path, data):
    """Without the two variables in which Open MPI wants this confirmed."""
    words = ("train", data["digits"], "--out", "run", "--epochs", 1, "--ranks", 3)
    environment = {
        "OMPI_ALLOW_RUN_AS_ROOT": "0",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "0",
        "PRTE_MCA_rmaps_default_mapping_policy": "",
    }
    ended = distbp(*words, folder=tmp_path, environment=environment)
    assert "3 ranks" in ended.out
