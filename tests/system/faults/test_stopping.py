"""Signals and time limits: all ranks stop after the same step, and the run can be resumed."""

import os
import signal
import time

import pytest
from ranks import Job, command_of, distbp, metrics

EPOCHS = 800
WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", EPOCHS, "--quiet")


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Return the directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def test_a_signal_to_the_launcher_saves_and_stops(tmp_path, data, reference):
    """By SIGUSR1, which both launchers forward: one message, status 75, and the same result."""
    words = ["train", data["digits"], "--out", "run", *WORDS]
    job = Job(command_of(words, n=3), tmp_path)
    while not (tmp_path / "run" / "last.h5").exists():
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.01)
    os.kill(job.process.pid, signal.SIGUSR1)
    ended = job.wait()
    assert ended.err.count("stopped by SIGUSR1 in epoch") == 1, str(ended)
    assert ended.status == 75, str(ended)
    before = metrics(tmp_path / "run")
    assert 0 < len(before) < EPOCHS
    distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert metrics(tmp_path / "run") == metrics(reference)
    assert metrics(tmp_path / "run")[: len(before)] == before


def test_a_signal_to_a_single_rank_stops_all(tmp_path, data):
    """And so does a time limit, which is the same on all ranks."""
    words = ["train", data["digits"], "--out", "run", *WORDS]
    job = Job(command_of(words, n=3), tmp_path)
    while not (tmp_path / "run" / "last.h5").exists():
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.01)
    os.kill(job.ranks()[-1], signal.SIGTERM)
    ended = job.wait()
    assert ended.err.count("stopped by SIGTERM in epoch") == 1, str(ended)
    again = distbp(
        "train", "--resume", "run", "--time-limit", "0.2s", folder=tmp_path, n=2, status=75
    )
    assert again.err.count("stopped by its --time-limit in epoch") == 1, str(again)
