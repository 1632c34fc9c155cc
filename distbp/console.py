"""What a person sees of a run, and where: written by rank 0 alone.

On a terminal a live bar with cost, accuracy, samples a second and the time left;
everywhere a plain line an epoch. Launchers stand between a rank and the terminal:
under MPICH no rank sees one, under Open MPI every rank is shown one on standard
output that may not be there. So the launcher's own files are asked.
"""

import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


def steady_streams() -> None:
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


def lost_output() -> OSError | None:
    """Return why standard output could not be written; who has closed a pipe wants no more."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, Stream) else None
    return None if isinstance(failure, BrokenPipeError) else failure


class Display:
    """Shows a run.

    Parameters
    ----------
    is_shown : bool
        False on all ranks but one, and with --quiet.
    epochs, steps : int
        Of the whole run, and of an epoch.
    """

    def __init__(self, is_shown: bool, epochs: int, steps: int) -> None:
        self.is_shown = is_shown
        self.epochs, self.steps = epochs, steps
        self._bar: Any = None
        self._task: Any = None
        self._next = time.monotonic() + REFRESH_INTERVAL_S
        stdout, self._width = terminal_widths() if is_shown else (0, 0)
        self._has_lines_on_terminal = stdout > 0

    def _start_bar(self) -> None:
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

    def line(self, text: str) -> None:
        """Show a line."""
        if not self.is_shown:
            return
        if self._bar and self._has_lines_on_terminal:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Show a warning, also where nothing else is shown."""
        if self._bar:
            self._bar.console.print(f"distbp: warning: {text}", highlight=False, markup=False)
        else:
            warn(text)

    def wants_step(self) -> bool:
        """Return whether it is time to draw the bar again."""
        return self._width > 0 and time.monotonic() >= self._next

    def step(self, epoch: int, step: int, numbers: str) -> None:
        """Draw the bar: `step` steps of epoch number `epoch`, from 0, are done."""
        self._next = time.monotonic() + REFRESH_INTERVAL_S
        if self._bar is None:
            self._start_bar()
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


def warn(text: str) -> None:
    """Write a warning where there is no bar."""
    sys.stderr.write(f"distbp: warning: {text}\n")
    sys.stderr.flush()


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
