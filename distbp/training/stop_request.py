"""Requests to stop a run before its end: a signal, or a time limit.

A `StopRequest` only records that this rank was asked to stop. The rank passes that on with its
next step (see `parallel.reduction`), so that all ranks stop after the same step, with a checkpoint.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SLURM_END_VARIABLE = "SLURM_JOB_END_TIME"  # in seconds since 1970
_SLURM_MARGIN_S = 60.0  # to save and exit before the end of a SLURM job


def install_signal_handlers(
    handler: Callable[[int, Any], None],
) -> dict[signal.Signals, Any]:
    """Install `handler` for _SIGNALS; return the handlers that were there before.

    An ignored signal stays ignored: a shell's `&` wants that for Ctrl-C, nohup for SIGHUP.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    replaced = {n: previous for n, previous in before.items() if previous != signal.SIG_IGN}
    for number in replaced:
        signal.signal(number, handler)
    return replaced


def restore_signal_handlers(before: Mapping[signal.Signals, Any]) -> None:
    """Undo `install_signal_handlers`, given what it returned."""
    for number, handler in before.items():
        signal.signal(number, handler)


class StopRequest:
    """Records signals, and the end of the time limit, while used as a context manager.

    Parameters
    ----------
    time_limit : float, optional
        Seconds from now.
    environment : mapping
        Where SLURM may have put the end of the job.
    catches_signals : bool
        Whether signals are requests, too.

    Attributes
    ----------
    reason : str
        Why to stop; empty if there is no reason.
    """

    def __init__(
        self,
        time_limit: float | None = None,
        environment: Mapping[str, str] = os.environ,
        catches_signals: bool = True,
    ) -> None:
        self.reason, self._catches_signals = "", catches_signals
        now, limits = time.monotonic(), []
        if time_limit is not None:
            limits.append((now + time_limit, "its --time-limit"))
        if environment.get(_SLURM_END_VARIABLE, "").isdecimal():
            left = int(environment[_SLURM_END_VARIABLE]) - time.time() - _SLURM_MARGIN_S
            # A job past its end would stop after every step: saving is all that it can do.
            if left > 0:
                limits.append((now + left, "the end of its SLURM job"))
        self._deadline, self._limit = min(limits, default=(float("inf"), ""))
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread install signal handlers.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and self._catches_signals:
            self._before = install_signal_handlers(self._record)
        return self

    def __exit__(self, *error: object) -> None:
        restore_signal_handlers(self._before)

    def _record(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:  # a second Ctrl-C interrupts at once
            signal.signal(number, self._before[signal.SIGINT])

    def is_pending(self) -> bool:
        """Return whether this rank was asked to stop."""
        if not self.reason and time.monotonic() >= self._deadline:
            self.reason = self._limit
        return bool(self.reason)
