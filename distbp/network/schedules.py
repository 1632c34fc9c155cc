"""Learning rate schedules: factors on the initial rate, and warm-up.

Pure functions of the position in the run and of the scores so far, one per epoch: a score is
a cost, lower is better. As they keep no state, a run is resumed from its history alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from distbp import own_parts

SCHEDULES = ("constant", "step", "cosine", "plateau")


class Schedule(ABC):
    """A user's own schedule; made without arguments."""

    @abstractmethod
    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """Return the factor on the learning rate of a step.

        A function of its arguments alone, so that a resumed run has the same rates.

        Parameters
        ----------
        epoch : float
            Where the step is: 2.5 is the middle of the third epoch.
        epochs : int
            Of the whole run.
        scores : sequence of float
            Of the completed epochs, lower is better.
        """


def find_schedule(name: str) -> type[Schedule]:
    """Return the class of a user's own schedule."""
    found: type[Schedule] = own_parts.find(name, Schedule, "schedule")
    return found


def step_factor(epoch: int, decay: float, every: int) -> float:
    """Return a factor that is multiplied by `decay` after each `every` epochs."""
    return decay ** (epoch // every)


def cosine_factor(epoch: float, epochs: int) -> float:
    """Return half a cosine, from 1 to 0 over `epochs`; `epoch` may be fractional.

    Loshchilov and Hutter, ICLR 2017, equation 5, without restarts.
    """
    return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def plateau_factor(scores: Sequence[float], decay: float, patience: int) -> float:
    """Return a factor that is multiplied by `decay` after each `patience` epochs on a plateau."""
    factor, best, stale_epochs = 1.0, math.inf, 0
    for score in scores:
        stale_epochs = 0 if score < best else stale_epochs + 1
        best = min(best, score)
        if stale_epochs >= patience:
            factor, stale_epochs = factor * decay, 0
    return factor


def warmup_factor(epoch: float, step_length: float, warmup_epochs: float) -> float:
    """Return a factor that rises linearly to 1 over the first `warmup_epochs`.

    It is taken at the end of a step of `step_length` epochs, so that the first step has a
    rate above 0.
    """
    if warmup_epochs <= 0:
        return 1.0
    return min(1.0, (epoch + step_length) / warmup_epochs)
