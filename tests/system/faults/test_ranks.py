"""The helper of these tests itself: nothing that hangs, or stays behind, goes unnoticed."""

import os
import signal
import sys
import time

import pytest
import ranks
from ranks import FULL, Job, command_of, distbp, fault, mpiexec

TRAIN = ("--batch-size", 50, "--epochs", 5, "--shards", 4)


@pytest.mark.parametrize("kind", ["stop", "sleep"] if FULL else ["stop"])
def test_a_deadlock_is_a_failure_with_stacks(tmp_path, data, kind):
    """One rank stands still in its third step: reported by limit + 3 s, with every stack."""
    limit = 6.0
    command = command_of(["train", data["digits"], "--out", "run", *TRAIN], n=3)
    job = Job(command, tmp_path, fault(tmp_path, 1, "combine", kind, 3), limit)
    with pytest.raises(pytest.fail.Exception) as caught:
        job.wait()
    seconds = time.monotonic() - job.began
    report = str(caught.value)
    assert f"has not ended after {limit:g} s" in report
    for rank in range(3):
        assert f"rank-{rank}-" in report, report
    assert "faulty.py" in report, "where it stands still is not said"
    assert report.count("reduction.py") >= 2, "where the others wait is not said"
    assert "epoch" in report or "parameters" in report, "what was written is missing"
    assert limit <= seconds < limit + 3
    assert job.processes() == []


def test_a_process_left_behind_is_a_failure(tmp_path, monkeypatch):
    """A command that ends, and leaves a child in a session of its own."""
    monkeypatch.setattr(ranks, "PATIENCE", 0.5)
    code = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    job = Job([sys.executable, "-W", "ignore", "-c", code], tmp_path)
    with pytest.raises(pytest.fail.Exception, match="has left 1 processes: sleep"):
        job.wait()
    assert job.processes() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_launcher_takes_its_ranks_along(tmp_path, data, number):
    """Ranks that lose their launcher do not stay behind: the next run needs the cores."""
    words = ["train", data["digits"], "--out", "run", *TRAIN, "--epochs", 100_000]
    job = Job(command_of(words, n=2), tmp_path)
    wait_for(tmp_path / "run" / "last.h5")
    os.kill(job.process.pid, number)
    assert job.wait().status != 0


def wait_for(path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not appear"
        time.sleep(0.02)


def test_the_launcher_is_this_pythons_own(tmp_path):
    """Three ranks find each other: otherwise every test here would test nothing."""
    code = "from distbp.parallel.topology import connect; print(connect().world.allgather(1))"
    ended = Job([mpiexec(), "-n", "3", sys.executable, "-c", code], tmp_path).wait()
    assert ended.out.count("[1, 1, 1]") == 3, ended


def test_a_clean_end_is_no_failure(tmp_path):
    assert distbp("--version", folder=tmp_path).out.startswith("distbp ")
