"""One rank fails, in each phase and way: all end, soon, and one of them says why.

Before the first collective, inside them, in code that only rank 0 runs, in a thread,
and by an exit that is none: the others must never be left waiting. In the short form
each phase and each way occurs once, on ranks and launchers in turn; in the long form
all combinations.
"""

import itertools
import os
import re
import signal
import time

import pytest
from ranks import FULL, Job, command_of, distbp, fault

N = 3
SOON = 5.0  # seconds from the fault to the end of all
WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 100_000, "--quiet")
LIMIT = 20.0

# Phases of `train` that all ranks go through, with the call that is to fail.
PHASES = {
    "configuration": 1,
    "start": 1,
    "data": 1,
    "backprop": 1,
    "combine": 2,
    "update": 30,
    "evaluation": 2,
}
RANK_0_PHASES = {"checkpoint": 1}
WAYS = ("error", "memory", "interrupt", "exit0", "exit3", "thread")
STARTS = ("mpiexec", "--ranks")


def cases() -> list[tuple[str, str, int, str]]:
    """Return (phase, way, rank, how it is started)."""
    if FULL:
        everywhere = itertools.product(PHASES, WAYS, range(N), STARTS)
        on_rank_0 = itertools.product(RANK_0_PHASES, WAYS, (0,), STARTS)
        # A thread that fails before training has begun is Python's affair.
        early = [(phase, "thread") for phase in ("configuration", "start")]
        return [case for case in (*everywhere, *on_rank_0) if case[:2] not in early]
    in_turn = [("error", 1), ("error", 0), ("error", 2), ("memory", 1)]
    found = [(phase, *in_turn[i % len(in_turn)], STARTS[i % 2]) for i, phase in enumerate(PHASES)]
    found += [(phase, "error", 0, STARTS[i % 2]) for i, phase in enumerate(RANK_0_PHASES)]
    found += [("combine", way, i % N, STARTS[i % 2]) for i, way in enumerate(WAYS)]
    found += [("configuration", way, 2, "mpiexec") for way in ("exit0", "interrupt")]
    return [*found, ("backprop", "error", 0, "mpiexec")]


def failed(tmp_path, words, environment, n=N, start="mpiexec"):
    """Run until the fault; return how it ended, which has to be soon, and not well."""
    if start == "--ranks":
        job = Job(command_of([*words, "--ranks", n]), tmp_path, environment, LIMIT)
    else:
        job = Job(command_of(words, n=n), tmp_path, environment, LIMIT)
    ended = job.wait()
    assert (tmp_path / "fault").exists(), f"the fault did not happen\n{ended}"
    after = ended.ended_at - float((tmp_path / "fault").read_text())
    assert after < SOON, f"the end came {after:.1f} s after the fault\n{ended}"
    assert ended.status != 0, str(ended)
    return ended


def assert_one_traceback(ended, rank: int) -> None:
    text = ended.out + ended.err
    assert text.count("Traceback (most recent call last)") == 1, str(ended)
    assert len(re.findall(rf"\brank {rank} of {N}\b", text)) == 1, str(ended)


@pytest.mark.parametrize(("phase", "way", "rank", "start"), cases())
def test_one_rank_fails(tmp_path, data, phase, way, rank, start):
    """All ranks end within seconds, not with 0; one traceback, that names the rank."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    call = (PHASES | RANK_0_PHASES)[phase]
    ended = failed(tmp_path, words, fault(tmp_path, rank, phase, way, call), start=start)
    assert_one_traceback(ended, rank)
    if way == "exit3":
        assert "3" in ended.err


@pytest.mark.parametrize(
    ("phase", "rank"),
    [(phase, rank) for phase in ("configuration", "data") for rank in range(N)]
    if FULL
    else [("configuration", 1), ("data", 0)],
)
def test_a_trouble_of_one_rank_is_told_without_a_traceback(tmp_path, data, phase, rank):
    """What a user can mend, on one rank alone: its sentence, with its rank, once."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    ended = failed(tmp_path, words, fault(tmp_path, rank, phase, "trouble"))
    assert ended.err.count("a trouble that a test made") == 1, str(ended)
    assert f"rank {rank}" in ended.err, str(ended)
    assert "Traceback" not in ended.err + ended.out, str(ended)


def test_a_fault_of_all_ranks_is_told_once(tmp_path, data):
    """A defect is seldom one rank's alone: one traceback, not as many as there are ranks."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    ended = failed(tmp_path, words, fault(tmp_path, "all", "update", "error", 5))
    assert ended.err.count("Traceback (most recent call last)") == 1, str(ended)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_the_command_that_started_them(tmp_path, data, number):
    """`distbp … --ranks` ended from outside takes the launcher and the ranks along."""
    words = ["train", data["digits"], "--out", "run", *WORDS, "--ranks", 2]
    job = Job(command_of(words), tmp_path, limit=LIMIT)
    while not (tmp_path / "run" / "last.h5").exists():
        assert time.monotonic() < job.began + LIMIT
        time.sleep(0.02)
    os.kill(job.process.pid, number)
    assert job.wait().status != 0


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize("rank", range(N) if FULL else [1])
def test_one_rank_fails_in_other_verbs(tmp_path, data, run, verb, rank):
    words = [verb, run, data["digits"], *(("--out", "p.h5") if verb == "predict" else ())]
    ended = failed(tmp_path, words, fault(tmp_path, rank, "prediction", "error"))
    assert_one_traceback(ended, rank)
    assert not (tmp_path / "p.h5").exists()


@pytest.mark.parametrize("rank", range(N) if FULL else [0, 2])
def test_one_rank_is_killed(tmp_path, data, rank):
    """By the kernel's out-of-memory killer, say: the launcher has to end the others."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    failed(tmp_path, words, fault(tmp_path, rank, "update", "kill", 5))


def test_alone_an_exception_ends_with_its_traceback(tmp_path, data):
    words = ("train", data["digits"], "--out", "run", *WORDS)
    environment = fault(tmp_path, "alone", "update", "error", 5)
    ended = distbp(*words, folder=tmp_path, status=1, environment=environment)
    assert ended.err.count("Traceback (most recent call last)") == 1


def test_a_save_that_fails_in_the_middle_is_tried_again(tmp_path, data):
    """A full disk for a moment: a warning, and the run goes on to the same end."""
    words = ("train", data["digits"], "--batch-size", 50, "--epochs", 3)
    expected = distbp(*words, "--out", "whole", folder=tmp_path)
    environment = fault(tmp_path, 0, "rename", "disk_full", 4)
    ended = distbp(*words, "--out", "run", folder=tmp_path, n=2, environment=environment)
    assert ended.digest == expected.digest
    assert ended.err.count("No space left on device") == 1, str(ended)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3
