"""A killed run is resumed from its newest checkpoint, on any number of ranks."""

import time

import pytest
from ranks import FULL, Job, command_of, distbp, fault, kill, metrics, newest_step

from distbp import load

# 503 rows: 9 steps per epoch. Adam, dropout, plateau and a validation split, because they have
# state that must be restored.
WORDS = (
    *("--batch-size", 60, "--shards", 4, "--epochs", 4, "--optimizer", "adam"),
    *("--dropout", 0.2, "--schedule", "plateau", "--decay-epochs", 1, "--learning-rate", 0.02),
    *("--validation", 0.1, "--l2", 0.1),
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data):
    """Return the directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def run_and_kill(tmp_path, words, n, rank, step):
    """Run on n ranks until that rank is killed in the step-th update of its process."""
    environment = fault(tmp_path, rank, "update", "kill", step)
    return distbp(*words, folder=tmp_path, n=n, status=None, environment=environment)


def assert_equal_runs(run, reference) -> None:
    """Assert that θ and the metrics are equal, with each epoch listed once."""
    assert metrics(run) == metrics(reference)
    for name in ("last.h5", "best.h5"):
        assert (load(run / name).theta == load(reference / name).theta).all(), name


@pytest.mark.parametrize(
    ("every", "step"),
    # Late enough for the second save to have started: then the first is on disk.
    [("7steps", 18), ("1epoch", 18)]
    + ([(e, s) for e in ("7steps", "1steps", "1epoch") for s in (18, 19, 20)] if FULL else []),
)
def test_killed_twice_and_resumed_on_other_numbers_of_ranks(tmp_path, data, reference, every, step):
    """2 ranks, killed; 3 ranks, killed again within an epoch; then 1 rank to the end."""
    words = ("train", data["digits"], "--out", "run", *WORDS, "--checkpoint-every", every)
    run_and_kill(tmp_path, words, n=2, rank=1, step=step)
    assert (tmp_path / "run" / "last.h5").exists()
    assert len(metrics(tmp_path / "run")) < 4
    run_and_kill(tmp_path, ("train", "--resume", "run"), n=3, rank=0, step=11)
    assert len(metrics(tmp_path / "run")) < 4
    ended = distbp("train", "--resume", "run", folder=tmp_path)
    assert "resumed after" in ended.out
    assert_equal_runs(tmp_path / "run", reference)
    assert ended.digest == metrics(reference)[-1]["digest"]


def test_all_ranks_killed_from_outside(tmp_path, data):
    """SIGKILL to every rank at an arbitrary time, with a checkpoint every 7 steps."""
    words = ("train", data["digits"], *WORDS, "--epochs", 20)
    reference = distbp(*words, "--out", "reference", folder=tmp_path)
    job = Job(command_of([*words, "--out", "run", "--checkpoint-every", "7steps"], n=2), tmp_path)
    while newest_step(tmp_path / "run") < 49:
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.001)
    kill(job.ranks())
    assert job.wait().status != 0
    assert len(metrics(tmp_path / "run")) < 20
    ended = distbp("train", "--resume", "run", folder=tmp_path, n=3)
    assert ended.digest == reference.digest
    assert metrics(tmp_path / "run") == metrics(tmp_path / "reference")


@pytest.mark.parametrize("call", range(1, 12) if FULL else [5, 7])
def test_killed_while_a_file_is_renamed(tmp_path, data, reference, call):
    """Rank 0 dies just before a rename: all files are intact, and no temporary file remains."""
    words = ("train", data["digits"], "--out", "run", *WORDS, "--checkpoint-every", "5steps")
    distbp(
        *words, folder=tmp_path, status=None,
        environment=fault(tmp_path, "alone", "rename", "kill", call),
    )  # fmt: skip
    if not (tmp_path / "run" / "last.h5").exists():
        return  # there is no checkpoint to resume from
    distbp("train", "--resume", "run", folder=tmp_path)
    assert_equal_runs(tmp_path / "run", reference)
    left = [path.name for path in (tmp_path / "run").rglob("*.tmp")]
    assert left == [], "temporary files of the killed run were not removed"


def test_killed_before_the_first_checkpoint(tmp_path, data):
    """The same command or --resume must work, or a batch job could not continue."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    run_and_kill(tmp_path, words, n=2, rank=1, step=3)
    jobs = [
        Job(command_of(again), tmp_path).wait() for again in (["train", "--resume", "run"], words)
    ]
    assert 0 in [ended.status for ended in jobs], "\n".join(map(str, jobs))


def test_a_finished_run_can_be_resumed(tmp_path, data, reference):
    """Without more epochs nothing is done, which is no error; with more it continues."""
    words = ("train", data["digits"], "--out", "run", *WORDS[:4], "--epochs", 2)
    first = distbp(*words, folder=tmp_path)
    again = distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert again.digest == first.digest
    more = distbp("train", "--resume", "run", "--epochs", 3, folder=tmp_path)
    uninterrupted = distbp(*words[:3], "other", *words[4:], "--epochs", 3, folder=tmp_path)
    assert more.digest == uninterrupted.digest
    assert metrics(tmp_path / "run") == metrics(tmp_path / "other")


def test_the_directory_of_a_run_can_be_moved(tmp_path, data):
    """A run is resumed in the directory that --resume names, and its old path is not used."""
    words = ("train", data["digits"], "--out", "run", "--epochs", 1)
    distbp(*words, folder=tmp_path)
    (tmp_path / "run").rename(tmp_path / "moved")
    distbp("train", "--resume", "moved", "--epochs", 2, folder=tmp_path)
    assert [r["epoch"] for r in metrics(tmp_path / "moved")] == [1, 2]
    assert not (tmp_path / "run").exists()
