"""Processes are found by their mark, and ended; memory that nobody uses is removed."""

import mmap
import os
import signal
import subprocess
import sys
import time

import pytest

from distbp.errors import LaunchError
from distbp.launch import processes

MARK = f"MARK={os.getpid()}"
SLEEPER = "import time; print('here', flush=True); time.sleep(1000)"
# A child in a session of its own, which is what launchers make.
PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    "start_new_session=True).wait()"
)


def started(*command: str, mark: str = MARK) -> subprocess.Popen:
    """Return a Python that has said that it is here."""
    name, _, value = mark.partition("=")
    child = subprocess.Popen(
        [sys.executable, "-c", *command],
        env=os.environ | {name: value},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    return child


def test_what_is_marked_is_found_and_ended():
    """Also what has left the session, and what is stopped; and nothing that has another mark."""
    other = started(SLEEPER, mark=f"{MARK}2")
    with other, started(PARENT, SLEEPER) as child:
        found = processes.find_job_processes(MARK)
        assert child.pid in found
        assert len(found) == 2
        os.kill(max(found), signal.SIGSTOP)
        processes.kill_job_processes(MARK)
        assert processes.find_job_processes(MARK) == []
        assert child.wait() != 0
        assert processes.is_running(other.pid)
        other.kill()


def test_what_cannot_be_ended_is_an_error(monkeypatch):
    """A process that the kernel holds: said, instead of waited for."""
    monkeypatch.setattr(processes, "KILL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(processes, "send", lambda pids, number: None)
    with started(SLEEPER) as child:
        with pytest.raises(LaunchError, match=f"{child.pid} .*cannot be ended"):
            processes.kill_job_processes(MARK)
        child.kill()


def test_an_ended_process_does_not_live_on_because_nobody_waits_for_it():
    with started(SLEEPER) as child:
        assert processes.is_running(child.pid)
        child.kill()
        until = time.monotonic() + 5
        while processes.is_running(child.pid):
            assert time.monotonic() < until
    assert not processes.is_running(child.pid)


def test_what_a_process_catches_and_runs():
    with started(SLEEPER) as child:
        assert processes.handles_signal(child.pid, signal.SIGINT)  # Python's own
        assert not processes.handles_signal(child.pid, signal.SIGUSR1)
        assert processes.runs(child.pid, sys.executable)
        assert not processes.runs(child.pid, "/bin/sh")
        child.kill()
    assert not processes.handles_signal(child.pid, signal.SIGINT)
    assert not processes.runs(child.pid, sys.executable)


def test_a_child_ends_with_its_parent():
    """However the parent dies."""
    code = (
        "import subprocess, sys\n"
        "from distbp.parallel.environment import signal_on_parent_death as p\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]], preexec_fn=p(9)).wait()"
    )
    with started(code, SLEEPER) as parent:
        child = next(pid for pid in processes.find_job_processes(MARK) if pid != parent.pid)
        parent.kill()
        until = time.monotonic() + 5
        while processes.is_running(child):
            assert time.monotonic() < until


def test_only_memory_that_nobody_uses_is_removed(tmp_path, monkeypatch):
    """Not what is mapped, older, of a living process, or no segment at all."""
    monkeypatch.setattr(processes, "MEMORY", tmp_path)
    used, old, unused = (tmp_path / f"mpich_shm_{name}" for name in ("used", "old", "unused"))
    mine, dead = tmp_path / f"distbp-{os.getpid()}-a", tmp_path / f"distbp-{2**22 + 1}-b"
    for path in (used, old, unused, mine, dead, tmp_path / "other"):
        path.write_bytes(bytes(4096))
    os.utime(old, (0, 0))
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        processes.remove_segments(time.time() - 60)
    assert set(tmp_path.iterdir()) == {used, old, mine, tmp_path / "other"}
