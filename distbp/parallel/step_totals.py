"""The statistics that travel behind each gradient, and their sums over all ranks.

Every vector that is summed holds the gradient of θ (P numbers) and then `STATS_WIDTH`
more, at the indices below. They cost no message of their own, and their sums are as
exact as the gradient's. `StepTotals` is what all ranks know after a step.
"""

from typing import NamedTuple

# Indices into the statistics: sums over a shard's rows, then what a rank requests (0 or 1).
STATS_WIDTH = 4
COST, CORRECT, STOP_REQUESTS, SAVE_REQUESTS = range(STATS_WIDTH)


class StepTotals(NamedTuple):
    """The statistics of a step, summed over all ranks, and whether θ was updated.

    The fields up to `save` are in the order of the indices above.

    Attributes
    ----------
    cost : float
        Summed over the rows of the batch, in multiples of the unit of the network's cost.
    correct : float
        Rows that were classified correctly, or right labels of multilabel: exact up to 2^24 in
        float32.
    stop, save : float
        Number of ranks that request a stop, and a checkpoint.
    applied : bool
        False if the cost, or a number of the new θ or optimizer state, would not be
        finite: then θ and state are unchanged on all ranks.
    """

    cost: float
    correct: float
    stop: float
    save: float
    applied: bool
