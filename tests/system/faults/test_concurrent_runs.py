"""Two runs in one directory, and ranks that were started with different options, are refused."""

import json
import os
import signal
import time

import pytest
from ranks import Job, command_of, distbp, distbp_messages, mpiexec

WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 100_000, "--quiet")


def wait_for(path, job):
    while not path.exists():
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.02)


def test_a_second_run_in_a_directory_is_refused(tmp_path, data):
    """At once and with one message, while the first continues; afterwards the lock is free."""
    words = ["train", data["digits"], "--out", "run", *WORDS]
    first = Job(command_of(words, n=2), tmp_path)
    wait_for(tmp_path / "run" / "last.h5", first)
    second = distbp("train", "--resume", "run", folder=tmp_path, n=2, status=1)
    message = distbp_messages(second.err)
    assert message.count("is in use by process") == 1, str(second)
    assert first.process.poll() is None
    os.kill(first.process.pid, signal.SIGUSR1)
    assert first.wait().status == 75
    distbp("train", "--resume", "run", "--time-limit", "0s", folder=tmp_path, status=75)


@pytest.mark.parametrize("options", [[], ["--profile", "trace.json"]], ids=["", "profile"])
def test_a_run_whose_lock_was_taken_over_ends(tmp_path, data, options):
    """As on a host that was disconnected: it does not write any more, and reports why."""
    words = ["train", data["digits"], "--out", "run", *WORDS, "--checkpoint-every", "3steps"]
    words += options
    job = Job(command_of(words, n=2), tmp_path)
    wait_for(tmp_path / "run" / "last.h5", job)
    lock = tmp_path / "run" / "lock"
    other = json.loads(lock.read_text()) | {"token": "another token", "host": "elsewhere"}
    lock.write_text(json.dumps(other))
    ended = job.wait()
    assert ended.status != 0, str(ended)
    assert "was taken over by process" in ended.err, str(ended)
    assert "Traceback" not in ended.err, str(ended)
    assert json.loads(lock.read_text()) == other


@pytest.mark.parametrize("what", ["--seed", "the data set"])
def test_ranks_with_different_arguments_are_refused(tmp_path, data, what):
    """Another option or another data set on one rank is reported, and no run is created."""
    words = command_of(["train", data["digits"], "--out", "run", *WORDS])
    others = command_of(["train", data["digits"], "--out", "run", *WORDS, "--seed", 3])
    if what != "--seed":
        others = command_of(["train", data["numbers"], "--out", "run", *WORDS])
    ended = Job([mpiexec(), "-n", "2", *words, ":", "-n", "1", *others], tmp_path).wait()
    assert ended.status != 0, str(ended)
    assert f"rank 2 was started with {what}" in ended.err or what != "--seed", str(ended)
    assert "Traceback" not in ended.err, str(ended)
    assert not (tmp_path / "run").exists()
