"""When a checkpoint is due: after so many epochs, steps or seconds.

Ranks decide together only by what they all know: counts of epochs and steps. Their clocks
differ, so time counts on one of them alone, which requests the checkpoint with its next step.
What is saved, and where, is not known here.
"""

import math
import sys
import time

_BEST_INTERVAL_S = 1.0  # where epochs are short, writing each new best would take most of the time


class CheckpointSchedule:
    """Decide when to save.

    Parameters
    ----------
    every : int
    unit : str
        'epoch', 'step' or 's'.
    has_clock : bool
        Whether this is the rank that requests checkpoints by time.
    """

    def __init__(self, every: int, unit: str, has_clock: bool) -> None:
        self._epochs = every if unit == "epoch" else 0
        self._steps = every if unit == "step" else 0
        self._seconds = every if unit == "s" and has_clock else 0
        self._saved_at = time.monotonic()
        self._best_at = -math.inf

    def is_due_after_epoch(self, epochs: int) -> bool:
        """Return whether a checkpoint is due when so many epochs are completed."""
        return self._epochs > 0 and epochs % self._epochs == 0

    def is_due_after_step(self, updates: int) -> bool:
        """Return whether a checkpoint is due after so many updates."""
        return self._steps > 0 and updates % self._steps == 0

    def steps_until_due(self, updates: int) -> int:
        """Return how many steps after so many updates a checkpoint is due, by steps alone."""
        return self._steps - updates % self._steps if self._steps else sys.maxsize

    def is_due_by_time(self) -> bool:
        """Return whether this rank has to request a checkpoint."""
        # This runs in every step: without such a schedule, not even the clock is read.
        return self._seconds > 0 and time.monotonic() - self._saved_at >= self._seconds

    def note_save(self) -> None:
        """Count the seconds from now."""
        self._saved_at = time.monotonic()

    def may_write_best(self) -> bool:
        """Return whether best.h5 was last written long enough ago."""
        return time.monotonic() - self._best_at >= _BEST_INTERVAL_S

    def note_best(self) -> None:
        """Count the time to the next best.h5 from now."""
        self._best_at = time.monotonic()
