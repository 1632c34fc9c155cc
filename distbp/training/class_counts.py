"""Counts of right and wrong predictions, per class or label: integers, added in any order."""

import numpy as np

from distbp.parallel.topology import Topology
from distbp.training.accuracy import predicted_labels

MOST_IN_MATRIX = 1000  # classes of a confusion matrix


class ClassCounts:
    """How many rows are of each class or label, are predicted to be, and both.

    Parameters
    ----------
    task : {'classification', 'multilabel'}
    n_out : int
    has_places, has_matrix : bool
        Whether to fill `places` and `matrix`, which only a classification has.

    Attributes
    ----------
    is_multilabel : bool
    rows : (1,) int64
    right, predicted, actual : (n_out,) int64
        Rows of each class that are predicted as such, all that are, and all of the class.
    exact : (1,) int64
        Rows whose labels are all right.
    places : (n_out,) int64
        Rows by the number of classes whose outputs stand before that of the right class.
    matrix : (n_out, n_out) int64, optional
        The confusion matrix: rows of class i that are predicted as j. Not for more than
        `MOST_IN_MATRIX` classes.
    """

    def __init__(
        self, task: str, n_out: int, has_places: bool = False, has_matrix: bool = False
    ) -> None:
        self.is_multilabel, self._has_places = task == "multilabel", has_places
        has_matrix = has_matrix and n_out <= MOST_IN_MATRIX and not self.is_multilabel
        widths = [1, 1, *[n_out] * 4, *[n_out * n_out] * has_matrix]
        self._all = np.zeros(sum(widths), np.int64)
        parts = np.split(self._all, np.cumsum(widths)[:-1])  # views
        self.rows, self.exact, self.right, self.predicted, self.actual, self.places = parts[:6]
        self.matrix = parts[6].reshape(n_out, n_out) if has_matrix else None

    def add(self, output: np.ndarray, y: np.ndarray) -> None:
        """Add rows, given outputs (m, n_L) and classes (m,) or labels (m, n_L)."""
        self.rows += len(output)
        add = self._add_labels if self.is_multilabel else self._add_classes
        add(output, y)

    def _add_labels(self, output: np.ndarray, y: np.ndarray) -> None:
        predicted, actual = output > 0.5, y == 1
        self.right += (predicted & actual).sum(axis=0)
        self.predicted += predicted.sum(axis=0)
        self.actual += actual.sum(axis=0)
        self.exact += int((predicted == actual).all(axis=1).sum())

    def _add_classes(self, output: np.ndarray, y: np.ndarray) -> None:
        predicted, n_out = predicted_labels("classification", output), output.shape[1]
        is_right = predicted == y
        self.right += np.bincount(y[is_right], minlength=n_out)
        self.predicted += np.bincount(predicted, minlength=n_out)
        self.actual += np.bincount(y, minlength=n_out)
        self.exact += int(is_right.sum())
        if self.matrix is not None:
            np.add.at(self.matrix, (y, predicted), 1)
        if self._has_places:
            self.places += np.bincount(_places(output, y), minlength=n_out)

    def gather(self, comm: Topology) -> None:
        """Add the counts of all other ranks; collective."""
        comm.world.allreduce(self._all)


def _places(output: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the number of classes that stand before the right one in each row: (m,).

    Of equal outputs the last class stands first, as in scikit-learn's top_k_accuracy_score.
    """
    own = np.take_along_axis(output, y[:, np.newaxis], axis=1)
    is_later = np.arange(output.shape[1]) > y[:, np.newaxis]
    before = (output > own) | ((output == own) & is_later)
    # What is not a number is worse than all.
    return np.where(np.isnan(own[:, 0]), output.shape[1] - 1, before.sum(axis=1))
