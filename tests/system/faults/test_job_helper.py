"""The helper of these tests: hangs and leftover processes do not go unnoticed."""

import os
import re
import signal
import sys
import time

import pytest
import ranks
from ranks import FULL, Job, command_of, distbp, fault, mpiexec, orphaned_segments

TRAIN = ("--batch-size", 50, "--epochs", 5, "--shards", 4)


@pytest.mark.parametrize("kind", ["stop", "sleep"] if FULL else ["stop"])
def test_a_deadlock_is_a_failure_with_stacks(tmp_path, data, kind):
    """One rank hangs in its third step: reported within limit + 3 s, with all stacks."""
    command = command_of(["train", data["digits"], "--out", "run", *TRAIN], n=3)
    job = Job(command, tmp_path, fault(tmp_path, 1, "combine", kind, 3))
    wait_for(tmp_path / "fault")
    job.limit = limit = time.monotonic() - job.began + 1.0
    with pytest.raises(pytest.fail.Exception) as caught:
        job.wait()
    seconds = time.monotonic() - job.began
    report = str(caught.value)
    assert f"did not end within {limit:g} s" in report
    for rank in range(3):
        assert f"rank-{rank}-" in report, report
    assert "inject_fault.py" in report, f"no stack of the rank that hangs: {report}"
    assert report.count("in reduce_and_update") >= 2, f"no stacks of those that wait: {report}"
    assert "epoch" in report or "parameters" in report, "the output is missing"
    assert limit <= seconds < limit + 3
    assert job.processes() == []


def test_a_process_left_behind_is_a_failure(tmp_path, monkeypatch):
    """A command that ends but leaves a child in another session behind."""
    monkeypatch.setattr(ranks, "EXIT_TIMEOUT_S", 0.5)
    code = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    job = Job([sys.executable, "-W", "ignore", "-c", code], tmp_path)
    with pytest.raises(pytest.fail.Exception, match="left 1 processes behind: sleep"):
        job.wait()
    assert job.processes() == []


def test_a_file_left_behind_is_a_failure_once(tmp_path, monkeypatch):
    """Shared memory that has the name of a process that has exited.

    Not in /dev/shm, where the jobs of tests that run at the same time would find it first.
    """
    monkeypatch.setattr(ranks, "SHARED_MEMORY", tmp_path)
    code = "import os; open(f'distbp-{os.getpid()}-left', 'w').close()"
    job = Job([sys.executable, "-c", code], tmp_path)
    left = tmp_path / f"distbp-{job.process.pid}-left"
    with pytest.raises(pytest.fail.Exception, match=f"left {re.escape(str(left))} behind"):
        job.wait()
    assert orphaned_segments() == []
    assert distbp("--version", folder=tmp_path).status == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_their_launcher(tmp_path, data, number):
    """Ranks whose launcher is killed do not keep running: the next run needs the cores."""
    words = ["train", data["digits"], "--out", "run", *TRAIN, "--epochs", 100_000]
    job = Job(command_of(words, n=2), tmp_path)
    wait_for(tmp_path / "run" / "last.h5")
    os.kill(job.process.pid, number)
    assert job.wait().status != 0


def wait_for(path) -> None:
    deadline = time.monotonic() + ranks.LIMIT
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not created"
        time.sleep(0.02)


def test_the_launcher_belongs_to_this_python(tmp_path):
    """Three ranks are in one world: otherwise these tests would test nothing."""
    code = "from distbp.parallel.topology import connect; print(connect().world.allgather(1))"
    ended = Job([mpiexec(), "-n", "3", sys.executable, "-c", code], tmp_path).wait()
    assert ended.out.count("[1, 1, 1]") == 3, ended


def test_success_is_not_a_failure(tmp_path):
    assert distbp("--version", folder=tmp_path).out.startswith("distbp ")
