"""Restart a training that fails, from its newest checkpoint.

A `Supervisor` is a sequence of launches of the same training. Whether a launch has succeeded
is read from the completion file that its ranks write, never from the launcher's exit status.
After a failure all its processes are killed before the next launch resumes from the newest
checkpoint. There is no next launch after an error that a restart cannot fix, after a stop
request, and after too many restarts in a row without progress. Progress is a newer checkpoint;
what is in it is not known here. An exception that a rank has raised by itself is most often
a defect: unless the user has asked for restarts, only ranks that die or hang are started again.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distbp.errors import StoppedError
from distbp.launch.mpiexec import POLL_INTERVAL_S, MpiLaunch, StopSignals
from distbp.parallel.environment import LaunchEnvironment, Outcome
from distbp.parallel.host import process_state
from distbp.storage.checkpoint import read_progress_unverified
from distbp.storage.run_directory import find_checkpoint, list_checkpoints

_LAUNCHER_EXIT_TIMEOUT_S = 10.0  # for the launcher to exit after the ranks have reported an outcome
_STOP_TIMEOUT_S = 60.0  # for the ranks to save a checkpoint and stop
# How long the ranks of one machine may take to connect, after the first of them has been started:
# it takes them about a second. A multiple of what has been measured, for a machine may be slow.
_INIT_TIMEOUT_FACTOR = 10
_MIN_INIT_TIMEOUT_S, _MIN_FIRST_INIT_TIMEOUT_S = 10.0, 20.0


@dataclass(frozen=True)
class FailedLaunch:
    """A launch that ended before training had finished.

    Attributes
    ----------
    seconds : float
        How long it ran.
    reason : str
        Why it ended, without a full stop.
    step : int or None
        Of the newest checkpoint at that time.
    """

    seconds: float
    reason: str
    step: int | None


class Supervisor:
    """A training that is launched until it has finished.

    Parameters
    ----------
    ranks : int
    max_restarts : int
        How many restarts in a row may end without progress. With 0, no rank outlives the loss of
        another one either.
    folder : str
        The run's directory.
    start_arguments, resume_arguments : sequence of str
        The arguments of `distbp` as long as the directory has no checkpoint, and afterwards.
    retries_exceptions : bool
        Whether to restart ranks that have raised an exception, too.

    Attributes
    ----------
    restarts_without_progress : int
        Restarts since the last launch that got further than all before it.

    Raises
    ------
    ConfigError
        The environment does not have a valid time limit for the start of the ranks.
    CheckpointError
        The run has checkpoints, but none that can be read.
    """

    def __init__(
        self,
        ranks: int,
        max_restarts: int,
        folder: str,
        start_arguments: Sequence[str],
        resume_arguments: Sequence[str],
        retries_exceptions: bool = True,
    ) -> None:
        self._retries_exceptions = retries_exceptions
        self.ranks, self.max_restarts, self.folder = ranks, max_restarts, folder
        self.start_arguments, self.resume_arguments = start_arguments, resume_arguments
        environ = LaunchEnvironment.from_environ()
        self.init_timeout = environ.init_timeout
        self._is_init_timeout_given = environ.init_timeout_text is not None
        self._init_s: float | None = None  # that the ranks of a launch took to connect
        self._first_arrival_s: float | None = None
        self.step = _newest_step(folder) if max_restarts else None  # of the newest checkpoint
        # Not the same: a damaged checkpoint sets a run back to an older one.
        self.furthest_step = self.step or 0
        self.restarts_without_progress = 0
        self.failures: list[FailedLaunch] = []

    def run(self) -> int:
        """Launch the training until it has finished; return the exit status.

        Raises
        ------
        CheckpointError
            The run has checkpoints, but none that can be read.
        LaunchError
            There is no MPI, or no launcher that belongs to it, or a rank cannot be killed.
        """
        with StopSignals() as signals:
            while True:
                launch, reason = self._run_once(signals)
                if launch.outcome not in ("", Outcome.FAILED):
                    return launch.status
                seconds = time.monotonic() - launch.started_at
                self._record_failure(seconds, launch.message.rstrip(".") or reason)
                last = self.failures[-1].reason
                if signals:
                    _print_message(f"stop requested: {last}. {self._resume_hint()}")
                    return StoppedError.status
                if launch.outcome and not self._retries_exceptions:
                    _print_message(f"{last}. {self._resume_hint()}")
                    return 1
                if self.restarts_without_progress == self.max_restarts:
                    _print_message(self._failure_report())
                    return 1
                self.restarts_without_progress += 1
                _print_message(self._restart_message())

    def _run_once(self, signals: StopSignals) -> tuple[MpiLaunch, str]:
        """Run one launch; return it, with no process left of it, and why it ended."""
        arguments = self.start_arguments if self.step is None else self.resume_arguments
        self._first_arrival_s = None
        with MpiLaunch(self.ranks, arguments, self.max_restarts > 0) as launch:
            return launch, self._wait(launch, signals)

    def _record_failure(self, seconds: float, reason: str) -> None:
        self.step = _newest_step(self.folder)
        self.failures.append(FailedLaunch(seconds, reason, self.step))
        if (self.step or 0) > self.furthest_step:
            self.furthest_step, self.restarts_without_progress = self.step or 0, 0

    def _wait(self, launch: MpiLaunch, signals: StopSignals) -> str:
        """Wait until a launch ends or exceeds a time limit; return which of them."""
        while (status := launch.wait(POLL_INTERVAL_S)) is None:
            deadline, reason = self._deadline(launch, signals)
            if time.monotonic() > deadline:
                return reason
        return (
            f"the launcher exited with status {status} before any rank reported that training "
            f"had finished"
        )

    def _deadline(self, launch: MpiLaunch, signals: StopSignals) -> tuple[float, str]:
        """Return until when to wait for a launch, by time.monotonic, and the reason for that."""
        if launch.outcome_at is not None:
            deadline = launch.outcome_at + _LAUNCHER_EXIT_TIMEOUT_S
            return deadline, f"the launcher did not exit within {_LAUNCHER_EXIT_TIMEOUT_S:g} s"
        if signals.forced:
            return 0.0, "killed by a second signal, without a checkpoint"
        if signals:
            return self._stop_deadline(launch, signals)
        # Training has no time limit, but MPI_Init may block for ever if a rank dies in it.
        if not launch.has_started:
            return self._init_deadline(launch)
        if self._init_s is None:
            self._init_s = time.monotonic() - launch.started_at
        return math.inf, ""

    def _init_deadline(self, launch: MpiLaunch) -> tuple[float, str]:
        """Return until when to wait for the ranks to connect, and the reason for that."""
        arrivals, limit = launch.arrivals(), float(self.init_timeout)
        if arrivals and self._first_arrival_s is None:
            self._first_arrival_s = time.monotonic() - launch.started_at
        if not self._is_init_timeout_given:
            if self._init_s is not None:
                limit = min(limit, max(_INIT_TIMEOUT_FACTOR * self._init_s, _MIN_INIT_TIMEOUT_S))
            elif self._first_arrival_s is not None:
                usual = _INIT_TIMEOUT_FACTOR * self._first_arrival_s
                limit = min(limit, max(usual, _MIN_FIRST_INIT_TIMEOUT_S))
        late = ", ".join(f"rank {rank}" for rank in self._late_ranks(arrivals)) or "the ranks"
        return launch.started_at + limit, f"{late} did not connect within {limit:.0f} s"

    def _late_ranks(self, arrivals: dict[int, int]) -> list[int]:
        """Return the ranks that have not begun to connect, or those that were stopped since."""
        missing = [rank for rank in range(self.ranks) if rank not in arrivals]
        if not arrivals:
            return []
        return missing or [
            rank for rank, pid in arrivals.items() if process_state(pid) == "stopped"
        ]

    def _stop_deadline(self, launch: MpiLaunch, signals: StopSignals) -> tuple[float, str]:
        """Request a stop; return until when to wait for it, and the reason for that."""
        if launch.request_stop():
            deadline = signals.first_at + _STOP_TIMEOUT_S
            return deadline, f"the ranks did not stop within {_STOP_TIMEOUT_S:g} s"
        return 0.0, "the ranks had not started to train"

    # Messages

    def _restart_message(self) -> str:
        last = self.failures[-1]
        start = "from the beginning" if self.step is None else f"from step {self.step:,}"
        return (
            f"launch {len(self.failures)} ended after {last.seconds:.1f} s: {last.reason}. "
            f"Restarting {start} (restart {self.restarts_without_progress} of {self.max_restarts})."
        )

    def _failure_report(self) -> str:
        """Return what happened, one line a launch, and how to continue."""
        if len(self.failures) == 1:
            return f"{self.failures[0].reason}. {self._resume_hint()}"
        count = self.max_restarts
        lines = [f"giving up after {count} restart{'s' * (count != 1)} without progress."]
        for number, failure in enumerate(self.failures, 1):
            step = "no checkpoint" if failure.step is None else f"step {failure.step:,}"
            lines.append(f"  launch {number}: {failure.seconds:.1f} s, {step}; {failure.reason}")
        return "\n".join([*lines, f"  {self._resume_hint()}"])

    def _resume_hint(self) -> str:
        if self.step is None:
            return "There is no checkpoint yet: the same command starts from the beginning."
        return f"distbp train --resume {self.folder} continues from step {self.step:,}."


def _newest_step(folder: str) -> int | None:
    """Return the step of a run's newest checkpoint, or None if it has none.

    Raises
    ------
    CheckpointError
        It has checkpoints, but none that can be read.
    """
    if not list_checkpoints(Path(folder)):
        return None
    return int(read_progress_unverified(find_checkpoint(folder))["steps"])


def _print_message(text: str) -> None:
    # Not by logging, whose information goes to standard output: under --quiet too, a user has
    # to learn that ranks were restarted, in order with what the ranks write on standard error.
    sys.stderr.write(f"distbp: {text}\n")
    sys.stderr.flush()
