"""Weights of training rows: how often a row counts in the cost.

They are stored as the user gives them, of the rows of train alone; `distbp.training` brings them
to mean 1. Evaluations do not use them.
"""

from collections.abc import Callable

import numpy as np

from distbp.errors import DataError


def check_weights(weights: np.ndarray, name: str, locate: Callable[[int], str]) -> None:
    """Raise DataError unless all weights (n,) are finite, none is negative, and some are above 0.

    `name` is the source and `locate` returns where a row is, for messages.
    """
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{locate(row)}: the weight is {weights[row]:g}; expected a finite number of at least "
            "0. Correct it, or remove the row."
        )
    check_some_weight(weights, name)


def check_some_weight(weights: np.ndarray, name: str) -> None:
    """Raise DataError if all weights of training rows are 0."""
    if not weights.any():
        raise DataError(
            f"{name}: the weights of all training rows are 0, so that nothing would be learned. "
            "Give some rows a weight above 0, or use no weights."
        )
