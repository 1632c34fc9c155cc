"""Finding and killing the processes of a launch by their tag, and removing unused segments."""

import mmap
import os
import signal
import subprocess
import sys
import time

import pytest

from distbp.errors import LaunchError
from distbp.launch import processes

TAG = f"DISTBP_TEST_TAG={os.getpid()}"
SLEEPER = "import time; print('ready', flush=True); time.sleep(1000)"
# Starts a child in a new session, as MPI launchers do.
PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    "start_new_session=True).wait()"
)


def start_python(*arguments: str, tag: str = TAG) -> subprocess.Popen:
    """Start Python with `-c` and the arguments; return it once it has printed "ready"."""
    name, _, value = tag.partition("=")
    child = subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env=os.environ | {name: value},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_processes_with_the_tag_are_killed():
    """Also in other sessions and when stopped by SIGSTOP, but none with another tag."""
    other = start_python(SLEEPER, tag=f"{TAG}2")
    with other, start_python(PARENT, SLEEPER) as child:
        found = processes.find_job_processes(TAG)
        assert child.pid in found
        assert len(found) == 2
        os.kill(max(found), signal.SIGSTOP)
        processes.kill_job_processes(TAG)
        assert processes.find_job_processes(TAG) == []
        assert child.wait() != 0
        assert processes._is_running(other.pid)
        other.kill()


def test_a_process_that_does_not_exit_is_an_error(monkeypatch):
    """A process that is blocked in the kernel is reported, not waited for without limit."""
    monkeypatch.setattr(processes, "_KILL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(processes, "send_signal", lambda pids, number: None)
    with start_python(SLEEPER) as child:
        with pytest.raises(LaunchError, match=f"{child.pid} .*do not exit after SIGKILL"):
            processes.kill_job_processes(TAG)
        child.kill()


def test_a_zombie_is_not_running():
    with start_python(SLEEPER) as child:
        assert processes._is_running(child.pid)
        child.kill()
        deadline = time.monotonic() + 60
        while processes._is_running(child.pid):
            assert time.monotonic() < deadline
    assert not processes._is_running(child.pid)


def test_the_signal_handlers_and_the_program_of_a_process():
    with start_python(SLEEPER) as child:
        assert processes.handles_signal(child.pid, signal.SIGINT)  # by Python itself
        assert not processes.handles_signal(child.pid, signal.SIGUSR1)
        assert processes.runs_program(child.pid, sys.executable)
        assert not processes.runs_program(child.pid, "/bin/sh")
        child.kill()
    assert not processes.handles_signal(child.pid, signal.SIGINT)
    assert not processes.runs_program(child.pid, sys.executable)


def test_a_child_dies_with_its_parent():
    """Also when the parent is killed by SIGKILL."""
    code = (
        "import subprocess, sys\n"
        "from distbp.parallel.environment import signal_on_parent_death as p\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]], preexec_fn=p(9)).wait()"
    )
    with start_python(code, SLEEPER) as parent:
        child = next(pid for pid in processes.find_job_processes(TAG) if pid != parent.pid)
        parent.kill()
        deadline = time.monotonic() + 60
        while processes._is_running(child):
            assert time.monotonic() < deadline


def test_only_unused_segments_are_removed(tmp_path, monkeypatch):
    """Mapped or older segments, those of a running process, and other files are kept."""
    monkeypatch.setattr(processes, "_SHM_FOLDER", tmp_path)
    used, old, unused = (tmp_path / f"mpich_shm_{name}" for name in ("used", "old", "unused"))
    running, dead = tmp_path / f"distbp-{os.getpid()}-a", tmp_path / f"distbp-{2**22 + 1}-b"
    foreign = {tmp_path / name for name in ("other", "distbp-cache", "distbp-", "distbp--1-a")}
    for path in (used, old, unused, running, dead, *foreign):
        path.write_bytes(bytes(4096))
    os.utime(old, (0, 0))
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        processes.remove_segments(time.time() - 60)
    assert set(tmp_path.iterdir()) == {used, old, running, *foreign}
