"""What may ask a run to stop before its end: a signal, or the time.

A rank only takes note here, and requests to stop with its next step (see `combine`): so
all ranks stop after the same one, with a checkpoint, and the run can go on from there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SLURM_END = "SLURM_JOB_END_TIME"  # seconds since 1970
MARGIN = 60.0  # seconds before the end of a SLURM job, to save and to leave


def take_signals(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Let `handler` have all SIGNALS but those that are ignored; return who had them before.

    What is ignored stays so: a shell's `&` wants it of Ctrl-C, nohup when a terminal is closed.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {n: previous for n, previous in before.items() if previous != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, handler)
    return taken


def give_back(before: Mapping[signal.Signals, Any]) -> None:
    """Let those have the signals again that had them before."""
    for number, handler in before.items():
        signal.signal(number, handler)


class StopRequest:
    """Takes note of signals and of the time, between `with` and its end.

    Parameters
    ----------
    time_limit : float, optional
        Seconds from now on.
    environment : mapping
        In which SLURM may say when the job ends.

    Attributes
    ----------
    reason : str
        Why to stop; empty while there is no reason.
    """

    def __init__(
        self, time_limit: float | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.reason = ""
        now, limits = time.monotonic(), []
        if time_limit is not None:
            limits.append((now + time_limit, "its --time-limit"))
        if environment.get(SLURM_END, "").isdecimal():
            left = int(environment[SLURM_END]) - time.time() - MARGIN
            if left > 0:  # what is over already has to be saved as often as it can be
                limits.append((now + left, "the end of its SLURM job"))
        self._until, self._limit = min(limits, default=(float("inf"), ""))
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets no other thread handle signals.
        if threading.current_thread() is threading.main_thread():
            self._before = take_signals(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        give_back(self._before)

    def _note(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:  # who types Ctrl-C once more does not want to wait
            signal.signal(number, self._before[signal.SIGINT])

    def is_wanted(self) -> bool:
        """Return whether this rank has a reason to stop."""
        if not self.reason and time.monotonic() >= self._until:
            self.reason = self._limit
        return bool(self.reason)
