"""The numbers that the elements of an update share in a step: functions of step and options.

They are computed in Python once a step, in float64 by the expressions of `network.optimizers` and
`network.update`, and rounded to the network's type in `update`, as NumPy does. Nothing here needs
numba.
"""

from distbp.network.optimizers import Optimizer
from distbp.network.update import average_share

# Indices: of the update's own, and of the first of the rule's.
RATE, L1, L2, DECAY, SHARE, REST, RULE = range(7)
COUNT = 16


def step_constants(
    optimizer: Optimizer,
    learning_rate: float,
    step: int,
    l1: float = 0.0,
    l2: float = 0.0,
    weight_decay: float = 0.0,
    ema: float = 0.0,
) -> list[float]:
    """Return the `COUNT` numbers of step `step`, counted from 1; the options are `Update`'s."""
    share = average_share(ema, step) if ema else 0.0
    decay = 1.0 - learning_rate * weight_decay
    own = [learning_rate, l1, l2, decay, share, 1.0 - share]
    rule = optimizer.coefficients(learning_rate, step)
    return [*own, *rule, *[0.0] * (COUNT - len(own) - len(rule))]
