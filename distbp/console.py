"""Output for a user: log lines, warnings and a progress bar.

The modules of distbp report with `logging` (the logger "distbp") and `warnings`, so that
distbp prints nothing when it is used as a library. `install_handlers` prints both, as the
command line does, and a `ProgressBar` draws only then. `protect_streams` keeps a write
error on standard output or error, such as a full disk or a closed pipe, from ending a run;
a program that uses the library may not have called it, so `write_stderr` ignores such errors.
"""

import io
import logging
import os
import select
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from distbp.errors import DistbpWarning
from distbp.terminal import terminal_widths

_STDOUT, _STDERR = 1, 2  # file descriptors
_REFRESH_INTERVAL_S = 0.1  # drawing more often would cost steps, and nobody would see it


class _ProtectedFile(io.FileIO):
    """Standard output or error; after the first write error, output is discarded.

    Attributes
    ----------
    error : OSError or None
        The first write error.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write `data`, or discard it after an error; return the number of its bytes."""
        if self.error is None:
            try:
                # None: the launcher has made the pipe non-blocking, and it is full.
                while (written := super().write(data)) is None:
                    select.select([], [self], [])
                return written
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def protect_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams that raise no error when they are written.

    Neither if they are closed or full, nor for characters that their encoding lacks.
    """
    # Occupy closed descriptors 0 to 2: otherwise the next file to be opened, such as a
    # checkpoint, would get one of them, and log lines would be written into it.
    while (null := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(null)
    for descriptor, name in ((_STDOUT, "stdout"), (_STDERR, "stderr")):
        before = getattr(sys, name)
        if before is getattr(sys, f"__{name}__"):  # otherwise a caller has replaced it: leave it
            buffer = io.BufferedWriter(_ProtectedFile(descriptor, "w", closefd=False))
            encoding = before.encoding if before else "utf-8"
            stream = io.TextIOWrapper(buffer, encoding, errors="replace", line_buffering=True)
            setattr(sys, name, stream)


def write_stderr(text: str) -> None:
    """Write to standard error, or do nothing: for what must not keep all ranks from ending."""
    with suppress(OSError, ValueError, AttributeError):  # full, closed, None
        sys.stderr.write(text)
    flush_streams()


def flush_streams() -> None:
    """Flush standard output and error as far as that is possible."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def output_error() -> OSError | None:
    """Return the first write error on standard output, if it was not a closed pipe.

    A reader such as `head` closes a pipe when it has read enough: that is no error.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, _ProtectedFile) else None
    return None if isinstance(error, BrokenPipeError) else error


class ConsoleHandler(logging.Handler):
    """Prints log records: up to INFO on standard output, warnings on standard error.

    Attributes
    ----------
    bar : ProgressBar or None
        The bar that is on the screen now; lines are printed above it.
    """

    bar: "ProgressBar | None" = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record."""
        if record.levelno >= logging.WARNING:
            self._write(sys.stderr, f"distbp: warning: {record.getMessage()}", True)
        else:
            self._write(sys.stdout, record.getMessage(), False)

    def _write(self, stream: TextIO, text: str, is_warning: bool) -> None:
        if self.bar and self.bar.shares_terminal(is_warning):
            self.bar.print(text)
        else:
            stream.write(text + "\n")
            stream.flush()


def install_handlers() -> ConsoleHandler:
    """Print log records and warnings of distbp, as the command line does.

    Does nothing the second time.

    Returns
    -------
    ConsoleHandler
        The handler of the logger "distbp".
    """
    handler = _console_handler()
    if handler is not None:
        return handler
    logger, handler = logging.getLogger("distbp"), ConsoleHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    show = warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, DistbpWarning):
            # Without the line of code: the message is for the user of the command line.
            logger.warning("%s", message)
        else:
            show(message, category, *where)

    warnings.showwarning = show_warning  # type: ignore[assignment]
    warnings.simplefilter("always", DistbpWarning)
    return handler


def _console_handler() -> ConsoleHandler | None:
    """Return the handler that `install_handlers` has installed, or None."""
    handlers = logging.getLogger("distbp").handlers
    return next((one for one in handlers if isinstance(one, ConsoleHandler)), None)


class ProgressBar:
    """The progress bar of a run on a terminal.

    Draws nothing unless `install_handlers` was called and standard error ends on a terminal.

    Parameters
    ----------
    epochs : int
        Of the run.
    steps : int
        Of an epoch.
    is_shown : bool
        False on all ranks but one, and with --quiet.
    """

    def __init__(self, epochs: int, steps: int, is_shown: bool) -> None:
        self.epochs, self.steps = epochs, steps
        self._handler = _console_handler() if is_shown else None
        self._bar: Any = None
        self._task: Any = None
        self._next_refresh = time.monotonic() + _REFRESH_INTERVAL_S
        stdout, self._width = terminal_widths() if self._handler else (0, 0)
        self._has_lines_on_terminal = stdout > 0

    def _start(self) -> None:
        # Imported only where a bar is drawn: it takes as long as a short run.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(file=sys.stderr, force_terminal=True, width=self._width)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=self.epochs * self.steps, now="")
        self._bar.start()
        if self._handler:
            self._handler.bar = self

    def shares_terminal(self, is_warning: bool) -> bool:
        """Return whether a line goes to the terminal of the bar: standard error's.

        Standard output may be redirected to a file.
        """
        return is_warning or self._has_lines_on_terminal

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def wants_step(self) -> bool:
        """Return whether the bar is due to be drawn again."""
        return self._width > 0 and time.monotonic() >= self._next_refresh

    def step(self, epoch: int, step: int, numbers: str) -> None:
        """Draw the bar with `step` steps of epoch `epoch` (from 0) done, followed by `numbers`."""
        self._next_refresh = time.monotonic() + _REFRESH_INTERVAL_S
        if self._bar is None:
            self._start()
        self._bar.update(
            self._task,
            completed=epoch * self.steps + step,
            description=f"epoch {epoch + 1}/{self.epochs}",
            now=numbers,
        )
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar:
            self._bar.stop()
            self._bar = None
        if self._handler and self._handler.bar is self:
            self._handler.bar = None


@contextmanager
def file_progress(what: str, is_shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function of (done, total) that draws a bar, or None without a terminal."""
    if not (is_shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
