"""One run a directory, also when a batch queue has started it again elsewhere."""

import json
import os

import pytest

from distbp.errors import CheckpointError, FencedError
from distbp.storage.lock import RunLock


def test_the_second_is_refused_and_the_first_unharmed(tmp_path):
    """With the process that has it; when that is released, the next one gets it."""
    first, second = RunLock(tmp_path, {}), RunLock(tmp_path, {})
    first.take()
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on .*--out"):
        second.take()
    first.check()
    first.release()
    second.take()
    with pytest.raises(FencedError, match="taken over by process"):
        first.check()
    second.check()
    second.release()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "x" * 10_000])
def test_whatever_the_file_holds(tmp_path, text):
    """It is only asked who has it; a lock that nobody holds is free."""
    (tmp_path / "lock").write_text(text)
    lock = RunLock(tmp_path, {})
    lock.take()
    lock.check()
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
def test_a_job_that_slurm_has_started_again_takes_over(tmp_path, old, new, is_taken):
    """Its first start may still live on a host that was cut off: that one is fenced."""
    first, second = RunLock(tmp_path, old), RunLock(tmp_path, new)
    first.take()
    if is_taken:
        second.take()
        second.check()
        with pytest.raises(FencedError):
            first.check()
    else:
        with pytest.raises(CheckpointError):
            second.take()
        first.check()
    first.release()
    second.release()


def test_no_right_to_write(tmp_path):
    """What hinders is named, with the file."""
    with pytest.raises(CheckpointError, match=r"lock cannot be written: No such file"):
        RunLock(tmp_path / "gone", {}).take()
