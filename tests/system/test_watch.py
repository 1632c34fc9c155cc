"""`distbp watch` on a terminal of its own, beside a training that is running."""

import os
import re
import signal
import time

import pytest
from ranks import Job, command_of, distbp, kill
from screen import record

UTF8 = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
BRAILLE = re.compile("[\u2801-\u28ff]")


def start_training(data, folder, *more, epochs=100_000, environment=None) -> Job:
    """Start a run of short epochs."""
    words = ["train", data["digits"], "--out", "run", "--quiet", "--epochs", epochs]
    words += ["--checkpoint-every", "1000epochs", *more]
    return Job(command_of(words), folder, environment)


def wait_for(path, seconds=120.0):
    """Wait for a file to have a line."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def watch(folder, *words, width=100, typed=None, environment=UTF8):
    command = command_of(["watch", *words, "--every", 0.1])
    return record(command, folder, width, typed, environment)


def assert_terminal_is_restored(text):
    """The cursor is shown, and the alternate screen left."""
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    assert text.rfind("\x1b[?1049l") > text.rfind("\x1b[?1049h")


def test_curves_of_a_running_training_until_it_ends(tmp_path, data):
    """It is there before the run, follows it, ends with it, and leaves the last picture."""
    paced = {"DISTBP_TEST_PACE": "0.05"}
    job = start_training(data, tmp_path, "--validation", 0.2, epochs=20, environment=paced)
    seen = watch(tmp_path, "run")
    assert job.wait().status == 0
    assert seen.ended.status == 0, seen.text
    counts = re.findall(r"(\d+)/20 epochs", seen.text)
    assert len(set(counts)) > 3, counts
    assert counts == sorted(counts, key=int)
    assert " left, learning rate 0.1" in seen.text
    assert "running" in seen.text
    last = "\n".join(seen.last)
    assert "run  finished" in last
    assert re.search(r"20/20 epochs ━+ 100%", last)
    assert re.search(r"best +validation_cost \d\.\d+ in epoch \d+", last)
    assert BRAILLE.search(last)
    assert_terminal_is_restored(seen.text)


def test_ctrl_c_ends_the_watch_and_not_the_run(tmp_path, data):
    """On a narrow terminal without Unicode."""
    job = start_training(data, tmp_path)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    plain = {"LANG": "C", "LC_ALL": "C", "TERM": "xterm"}
    seen = watch(tmp_path, "run", width=40, typed=("cost", "\x03"), environment=plain)
    assert seen.ended.status == 130
    assert seen.ended.seconds < 10
    assert "Traceback" not in seen.text
    assert seen.text.isascii()
    assert max(len(line) for frame in seen.frames for line in frame) <= 40
    assert "running" in seen.text
    assert "cost" in "\n".join(seen.last)
    assert_terminal_is_restored(seen.text)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGTERM)
    assert job.wait().status == 75
    once = distbp("watch", "run", folder=tmp_path)
    assert "run  stopped" in once.out
    assert "--resume run" in " ".join(once.out.split())


def test_a_run_that_was_killed(tmp_path, data):
    """It is found to be dead from its process, and as plain text in a pipe."""
    job = start_training(data, tmp_path)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    kill([job.process.pid])
    job.wait()
    for path in (tmp_path / "run").iterdir():  # only later is it missed
        os.utime(path, (time.time() - 30, time.time() - 30))
    ended = distbp("watch", "run", folder=tmp_path, status=1)
    assert f"its process {job.process.pid} is gone" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("n", [2])
def test_a_directory_of_runs(tmp_path, data, n):
    """One line each, also of one that is trained on two ranks."""
    for name in ("run-1", "run-10", "run-2"):
        words = ["train", data["digits"], "--out", f"runs/{name}", "--epochs", 2, "--quiet"]
        distbp(*words, folder=tmp_path, n=n if name == "run-10" else None)
    lines = distbp("watch", "runs", folder=tmp_path).out.splitlines()
    assert lines[0] == "3 runs: 3 finished"
    assert [line.split()[:3] for line in lines[2:]] == [
        [name, "finished", "2/2"] for name in ("run-1", "run-2", "run-10")
    ]


def test_errors(tmp_path):
    ended = distbp("watch", "nothing", folder=tmp_path, status=2)
    assert "nothing does not exist" in ended.err
