"""Counting the right answers of a network's outputs.

A class is predicted by the largest output; a label of multilabel by an output above ½. What
the counts are divided by is known to `state`.
"""

import numpy as np


def count_correct(
    task: str, a: np.ndarray, y: np.ndarray, labels: np.ndarray, spare: np.ndarray | None = None
) -> int:
    """Return how many answers are right: of a row's class, or of each of its labels.

    Parameters
    ----------
    task : {'classification', 'multilabel'}
    a, y : (m, n_L) arrays
        Outputs and targets.
    labels : (m,) int array
        The classes; not used for multilabel.
    spare : (m, n_L) array, optional
        Is overwritten.
    """
    if task == "classification":
        return int(np.count_nonzero(a.argmax(axis=1) == labels))
    predicted = np.heaviside(np.subtract(a, 0.5, out=spare), 0.0, out=spare)
    return a.size - int(np.count_nonzero(np.subtract(predicted, y, out=spare)))


def predicted_labels(task: str, output: np.ndarray) -> np.ndarray:
    """Return what outputs (m, n_L) predict: (m,) int64 classes, or (m, n_L) uint8 of 0 and 1."""
    if task == "classification":
        return output.argmax(axis=1).astype(np.int64)
    return (output > 0.5).astype(np.uint8)
