"""When a checkpoint is due: after so many epochs, steps or seconds.

Ranks decide together only by what they all know: counts of epochs and steps. Their clocks
differ, so time counts on one of them alone. That one requests a checkpoint by time with its next
step, for the replicas have to be compared first. After an epoch they always are: whether
the epoch's checkpoint is written at once or deferred matters to no other rank, so that no message
is needed. What is saved, and where, is not known here.
"""

import math
import sys
import time

# Where epochs are short, writing each checkpoint or each new best would take most of the time.
SHORT_INTERVAL_S = 1.0


class CheckpointSchedule:
    """Decide when to save.

    Parameters
    ----------
    every : int
    unit : str
        'epoch', 'step' or 's'.
    has_clock : bool
        Whether this is the rank that requests checkpoints by time.
    is_limited : bool
        Whether those of epochs are written at most once a second.
    """

    def __init__(self, every: int, unit: str, has_clock: bool, is_limited: bool = False) -> None:
        self._epochs = every if unit == "epoch" else 0
        self._steps = every if unit == "step" else 0
        self._seconds = every if unit == "s" and has_clock else 0
        self._is_limited = is_limited
        # With a limit, the first one is written at once: it shows that the directory can be used.
        self._saved_at = -math.inf if is_limited else time.monotonic()
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

    def may_write(self) -> bool:
        """Return whether a checkpoint that is due after an epoch is to be written at once."""
        return not self._is_limited or time.monotonic() - self._saved_at >= SHORT_INTERVAL_S

    def note_save(self) -> None:
        """Count the seconds from now."""
        self._saved_at = time.monotonic()

    def may_write_best(self) -> bool:
        """Return whether best.h5 was last written long enough ago."""
        return time.monotonic() - self._best_at >= SHORT_INTERVAL_S

    def note_best(self) -> None:
        """Count the time to the next best.h5 from now."""
        self._best_at = time.monotonic()
