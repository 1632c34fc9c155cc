"""The weights of the training rows: those of the data set times those of the classes.

They are brought to mean 1 over the rows that are trained on, so that gradients, costs and
penalties are divided by numbers of rows as without weights: the train cost is the weighted mean,
and the learning rate keeps its meaning. Where all are equal, there are none.
"""

import math

import numpy as np

from distbp.data.dataset import WEIGHTS, DataSet, Split
from distbp.data.weights import check_some_weight
from distbp.parallel.shared_array import filled_shared_array
from distbp.parallel.topology import Topology


def scaled_weights(
    comm: Topology, data: DataSet, rows: Split, class_weight: str
) -> np.ndarray | None:
    """Return the weight of each row of `train`, with mean 1 over `rows`; collective.

    Parameters
    ----------
    comm : Topology
    data : DataSet
    rows : Split
        The rows of `train` to train on.
    class_weight : {'none', 'balanced'}

    Returns
    -------
    (n,) float64 array or None
        0 for rows that are held out. None if all weights are equal.

    Raises
    ------
    DataError
        On all ranks, if all weights of `rows` are 0.
    """
    if rows.weights is None and class_weight == "none":
        return None

    def fill(out: np.ndarray) -> None:
        weights = np.ones(len(rows)) if rows.weights is None else _own_weights(rows, rows.weights)
        check_some_weight(weights, f"{data.name}: {WEIGHTS}")
        weights /= weights.max()  # so that their sum does not overflow
        if class_weight == "balanced":
            # n/(k·count) but for n/k, which the mean takes away. A class counts as often as the
            # weights of its rows; one without any is not there.
            labels = rows.targets()[:, 0].astype(np.int64)
            totals = _class_totals(labels, weights, data.n_classes)
            weights /= np.where(totals > 0, totals, 1.0)[labels]
        weights *= len(rows) / _exact_sum(weights)
        out[slice(None) if rows.rows is None else rows.rows] = weights

    weights = filled_shared_array(comm, (len(rows.y),), np.dtype(np.float64), fill)
    used = weights if rows.rows is None else weights[rows.rows]
    return None if used.min() == used.max() else weights


def _own_weights(rows: Split, weights: np.ndarray) -> np.ndarray:
    """Return a copy of the weights of `rows`."""
    return np.array(weights if rows.rows is None else weights[rows.rows])


def _exact_sum(values: np.ndarray) -> float:
    """Return a sum that does not depend on the order of additions, which CPUs differ in."""
    # Memory of plain doubles yields Python's numbers, several times faster than an array.
    return math.fsum(np.ascontiguousarray(values).data.cast("B").cast("d"))


def _class_totals(labels: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the sum of the weights of each class."""
    stops = np.cumsum(np.bincount(labels, minlength=n_classes))
    by_class = np.split(weights[np.argsort(labels, kind="stable")], stops[:-1])
    return np.array([_exact_sum(part) for part in by_class])
