"""What changes from epoch to epoch: the learning rate.

Pure functions of the position in the run and of the scores so far. A score is a
cost, the lower the better, one an epoch: so nothing but the history has to be
stored to go on with a run.
"""

import math
from collections.abc import Sequence

SCHEDULES = ("constant", "step", "cosine", "plateau")


def step_factor(epoch: int, decay: float, every: int) -> float:
    """Return `decay` to the power of the whole multiples of `every` epochs gone by."""
    return decay ** (epoch // every)


def cosine_factor(epoch: float, epochs: int) -> float:
    """Return half a cosine, from 1 to 0 over `epochs`; `epoch` may be inside one.

    Loshchilov and Hutter, ICLR 2017, equation 5, without restarts.
    """
    return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def plateau_factor(scores: Sequence[float], decay: float, patience: int) -> float:
    """Return `decay` to the power of the times that `patience` epochs brought no better score."""
    factor, best, waited = 1.0, math.inf, 0
    for score in scores:
        waited = 0 if score < best else waited + 1
        best = min(best, score)
        if waited >= patience:
            factor, waited = factor * decay, 0
    return factor


def warmup_factor(epoch: float, step_length: float, warmup_epochs: float) -> float:
    """Return the linear rise from nearly 0 to 1 over the first epochs.

    `step_length` is one step in epochs, so that the first step is not lost.
    """
    if warmup_epochs <= 0:
        return 1.0
    return min(1.0, (epoch + step_length) / warmup_epochs)
