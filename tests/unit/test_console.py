"""Console output: lines always, a bar on a terminal, and where the terminal is found."""

import errno
import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import warnings
from contextlib import suppress

import pytest

from distbp.console import ProgressBar, _ProtectedFile, install_handlers, output_error
from distbp.errors import DistbpWarning
from distbp.terminal import _find_launcher, _process_columns

logger = logging.getLogger("distbp.console")


@pytest.fixture
def terminal():
    """A pseudoterminal of 90 columns, as its descriptors (master, slave)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    yield master, slave
    os.close(master)
    os.close(slave)


def text_on(master):
    """Return what was written to a pseudoterminal so far."""
    os.set_blocking(master, False)
    text = b""
    with suppress(BlockingIOError):
        while part := os.read(master, 10_000):
            text += part
    return text.decode()


def test_width_of_a_process_terminal(terminal, tmp_path):
    """That of its open descriptor; 0 for a regular file or a closed descriptor."""
    _, slave = terminal
    assert _process_columns(os.getpid(), slave) == 90
    with (tmp_path / "f").open("w") as file:
        assert _process_columns(os.getpid(), file.fileno()) == 0
    assert _process_columns(os.getpid(), 987) == 0


def test_launcher_above(tmp_path):
    """The launcher is found by its name among the ancestors of a process."""
    launcher = tmp_path / "mpirun.local"
    launcher.symlink_to(sys.executable)
    child = [
        sys.executable,
        "-c",
        "import os; from distbp.terminal import _find_launcher; print(_find_launcher(os.getpid()))",
    ]
    start = f"import os, subprocess; print(os.getpid(), flush=True); subprocess.run({child!r})"
    out = subprocess.run([launcher, "-c", start], capture_output=True, text=True, check=True).stdout
    number, found = out.split()
    assert found == number


def test_no_launcher_above():
    """The first process of the host has no parent."""
    assert _find_launcher(1) is None


def test_a_library_prints_nothing(capsys):
    """It logs; the program that uses it decides what is printed."""
    logger.info("one")
    bar = ProgressBar(2, 10, is_shown=True)
    assert not bar.wants_step()
    assert capsys.readouterr() == ("", "")


def test_lines_without_a_terminal(handlers, capsys):
    """Log lines go to standard output, warnings to standard error; no bar is drawn."""
    bar = ProgressBar(2, 10, is_shown=True)
    logger.info("one")
    logger.warning("two")
    warnings.warn("three", DistbpWarning, stacklevel=1)
    assert not bar.wants_step()
    bar.close()
    captured = capsys.readouterr()
    assert captured.out == "one\n"
    assert captured.err == "distbp: warning: two\ndistbp: warning: three\n"


def test_warnings_of_others_are_shown_as_before(monkeypatch, request, capsys):
    """Warnings of other packages are left to the previous `showwarning`."""
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *warning: shown.append(warning[:2]))
    request.getfixturevalue("handlers")
    warnings.simplefilter("always")
    warnings.warn("somebody else's", UserWarning, stacklevel=1)
    assert [(str(text), category) for text, category in shown] == [("somebody else's", UserWarning)]
    assert capsys.readouterr() == ("", "")


def test_handlers_are_installed_once(handlers, capsys):
    """A second call neither prints twice nor changes the handler."""
    assert install_handlers() is handlers
    logger.info("one")
    assert capsys.readouterr().out == "one\n"


def test_output_to_a_full_disk_is_discarded():
    """The first error is kept; writing goes on without raising."""
    file = _ProtectedFile(os.open("/dev/full", os.O_WRONLY), "w")
    assert [file.write(b"three"), file.write(b"more")] == [5, 4]
    assert file.error.errno == errno.ENOSPC
    file.close()


def test_a_closed_pipe_is_no_error(monkeypatch):
    """Its reader has read enough; other write errors are returned."""
    for number, expected in ((errno.EPIPE, None), (errno.ENOSPC, errno.ENOSPC)):
        raw = _ProtectedFile(os.open(os.devnull, os.O_WRONLY), "w")
        raw.error = OSError(number, "")
        with io.TextIOWrapper(io.BufferedWriter(raw)) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert getattr(output_error(), "errno", None) == expected
            monkeypatch.undo()


def test_bar_on_a_terminal(terminal, handlers, monkeypatch, capsys):
    """A bar shows epoch, numbers and progress; lines above it stay intact."""
    master, slave = terminal
    monkeypatch.setattr("distbp.terminal._find_launcher", lambda pid: None)
    monkeypatch.setattr("distbp.console._REFRESH_INTERVAL_S", 0.0)
    with os.fdopen(os.dup(slave), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        bar = ProgressBar(2, 10, is_shown=True)
        assert bar.wants_step()
        bar.step(1, 5, "cost 0.1234")
        logger.info("one")
        logger.warning("two")
        bar.close()
    text = text_on(master)
    assert "epoch 2/2" in text
    assert "cost 0.1234" in text
    assert "75%" in text
    assert "distbp: warning: two" in text
    assert capsys.readouterr().out == "one\n"
