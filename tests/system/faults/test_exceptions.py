"""One rank fails, in each phase and each way: all ranks end within seconds, with one message.

Before the first collective, within collectives, in code that only rank 0 runs, in a thread,
and by sys.exit: the other ranks must never wait without limit. Normally each phase and each way
occurs once, with varying ranks and launchers; with DISTBP_TEST_FULL=1 all combinations.
"""

import itertools
import os
import re
import shutil
import signal
import time

import pytest
from ranks import FULL, Job, command_of, distbp, fault

N = 3
END_TIMEOUT_S = 5.0  # from the fault to the end of all ranks
ATTEMPTS = 3  # of which the others are only needed if other programs delay the end,
LIMIT = 20.0  # seconds, which no attempt may take from the fault to the end
WORDS = ("--batch-size", 50, "--shards", 6, "--epochs", 100_000, "--quiet")

# Phases of `train` on all ranks, with the number of the call that fails.
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
    """Return (phase, way, rank, how the ranks are started)."""
    if FULL:
        everywhere = itertools.product(PHASES, WAYS, range(N), STARTS)
        on_rank_0 = itertools.product(RANK_0_PHASES, WAYS, (0,), STARTS)
        # distbp does not handle exceptions of threads before training has started.
        early = [(phase, "thread") for phase in ("configuration", "start")]
        return [case for case in (*everywhere, *on_rank_0) if case[:2] not in early]
    variants = [("error", 1), ("error", 0), ("error", 2), ("memory", 1)]
    found = [(phase, *variants[i % len(variants)], STARTS[i % 2]) for i, phase in enumerate(PHASES)]
    found += [(phase, "error", 0, STARTS[i % 2]) for i, phase in enumerate(RANK_0_PHASES)]
    found += [("combine", way, i % N, STARTS[i % 2]) for i, way in enumerate(WAYS)]
    found += [("configuration", way, 2, "mpiexec") for way in ("exit0", "interrupt")]
    return [*found, ("backprop", "error", 0, "mpiexec")]


def run_with_fault(tmp_path, words, environment, n=N, start="mpiexec"):
    """Run until the fault; check that all ranks end soon afterwards, with a failure."""
    command = command_of([*words, "--ranks", n]) if start == "--ranks" else command_of(words, n=n)
    for attempt in range(ATTEMPTS):
        if attempt:
            (tmp_path / "fault").unlink()
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        ended = Job(command, tmp_path, environment).wait()
        assert (tmp_path / "fault").exists(), f"the fault was not injected\n{ended}"
        assert ended.status != 0, str(ended)
        after = ended.ended_at - float((tmp_path / "fault").read_text())
        assert after < LIMIT, f"ended {after:.1f} s after the fault\n{ended}"
        if after < END_TIMEOUT_S:
            return ended
    pytest.fail(f"ended {after:.1f} s after the fault\n{ended}")


def assert_one_traceback(ended, rank: int) -> None:
    text = ended.out + ended.err
    assert text.count("Traceback (most recent call last)") == 1, str(ended)
    assert len(re.findall(rf"\brank {rank} of {N}\b", text)) == 1, str(ended)


@pytest.mark.parametrize(("phase", "way", "rank", "start"), cases())
def test_one_rank_fails(tmp_path, data, phase, way, rank, start):
    """All ranks end within seconds, not with status 0; one traceback, which names the rank."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    call = (PHASES | RANK_0_PHASES)[phase]
    ended = run_with_fault(tmp_path, words, fault(tmp_path, rank, phase, way, call), start=start)
    assert_one_traceback(ended, rank)
    if way == "exit3":
        assert "3" in ended.err


@pytest.mark.parametrize(
    ("phase", "rank"),
    [(phase, rank) for phase in ("configuration", "data") for rank in range(N)]
    if FULL
    else [("configuration", 1), ("data", 0)],
)
def test_a_user_error_on_one_rank_has_no_traceback(tmp_path, data, phase, rank):
    """An error that the user can fix, on a single rank: one message, which names the rank."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    ended = run_with_fault(tmp_path, words, fault(tmp_path, rank, phase, "data_error"))
    assert ended.err.count("an injected data error") == 1, str(ended)
    assert f"rank {rank}" in ended.err, str(ended)
    assert "Traceback" not in ended.err + ended.out, str(ended)


def test_an_exception_on_all_ranks_is_printed_once(tmp_path, data):
    """One traceback, not as many as there are ranks."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    ended = run_with_fault(tmp_path, words, fault(tmp_path, "all", "update", "error", 5))
    assert ended.err.count("Traceback (most recent call last)") == 1, str(ended)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_the_command_that_started_them(tmp_path, data, number):
    """A signal that ends `distbp … --ranks` also ends the launcher and the ranks."""
    words = ["train", data["digits"], "--out", "run", *WORDS, "--ranks", 2]
    job = Job(command_of(words), tmp_path)
    while not (tmp_path / "run" / "last.h5").exists():
        assert time.monotonic() < job.began + job.limit
        time.sleep(0.02)
    os.kill(job.process.pid, number)
    job.limit = time.monotonic() - job.began + LIMIT
    assert job.wait().status != 0


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize("rank", range(N) if FULL else [1])
def test_one_rank_fails_in_another_verb(tmp_path, data, run, verb, rank):
    words = [verb, run, data["digits"], *(("--out", "p.h5") if verb == "predict" else ())]
    ended = run_with_fault(tmp_path, words, fault(tmp_path, rank, "prediction", "error"))
    assert_one_traceback(ended, rank)
    assert not (tmp_path / "p.h5").exists()


def test_one_rank_fails_and_cannot_say_so(tmp_path, data, run):
    """The completion file cannot be written, as on a full disk: the ranks end all the same."""
    variables = {"DISTBP_DONE": str(tmp_path / "missing" / "done")}
    for rank, kind in ((1, "error"), (2, "data_error")):
        (tmp_path / "fault").unlink(missing_ok=True)
        words = ("evaluate", run, data["digits"])
        ended = run_with_fault(tmp_path, words, variables | fault(tmp_path, rank, "data", kind))
        assert ended.err.count("missing/done cannot be written: No such file") == 1, str(ended)
        assert "an injected" in ended.err, str(ended)
    ended = distbp(*words, folder=tmp_path, n=N, environment=variables)
    assert "missing/done cannot be written" in ended.err


@pytest.mark.parametrize("rank", range(N) if FULL else [0, 2])
def test_one_rank_is_killed(tmp_path, data, rank):
    """As by the kernel when memory runs out: the launcher must end the others."""
    words = ("train", data["digits"], "--out", "run", *WORDS)
    run_with_fault(tmp_path, words, fault(tmp_path, rank, "update", "kill", 5))


def test_an_exception_without_a_launcher_has_a_traceback(tmp_path, data):
    words = ("train", data["digits"], "--out", "run", *WORDS)
    environment = fault(tmp_path, "alone", "update", "error", 5)
    ended = distbp(*words, folder=tmp_path, status=1, environment=environment)
    assert ended.err.count("Traceback (most recent call last)") == 1


@pytest.mark.parametrize("call", range(4, 11))
def test_a_failed_save_is_retried(tmp_path, data, call):
    """The disk is full for a moment: a warning, and the run continues to the same result.

    The first three renames are of files without which a run does not start, or of its events.
    The others are of the records and the two checkpoints of a short run, the last one included.
    """
    words = ("train", data["digits"], "--batch-size", 50, "--epochs", 3)
    expected = distbp(*words, "--out", "reference", folder=tmp_path)
    environment = fault(tmp_path, 0, "rename", "disk_full", call)
    ended = distbp(*words, "--out", "run", folder=tmp_path, n=2, environment=environment)
    assert ended.digest == expected.digest
    assert ended.err.count("No space left on device") == 1, str(ended)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3
    for name in ("last.h5", "best.h5"):
        assert expected.digest in distbp("info", f"run/{name}", folder=tmp_path).out, str(ended)
