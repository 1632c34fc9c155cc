"""What a person sees of a run: lines, warnings and a progress bar.

distbp reports by `logging`, under the name "distbp", and warns by `warnings`, and so
prints nothing by itself where it is used as a library. `install_handlers` makes both
visible, as the command line does. Standard output and error may be closed, full, or
not there at all; neither ends a run.
"""

import io
import logging
import os
import select
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from distbp.errors import DistbpWarning
from distbp.terminal import terminal_widths

REFRESH_INTERVAL_S = 0.1  # seconds


class Stream(io.FileIO):
    """Standard output or error, whose failures end nothing: the first is kept, the rest dropped."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write `data`, unless something has failed before."""
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:  # a pipe that does not block
                    select.select([], [self], [])
                return written
            except OSError as failure:
                self.failure = failure
        return memoryview(data).nbytes


def protect_streams() -> None:
    """Let standard output and error end nothing: closed, full, gone, or without a letter for θ."""
    # A file that is opened later must not become one of them.
    while (null := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(null)
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is getattr(sys, f"__{name}__"):  # otherwise it is somebody's own
            buffer = io.BufferedWriter(Stream(number, "w", closefd=False))
            encoding = before.encoding if before else "utf-8"
            steady = io.TextIOWrapper(buffer, encoding, errors="replace", line_buffering=True)
            setattr(sys, name, steady)


def output_error() -> OSError | None:
    """Return why standard output could not be written; who has closed a pipe wants no more."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, Stream) else None
    return None if isinstance(failure, BrokenPipeError) else failure


class ConsoleHandler(logging.Handler):
    """Prints log records: information on standard output, warnings on standard error.

    Attributes
    ----------
    bar : ProgressBar or None
        The one that is on the screen now, above which lines are printed.
    """

    bar: "ProgressBar | None" = None

    def emit(self, record: logging.LogRecord) -> None:
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
    """Print what distbp logs and warns of, as its command line does; once a process."""
    logger = logging.getLogger("distbp")
    handler = console_handler()
    if handler is None:
        handler = ConsoleHandler()
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    show = warnings.showwarning

    def show_ours(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, DistbpWarning):
            logger.warning("%s", message)
        else:
            show(message, category, *where)

    warnings.showwarning = show_ours  # type: ignore[assignment]
    warnings.simplefilter("always", DistbpWarning)
    return handler


def console_handler() -> ConsoleHandler | None:
    """Return the handler that `install_handlers` has installed, if it has."""
    handlers = logging.getLogger("distbp").handlers
    return next((one for one in handlers if isinstance(one, ConsoleHandler)), None)


class ProgressBar:
    """The bar of a run on a terminal; draws nothing unless handlers print there.

    Parameters
    ----------
    epochs, steps : int
        Of the whole run, and of an epoch.
    is_shown : bool
        False on all ranks but one, and with --quiet.
    """

    def __init__(self, epochs: int, steps: int, is_shown: bool) -> None:
        self.epochs, self.steps = epochs, steps
        self._handler = console_handler() if is_shown else None
        self._bar: Any = None
        self._task: Any = None
        self._next = time.monotonic() + REFRESH_INTERVAL_S
        stdout, self._width = terminal_widths() if self._handler else (0, 0)
        self._has_lines_on_terminal = stdout > 0

    def _start(self) -> None:
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
        """Return whether a line on standard output, or a warning, lands where the bar is."""
        return is_warning or self._has_lines_on_terminal

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def wants_step(self) -> bool:
        """Return whether it is time to draw the bar again."""
        return self._width > 0 and time.monotonic() >= self._next

    def step(self, epoch: int, step: int, numbers: str) -> None:
        """Draw the bar: `step` steps of epoch number `epoch`, from 0, are done."""
        self._next = time.monotonic() + REFRESH_INTERVAL_S
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
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None
        if self._handler and self._handler.bar is self:
            self._handler.bar = None


@contextmanager
def file_progress(what: str, is_shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function of (done, total) that draws a bar, or None where nobody would see it."""
    if not (is_shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
