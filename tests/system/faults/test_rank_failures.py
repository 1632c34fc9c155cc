"""Ranks are killed: the others continue, or the run is resumed; the result is the same.

Open MPI lets the others continue (`--with-ft ulfm`). With MPICH the run ends and is resumed from
its newest checkpoint.
"""

import os
import random
import signal
import sys
import time

import pytest
from ranks import (
    FULL,
    Job,
    command_of,
    distbp,
    fault,
    fault_tolerant_launcher,
    is_open_mpi,
    metrics,
)

from distbp import load

N = 4
WORDS = (
    "--batch-size", 50, "--shards", 6, "--epochs", 100, "--optimizer", "adam", "--dropout", 0.2,
)  # fmt: skip
TIMES = 40 if FULL else 4
# The place at which a rank is killed, and the number of the call.
MOMENTS = [("backprop", 60), ("update", 40), ("evaluation", 3)]


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Return the directory of a run without faults."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def survive(tmp_path, data, reference, environment=None, while_running=None, every="auto") -> str:
    """Train while ranks are killed, check the result, and return the run's standard error."""
    words = ["train", data["digits"], "--out", "run", *WORDS, "--checkpoint-every", every]
    job = Job([*fault_tolerant_launcher(N), *command_of(words)], tmp_path, environment)
    if while_running:
        while_running(job)
    ended = job.wait()
    if is_open_mpi():
        assert ended.status == 0, str(ended)
    else:
        assert ended.status != 0, str(ended)
        has_checkpoint = any((tmp_path / "run").rglob("*.h5"))
        distbp(
            *(["train", "--resume", "run"] if has_checkpoint else words),
            folder=tmp_path,
            n=N - 1,
        )
    assert metrics(tmp_path / "run") == metrics(reference), str(ended)
    for name in ("last.h5", "best.h5"):  # which may be lost with rank 0 before it was written
        assert (load(tmp_path / "run" / name).theta == load(reference / name).theta).all(), name
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    return ended.err


def assert_continued(err: str, *ranks: int) -> None:
    if is_open_mpi():
        failed = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        assert err.count(f"{failed} died. Training continues after") == 1, err


@pytest.mark.parametrize("rank", range(N) if FULL else [0, 2])
@pytest.mark.parametrize(("place", "call"), MOMENTS, ids=[place for place, _ in MOMENTS])
def test_a_rank_is_killed(tmp_path, data, reference, place, call, rank):
    """Also rank 0, whose log, checkpoints and display another rank takes over."""
    err = survive(tmp_path, data, reference, fault(tmp_path, rank, place, "kill", call))
    assert (tmp_path / "fault").exists(), err
    assert_continued(err, rank)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_is_killed_before_it_has_mapped_shared_memory(tmp_path, data, rank):
    """What the others have mapped is not left behind, for which `Job` looks."""
    words = ["train", data["digits"], "--out", "run", *WORDS]
    environment = fault(tmp_path, rank, "shared memory", "kill")
    job = Job([*fault_tolerant_launcher(N), *command_of(words)], tmp_path, environment)
    ended = job.wait()
    assert ended.status != 0, str(ended)
    assert (tmp_path / "fault").exists(), str(ended)


def test_rank_0_is_killed_while_it_saves(tmp_path, data, reference):
    """The interrupted save is repeated, and leaves no temporary file."""
    environment = fault(tmp_path, 0, "rename", "kill", 6)
    err = survive(tmp_path, data, reference, environment, every="1epoch")
    assert_continued(err, 0)


TEXTS = """
import os, signal, sys, threading
from distbp.parallel import mpi
from distbp.parallel.comm import launched_group

world, (victim, delay) = launched_group(), map(float, sys.argv[1:])
if world.rank == victim:
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
count, answer = 0, "raised"
try:
    while answer == "raised":
        count += 1  # else the numbers of the call before would do
        if world.allgather([count, world.rank]) != [[count, rank] for rank in range(world.size)]:
            answer = "wrong"
except mpi.init().Exception:
    pass
os.write(1, f"{answer}\\n".encode())
os._exit(0)
"""


@pytest.mark.parametrize("victim", range(N))
def test_texts_of_a_rank_that_died_are_an_error(tmp_path, victim):
    """Not something else that was in memory: on all others, if MPI lets them continue."""
    program = [sys.executable, "-c", TEXTS, victim, 0.1 + 0.01 * victim]
    ended = Job([*fault_tolerant_launcher(N), *program], tmp_path).wait()
    if is_open_mpi():
        assert ended.out.split() == ["raised"] * (N - 1), str(ended)
    else:
        assert ended.status != 0, str(ended)
        assert "wrong" not in ended.out, str(ended)


def kill(count: int, apart: float, seed: int):
    """Return a function that kills ranks at a random time, one shortly after the other."""
    chance = random.Random(seed)  # noqa: S311 (no secret)

    def while_running(job: Job) -> None:
        while not list(job.folder.glob("run/checkpoints/*.h5")):
            assert time.monotonic() < job.began + job.limit
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        for pid in chance.sample(sorted(job.ranks()), count):
            os.kill(pid, signal.SIGKILL)
            time.sleep(chance.uniform(0, apart))

    return while_running


@pytest.mark.parametrize("seed", range(TIMES))
def test_a_random_rank_is_killed_at_a_random_time(tmp_path, data, reference, seed):
    """From outside, as by the kernel when memory runs out."""
    survive(tmp_path, data, reference, while_running=kill(1, 0.0, seed))
