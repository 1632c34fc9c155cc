"""A rank stands still: the others name it, end it, and carry on, or the run ends."""

import pytest
from ranks import Job, command_of, distbp, fault, is_open_mpi, metrics

N = 3
LIMIT = 2.0  # seconds, of --stall-limit
SOON = 12.0  # seconds more until all is over, on a machine that does other things too
WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 12)
CASES = [("update", "stop", 30, 0), ("backprop", "loop", 50, 1), ("evaluation", "sleep", 3, 2)]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


@pytest.mark.parametrize(("place", "kind", "call", "rank"), CASES)
def test_a_rank_stands_still(tmp_path, data, whole, place, kind, call, rank):
    """Stopped, running in a circle, asleep: in a step and elsewhere. Nothing is lost."""
    words = ["train", data["digits"], "--out", "run", *WORDS, "--stall-limit", f"{LIMIT}s"]
    launcher, *rest = command_of(words, n=N)
    command = [launcher, *(("--with-ft", "ulfm") if is_open_mpi() else ()), *rest]
    ended = Job(command, tmp_path, fault(tmp_path, rank, place, kind, call)).wait()
    after = ended.ended_at - float((tmp_path / "fault").read_text())
    assert LIMIT < after < LIMIT + SOON, str(ended)
    assert ended.err.count(f"distbp: rank {rank} on ") == 1, str(ended)
    assert "made no progress for" in ended.err, str(ended)
    if kind == "stop":
        assert ", stopped)" in ended.err, str(ended)
    else:
        assert f"in {kind}" in ended.err, f"no stack of it\n{ended}"
    if is_open_mpi():
        assert ended.status == 0, str(ended)
        assert f"rank {rank} died. The run goes on" in ended.err, str(ended)
    else:
        assert ended.status != 0, str(ended)
        distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert metrics(tmp_path / "run") == metrics(whole)
