"""Ranks are killed, stopped or asked to stop while compiled code makes the steps."""

import os
import random
import signal
import time

import pytest
from ranks import Job, command_of, distbp, fault_tolerant_launcher, is_open_mpi, metrics

N = 3
WORDS = (
    "--engine", "compiled", "--batch-size", 50, "--shards", 6, "--epochs", 1500, "--optimizer",
    "adam", "--dropout", 0.2, "--checkpoint-every", "100epochs", "--stall-limit", "2s",
)  # fmt: skip


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Return the directory of a run of one rank, without faults."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def start(tmp_path, data) -> Job:
    """Start a run, and return it when it is well under way."""
    command = command_of(["train", data["digits"], "--out", "run", *WORDS])
    job = Job([*fault_tolerant_launcher(N), *command], tmp_path)
    while not list(tmp_path.glob("run/checkpoints/*.h5")):
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.005)
    time.sleep(random.Random(0).uniform(0, 0.2))  # noqa: S311 (no secret)
    return job


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_dies_or_hangs(tmp_path, data, reference, number):
    """The others find out while they wait in compiled code, and carry on or end."""
    job = start(tmp_path, data)
    os.kill(sorted(job.ranks())[1], number)
    ended = job.wait()
    assert ("made no progress for" in ended.err) == (number == signal.SIGSTOP), str(ended)
    if is_open_mpi():
        assert ended.status == 0, str(ended)
        assert "died. Training continues" in ended.err, str(ended)
    else:
        assert ended.status != 0, str(ended)
        distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert metrics(tmp_path / "run") == metrics(reference)


def test_a_run_is_stopped_and_resumed(tmp_path, data, reference):
    """SIGUSR1 to one rank stops all of them after the same step, with a checkpoint."""
    job = start(tmp_path, data)
    os.kill(sorted(job.ranks())[1], signal.SIGUSR1)
    ended = job.wait()
    assert "SIGUSR1" in ended.err, str(ended)
    distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert metrics(tmp_path / "run") == metrics(reference)
