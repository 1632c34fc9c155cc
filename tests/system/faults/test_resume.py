"""A run that was killed goes on from its last checkpoint, on any number of ranks."""

import time

import pytest
from ranks import FULL, Job, command_of, distbp, fault, kill, metrics

from distbp import load

# 503 rows: 9 steps an epoch. Held out, dropout, plateau and momentum: all that has a state.
WORDS = (
    *("--batch-size", 60, "--shards", 4, "--epochs", 4, "--optimizer", "adam"),
    *("--dropout", 0.2, "--schedule", "plateau", "--decay-epochs", 1, "--learning-rate", 0.02),
    *("--validation", 0.1, "--l2", 0.1),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """Return the directory of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def killed(tmp_path, words, n, rank, step):
    """Run on n ranks until that rank is killed in its step-th update of this process."""
    environment = fault(tmp_path, rank, "update", "kill", step)
    return distbp(*words, folder=tmp_path, n=n, status=None, environment=environment)


def assert_equal_runs(run, whole) -> None:
    """Equal θ and equal numbers of each epoch, each of them once."""
    assert metrics(run) == metrics(whole)
    for name in ("last.h5", "best.h5"):
        assert (load(run / name).theta == load(whole / name).theta).all(), name


@pytest.mark.parametrize(
    ("every", "step"),
    # Late enough for a second save to have begun: then the first one is on the disk.
    [("7steps", 18), ("1epoch", 18)]
    + ([(e, s) for e in ("7steps", "1steps", "1epoch") for s in (18, 19, 20)] if FULL else []),
)
def test_killed_twice_and_resumed_on_other_numbers_of_ranks(tmp_path, data, whole, every, step):
    """2 ranks, killed; 3 ranks, killed again, in the middle of an epoch; then 1 to the end."""
    words = ("train", data["digits"], "--out", "run", *WORDS, "--checkpoint-every", every)
    killed(tmp_path, words, n=2, rank=1, step=step)
    assert (tmp_path / "run" / "last.h5").exists()
    assert len(metrics(tmp_path / "run")) < 4
    killed(tmp_path, ("train", "--resume", "run"), n=3, rank=0, step=11)
    assert len(metrics(tmp_path / "run")) < 4
    ended = distbp("train", "--resume", "run", folder=tmp_path)
    assert "resumed after" in ended.out
    assert_equal_runs(tmp_path / "run", whole)
    assert ended.digest == metrics(whole)[-1]["digest"]


def test_all_ranks_killed_from_outside_at_any_moment(tmp_path, data):
    """kill -9 of every rank at a moment that nobody chose, with a checkpoint every 7 steps."""
    words = ("train", data["digits"], *WORDS, "--epochs", 20)
    whole = distbp(*words, "--out", "whole", folder=tmp_path)
    job = Job(command_of([*words, "--out", "run", "--checkpoint-every", "7steps"], n=2), tmp_path)
    until = time.monotonic() + 20
    while not (tmp_path / "run" / "checkpoints" / "step-000000049.h5").exists():
        assert time.monotonic() < until
        time.sleep(0.001)
    kill(job.ranks())
    assert job.wait().status != 0
    assert len(metrics(tmp_path / "run")) < 20
    ended = distbp("train", "--resume", "run", folder=tmp_path, n=3)
    assert ended.digest == whole.digest
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("call", range(1, 12) if FULL else [5, 7])
def test_killed_while_a_file_takes_its_place(tmp_path, data, whole, call):
    """Rank 0 dies just before a rename: every named file is complete, and no others are left."""
    words = ("train", data["digits"], "--out", "run", *WORDS, "--checkpoint-every", "5steps")
    distbp(
        *words, folder=tmp_path, status=None,
        environment=fault(tmp_path, "alone", "rename", "kill", call),
    )  # fmt: skip
    if not (tmp_path / "run" / "last.h5").exists():
        return  # nothing to go on with yet
    distbp("train", "--resume", "run", folder=tmp_path)
    assert_equal_runs(tmp_path / "run", whole)
    left = [path.name for path in (tmp_path / "run").rglob("*.tmp")]
    assert left == [], "the temporary file of the killed one is never removed"


def test_killed_before_the_first_checkpoint_it_can_be_begun_again(tmp_path, data):
    """The same command, or --resume: one of them has to be a way on, or a batch job is stuck."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    killed(tmp_path, words, n=2, rank=1, step=3)
    jobs = [
        Job(command_of(again), tmp_path).wait() for again in (["train", "--resume", "run"], words)
    ]
    assert 0 in [ended.status for ended in jobs], "\n".join(map(str, jobs))


def test_a_run_that_is_done_can_be_resumed(tmp_path, data, whole):
    """Nothing to do is not an error; more epochs are a run that goes on."""
    words = ("train", data["digits"], "--out", "run", *WORDS[:4], "--epochs", 2)
    first = distbp(*words, folder=tmp_path)
    again = distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert again.digest == first.digest
    more = distbp("train", "--resume", "run", "--epochs", 3, folder=tmp_path)
    at_once = distbp(*words[:3], "other", *words[4:], "--epochs", 3, folder=tmp_path)
    assert more.digest == at_once.digest
    assert metrics(tmp_path / "run") == metrics(tmp_path / "other")


def test_the_directory_of_a_run_can_be_moved(tmp_path, data):
    """A run is resumed from where it is now; --resume says where."""
    words = ("train", data["digits"], "--out", "run", "--epochs", 1)
    distbp(*words, folder=tmp_path)
    (tmp_path / "run").rename(tmp_path / "moved")
    distbp("train", "--resume", "moved", "--epochs", 2, folder=tmp_path)
    assert [r["epoch"] for r in metrics(tmp_path / "moved")] == [1, 2]
    assert not (tmp_path / "run").exists()
