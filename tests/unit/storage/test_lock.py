"""One run per directory, also when a batch system has requeued it on another host."""

import errno
import json
import os

import pytest

from distbp.errors import CheckpointError, FencedError
from distbp.storage.lock import RunLock


def test_the_second_run_is_refused(tmp_path):
    """The message names the holder; when it releases the lock, the next one acquires it."""
    first, second = RunLock(tmp_path, {}), RunLock(tmp_path, {})
    first.acquire()
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on .*--out"):
        second.acquire()
    first.check_not_fenced()
    first.release()
    second.acquire()
    with pytest.raises(FencedError, match="taken over by process"):
        first.check_not_fenced()
    second.check_not_fenced()
    second.release()


def test_a_lock_that_could_not_be_written_is_free(tmp_path, monkeypatch):
    """The same process may acquire it once there is room on the disk."""

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(CheckpointError, match="lock cannot be written: No space left"):
            RunLock(tmp_path, {}).acquire()
    lock = RunLock(tmp_path, {})
    lock.acquire()
    (tmp_path / "lock").write_text("")  # as between the acquisition and the writing
    with pytest.raises(CheckpointError, match="is in use by another process"):
        RunLock(tmp_path, {}).acquire()
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "x" * 10_000])
def test_any_content_of_the_lock_file(tmp_path, text):
    """A lock that no process holds is free, whatever is in the file."""
    (tmp_path / "lock").write_text(text)
    lock = RunLock(tmp_path, {})
    lock.acquire()
    lock.check_not_fenced()
    lock.release()
    assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()


def slurm(job, restart):
    return {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": restart}


@pytest.mark.parametrize(
    ("old", "new", "is_taken"),
    [
        (slurm("7", ""), slurm("7", "1"), True),
        (slurm("7", "1"), slurm("7", "2"), True),
        (slurm("7", "2"), slurm("7", "1"), False),
        (slurm("7", "1"), slurm("7", "1"), False),
        (slurm("7", "0"), slurm("8", "1"), False),
        ({}, slurm("7", "1"), False),
        ({}, {}, False),
    ],
)
def test_a_requeued_slurm_job_takes_over(tmp_path, old, new, is_taken):
    """Its first start may still be running on a host that was cut off: that one is fenced."""
    first, second = RunLock(tmp_path, old), RunLock(tmp_path, new)
    first.acquire()
    if is_taken:
        second.acquire()
        second.check_not_fenced()
        with pytest.raises(FencedError):
            first.check_not_fenced()
    else:
        with pytest.raises(CheckpointError):
            second.acquire()
        first.check_not_fenced()
    first.release()
    second.release()


def test_a_directory_without_access(tmp_path):
    """The reason is given, with the path."""
    with pytest.raises(CheckpointError, match=r"lock cannot be written: No such file"):
        RunLock(tmp_path / "missing", {}).acquire()
