"""Train on ranks that are started here, and again when they end before their time.

A `Supervisor` is one or more launches of the same training. A launch has ended well when a
rank said so, never because of the launcher's exit status. After any other end nothing
of it is left, and the next one goes on from the newest checkpoint; unless the ranks
have refused, or the job was asked to stop, or too many launches in a row came no
further than the ones before.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distbp.errors import StoppedError
from distbp.launch.mpiexec import POLL_INTERVAL_S, Launch, Requests
from distbp.parallel import environment
from distbp.parallel.environment import init_timeout
from distbp.storage.checkpoint import read_checkpoint
from distbp.storage.run_directory import find_checkpoint, list_checkpoints

LAUNCHER_EXIT_TIMEOUT_S = (
    10.0  # seconds for a launcher to end when its ranks have said how they ended
)
STOP_TIMEOUT_S = 60.0  # seconds for the ranks to save when they are asked to stop


@dataclass(frozen=True)
class Attempt:
    """A launch that has ended before its time.

    Attributes
    ----------
    seconds : float
    end : str
        How it ended.
    steps : int or None
        Of the newest checkpoint there was then.
    """

    seconds: float
    end: str
    steps: int | None


class Supervisor:
    """A training that is started until it is done.

    Parameters
    ----------
    ranks : int
    restarts : int
        How many launches in a row may follow one without getting further.
    folder : str
        The run's directory.
    first, again : sequence of str
        The arguments without and with a checkpoint in it.
    """

    def __init__(
        self, ranks: int, restarts: int, folder: str, first: Sequence[str], again: Sequence[str]
    ) -> None:
        self.ranks, self.restarts, self.folder = ranks, restarts, folder
        self.first, self.again = first, again
        self.init_timeout = init_timeout()
        self.steps = newest(folder) if restarts else None  # of the newest checkpoint
        self.furthest = self.steps or 0
        self.restarts_without_progress = 0  # restarts since a launch got further
        self.attempts: list[Attempt] = []

    def run(self) -> int:
        """Return the exit status.

        Raises
        ------
        CheckpointError
            The run has checkpoints, but none that can be read.
        """
        with Requests() as requests:
            while True:
                launch, end = self._launch(requests)
                if launch.outcome and (launch.outcome != environment.FAILED or not self.restarts):
                    return launch.status
                self._note(time.monotonic() - launch.began, launch.text.rstrip(".") or end)
                if requests:
                    say(f"asked to stop: {self.attempts[-1].end}. {self._way_on()}")
                    return StoppedError.status
                if self.restarts_without_progress == self.restarts:
                    say(self._summary())
                    return 1
                self.restarts_without_progress += 1
                self._announce()

    def _launch(self, requests: Requests) -> tuple[Launch, str]:
        """Return a launch of which nothing is left, and how it was seen to end."""
        arguments = self.first if self.steps is None else self.again
        with Launch(self.ranks, arguments, self.restarts > 0) as launch:
            return launch, self._follow(launch, requests)

    def _note(self, seconds: float, end: str) -> None:
        """Write down a launch that has ended before its time."""
        self.steps = newest(self.folder)
        self.attempts.append(Attempt(seconds, end, self.steps))
        if (self.steps or 0) > self.furthest:
            self.furthest, self.restarts_without_progress = self.steps or 0, 0

    def _follow(self, launch: Launch, requests: Requests) -> str:
        """Wait for the end of a launch, as long as is sensible; return how it ended."""
        while (status := launch.wait(POLL_INTERVAL_S)) is None:
            until, why = self._patience(launch, requests)
            if time.monotonic() > until:
                return why
        return f"the launcher ended with status {status}, but no rank said that training is done"

    def _patience(self, launch: Launch, requests: Requests) -> tuple[float, str]:
        """Return until when to wait for a launch, and what to say then."""
        if launch.end_said_at is not None:
            return launch.end_said_at + LAUNCHER_EXIT_TIMEOUT_S, "the launcher did not end"
        if requests.forced:
            return 0.0, "ended at once"
        if requests:
            return self._stop(launch, requests)
        if not launch.has_started:
            why = f"the ranks did not find each other within {self.init_timeout:g} s"
            return launch.began + self.init_timeout, why
        return math.inf, ""

    def _stop(self, launch: Launch, requests: Requests) -> tuple[float, str]:
        """Ask the ranks to stop; return until when to wait for it, and what to say then."""
        if launch.ask_to_stop():
            return (
                requests.since + STOP_TIMEOUT_S,
                f"the ranks did not stop within {STOP_TIMEOUT_S:g} s",
            )
        return 0.0, "the ranks had not begun to train"

    # What a person reads.

    def _announce(self) -> None:
        last = self.attempts[-1]
        place = "from the beginning" if self.steps is None else f"from step {self.steps:,}"
        say(
            f"start {len(self.attempts)} ended after {last.seconds:.1f} s: {last.end}. "
            f"Starting again {place} (restart {self.restarts_without_progress} of {self.restarts})."
        )

    def _summary(self) -> str:
        """Return what has happened, launch by launch, and what can be done."""
        if len(self.attempts) == 1:
            return f"{self.attempts[0].end}. {self._way_on()}"
        lines = [f"given up: {self.restarts} restarts in a row came no further."]
        for number, attempt in enumerate(self.attempts, 1):
            place = "no checkpoint" if attempt.steps is None else f"step {attempt.steps:,}"
            lines.append(f"  start {number}: {attempt.seconds:.1f} s, {place}; {attempt.end}")
        return "\n".join([*lines, f"  {self._way_on()}"])

    def _way_on(self) -> str:
        if self.steps is None:
            return "There is no checkpoint yet: the same command begins again."
        return f"distbp train --resume {self.folder} goes on from step {self.steps:,}."


def newest(folder: str) -> int | None:
    """Return the steps of a run's newest checkpoint, or None if it has none.

    Raises
    ------
    CheckpointError
        It has some, but none that can be read.
    """
    if not list_checkpoints(Path(folder)):
        return None
    return int(read_checkpoint(find_checkpoint(folder)).about["progress"]["steps"])


def say(text: str) -> None:
    """Write to standard error, where the launcher writes too."""
    sys.stderr.write(f"distbp: {text}\n")
    sys.stderr.flush()
