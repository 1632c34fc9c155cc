"""Ranks are killed: those that are left carry on, or the run is resumed, to the same result.

Open MPI lets the others go on (`--with-ft ulfm`); under MPICH the run ends, and what it
has saved is where the next one begins. Either way nothing but time is lost.
"""

import os
import random
import signal
import time

import pytest
from ranks import FULL, Job, command_of, distbp, fault, is_open_mpi, metrics

N = 4
WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 30, "--optimizer", "adam", "--dropout", 0.2)
TIMES = 40 if FULL else 4
# What a rank does when it is killed, and for the how manieth time.
MOMENTS = [("backprop", 60), ("update", 40), ("evaluation", 3)]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def survive(tmp_path, data, whole, environment=None, while_running=None, ranks=N) -> str:
    """Train while ranks die; return what was said about it. The end is that of `whole`."""
    words = ["train", data["digits"], "--out", "run", *WORDS]
    launcher, *rest = command_of(words, n=ranks)
    command = [launcher, *(("--with-ft", "ulfm") if is_open_mpi() else ()), *rest]
    job = Job(command, tmp_path, environment)
    if while_running:
        while_running(job)
    ended = job.wait()
    if is_open_mpi():
        assert ended.status == 0, str(ended)
    else:
        assert ended.status != 0, str(ended)
        begun = (tmp_path / "run" / "last.h5").exists()
        distbp(*(["train", "--resume", "run"] if begun else words), folder=tmp_path, n=ranks - 1)
    assert metrics(tmp_path / "run") == metrics(whole), str(ended)
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    return ended.err


def assert_carried_on(err: str, *ranks: int) -> None:
    if is_open_mpi():
        who = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        assert err.count(f"{who} died. The run goes on after") == 1, err


@pytest.mark.parametrize("rank", range(N) if FULL else [0, 2])
@pytest.mark.parametrize(("place", "call"), MOMENTS, ids=[place for place, _ in MOMENTS])
def test_a_rank_is_killed(tmp_path, data, whole, place, call, rank):
    """Rank 0 too, whose log, checkpoints and display another one takes over."""
    err = survive(tmp_path, data, whole, fault(tmp_path, rank, place, "kill", call))
    assert (tmp_path / "fault").exists(), err
    assert_carried_on(err, rank)


def test_rank_0_is_killed_while_it_saves(tmp_path, data, whole):
    """The save that is cut off is made again, and nothing of it is left."""
    err = survive(tmp_path, data, whole, fault(tmp_path, 0, "rename", "kill", 6))
    assert_carried_on(err, 0)


def kill(count: int, apart: float, seed: int):
    """Return what kills some ranks at a random moment, one shortly after the other."""
    chance = random.Random(seed)  # noqa: S311 (no secret)

    def while_running(job: Job) -> None:
        while not list(job.folder.glob("run/checkpoints/*.h5")):
            assert time.monotonic() < job.began + job.limit
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        for pid in chance.sample(sorted(job.ranks()), count):
            os.kill(pid, signal.SIGKILL)
            time.sleep(chance.uniform(0, apart))

    return while_running


@pytest.mark.parametrize("seed", range(TIMES))
def test_any_rank_is_killed_at_any_moment(tmp_path, data, whole, seed):
    """From outside, as the kernel does when memory runs out."""
    survive(tmp_path, data, whole, while_running=kill(1, 0.0, seed))
