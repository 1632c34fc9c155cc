"""What a person sees: lines always, a bar on a terminal, and where the terminal is."""

import fcntl
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

from distbp.console import ProgressBar
from distbp.errors import DistbpWarning
from distbp.terminal import launcher_above, terminal_columns

logger = logging.getLogger("distbp.console")


@pytest.fixture
def terminal():
    """Return the two ends, (what a person sees, what a program has), of 90 columns."""
    seen, had = pty.openpty()
    fcntl.ioctl(had, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    yield seen, had
    os.close(seen)
    os.close(had)


def shown(seen):
    """Return what was written on a terminal so far."""
    os.set_blocking(seen, False)
    text = b""
    with suppress(BlockingIOError):
        while part := os.read(seen, 10_000):
            text += part
    return text.decode()


def test_width_of_a_process_terminal(terminal, tmp_path):
    """It is asked of the process's own file; a file or nothing has none."""
    _, had = terminal
    assert terminal_columns(os.getpid(), had) == 90
    with (tmp_path / "f").open("w") as file:
        assert terminal_columns(os.getpid(), file.fileno()) == 0
    assert terminal_columns(os.getpid(), 987) == 0


def test_launcher_above(tmp_path):
    """The launcher that started a process is found by its name, some parents up."""
    launcher = tmp_path / "mpirun.local"
    launcher.symlink_to(sys.executable)
    child = [
        sys.executable,
        "-c",
        "import os; from distbp.terminal import launcher_above; print(launcher_above(os.getpid()))",
    ]
    start = f"import os, subprocess; print(os.getpid(), flush=True); subprocess.run({child!r})"
    out = subprocess.run([launcher, "-c", start], capture_output=True, text=True, check=True).stdout
    number, found = out.split()
    assert found == number


def test_no_launcher_above():
    """The first process of the machine was started by none."""
    assert launcher_above(1) is None


def test_nothing_is_printed_by_itself(capsys):
    """A library logs; who uses it decides what is shown."""
    logger.info("one")
    bar = ProgressBar(2, 10, is_shown=True)
    assert not bar.wants_step()
    assert capsys.readouterr() == ("", "")


def test_lines_without_a_terminal(handlers, capsys):
    """Lines go to standard output, warnings to standard error; there is no bar."""
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
    """Only distbp's own lose the line of code that they come from."""
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *warning: shown.append(warning[:2]))
    request.getfixturevalue("handlers")
    warnings.simplefilter("always")
    warnings.warn("somebody else's", UserWarning, stacklevel=1)
    assert [(str(text), category) for text, category in shown] == [("somebody else's", UserWarning)]
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(terminal, handlers, monkeypatch, capsys):
    """On a terminal there is a bar with epoch, numbers and the share done; lines stay whole."""
    seen, had = terminal
    monkeypatch.setattr("distbp.terminal.launcher_above", lambda pid: None)
    monkeypatch.setattr("distbp.console.REFRESH_INTERVAL_S", 0.0)
    with os.fdopen(os.dup(had), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        bar = ProgressBar(2, 10, is_shown=True)
        assert bar.wants_step()
        bar.step(1, 5, "cost 0.1234")
        logger.info("one")
        logger.warning("two")
        bar.close()
    text = shown(seen)
    assert "epoch 2/2" in text
    assert "cost 0.1234" in text
    assert "75%" in text
    assert "distbp: warning: two" in text
    assert capsys.readouterr().out == "one\n"
