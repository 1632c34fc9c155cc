"""Folds of a cross-validation: which training rows are held out, as a function of the seed.

A fold is named k/K, the k-th of K. Each row is in exactly one of the K folds; their sizes differ
by 1 at most, and so do the rows of each class in them.
"""

import re

import numpy as np

from distbp.errors import ConfigError
from distbp.network import rng


def parse_fold(text: str) -> tuple[int, int]:
    """Return k and K of a fold such as '2/5'.

    Raises
    ------
    ConfigError
        It is not one of at least two folds.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) != 1:
        raise ConfigError(f"--fold {text!r}: expected one of at least two folds, such as 2/5.")
    return int(match[1]), int(match[2])


def check_fold(fold: str | None, validation: float) -> None:
    """Raise ConfigError unless a fold is one, and nothing else is held out."""
    if fold is not None and parse_fold(fold) and validation:
        raise ConfigError(
            f"--fold {fold} and --validation {validation} contradict each other: use one of them."
        )


def fold_of_rows(n: int, folds: int, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Return the number of the fold of each row, counted from 0.

    Parameters
    ----------
    n : int
    folds : int
    seed : int
    labels : (n,) int array, optional
        The classes, of which each fold gets the same share.

    Returns
    -------
    (n,) int64 array
    """
    order = rng.permutation(n, seed, rng.FOLDS)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    numbers = np.empty(n, np.int64)
    numbers[order] = np.arange(n) % folds
    return numbers
