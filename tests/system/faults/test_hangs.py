"""A rank hangs: it is reported and killed, and the others continue, or the run is resumed."""

import pytest
from ranks import Job, command_of, distbp, fault, fault_tolerant_launcher, is_open_mpi, metrics

N = 3
STALL_LIMIT_S = 2.0
END_TIMEOUT_S = 12.0  # after that, on a busy machine
WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 12)
CASES = [
    ("update", "stop", 30, 0),
    ("backprop", "loop", 50, 1),
    ("evaluation", "sleep", 3, 2),
    ("last save", "sleep", 1, 0),
    ("summary", "stop", 1, 1),
]


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Return the directory of a run without faults."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    return folder / "run"


def test_a_rank_hangs_before_the_first_step(tmp_path, data):
    """While it reads its data; a run that has not begun ends."""
    words = ["train", data["digits"], "--out", "run", "--stall-limit", "1s"]
    ended = Job(command_of(words, n=N), tmp_path, fault(tmp_path, 1, "data", "stop", 1)).wait()
    assert ended.status != 0, str(ended)
    assert "rank 1 on " in ended.err, str(ended)
    assert "made no progress for" in ended.err, str(ended)


@pytest.mark.parametrize(("place", "kind", "call", "rank"), CASES)
def test_a_rank_hangs(tmp_path, data, reference, place, kind, call, rank):
    """SIGSTOP, an infinite loop, a sleep: within a step and elsewhere; the result is the same."""
    words = ["train", data["digits"], "--out", "run", *WORDS, "--stall-limit", f"{STALL_LIMIT_S}s"]
    command = [*fault_tolerant_launcher(N), *command_of(words)]
    ended = Job(command, tmp_path, fault(tmp_path, rank, place, kind, call)).wait()
    after = ended.ended_at - float((tmp_path / "fault").read_text())
    assert STALL_LIMIT_S < after < STALL_LIMIT_S + END_TIMEOUT_S, str(ended)
    assert ended.err.count(f"distbp: rank {rank} on ") == 1, str(ended)
    assert "made no progress for" in ended.err, str(ended)
    if kind == "stop":
        assert ", stopped)" in ended.err, str(ended)
    else:
        assert f"in {kind}" in ended.err, f"its stack is missing\n{ended}"
    if is_open_mpi():
        assert ended.status == 0, str(ended)
        assert f"rank {rank} died. Training continues" in ended.err, str(ended)
    else:
        assert ended.status != 0, str(ended)
        distbp("train", "--resume", "run", folder=tmp_path, n=2)
    assert metrics(tmp_path / "run") == metrics(reference)
