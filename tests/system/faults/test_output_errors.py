"""Standard output that cannot be written, and closed terminals: no run is lost."""

import fcntl
import os
import pty
import shlex
import termios
import time

import pytest
from ranks import Job, command_of, distbp, metrics

WORDS = ("--batch-size", 50, "--shards", 6, "--checkpoint-every", "1000epochs")
STARTS = {"alone": (), "ranks": ("--ranks", 2)}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("where", ["> /dev/full", ">&-", ">&- 2>&-", "| head -n 1"])
def test_a_run_survives_write_errors_on_stdout(tmp_path, data, start, where):
    words = ["train", data["digits"], "--epochs", 20, *WORDS, "--out"]
    distbp(*words, "reference", folder=tmp_path)
    command = shlex.join(map(str, command_of([*words, "run", *STARTS[start]])))
    ended = Job(["bash", "-o", "pipefail", "-c", f"{command} {where}"], tmp_path).wait()
    assert ended.status == 0, str(ended)
    assert "Traceback" not in ended.err, str(ended)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "reference")


def test_a_result_that_cannot_be_printed_is_an_error(tmp_path, run):
    command = shlex.join(map(str, command_of(["digest", run])))
    ended = Job(["sh", "-c", f"{command} > /dev/full"], tmp_path).wait()
    assert ended.status == 1, str(ended)
    assert ended.err == (
        "distbp: Standard output cannot be written: No space left on device. "
        "Free space, or redirect it.\n"
    )


@pytest.mark.parametrize("start", STARTS)
def test_a_terminal_is_closed(tmp_path, data, start):
    """The run saves a checkpoint and stops, and can be resumed."""
    words = ["train", data["digits"], "--out", "run", "--epochs", 2000, *WORDS, *STARTS[start]]
    controller, terminal = pty.openpty()
    job = Job(
        command_of(words), tmp_path, files=(terminal, terminal),
        preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    output = b""
    while b" 3/2000 |" not in output:
        assert time.monotonic() < job.began + job.limit, output
        output += os.read(controller, 1 << 16)
    os.close(controller)
    ended = job.wait()
    assert ended.status == 75, str(ended)
    steps = len(metrics(tmp_path / "run"))
    assert 2 <= steps < 2000
    more = steps + 2
    distbp("train", "--resume", "run", "--epochs", more, folder=tmp_path)
    reference = ["train", data["digits"], "--out", "reference", "--epochs", more, *WORDS]
    distbp(*reference, folder=tmp_path)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "reference")
