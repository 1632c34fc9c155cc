"""Metrics: numbers that say how good the outputs of a network are.

A `Metric` is one small class, found by its name in `METRICS` through `find_metric`. It is
computed from a `Summary` of all rows, which any number of ranks collect block by block: sums,
counts and scores that are the same for any number of them. Definitions are those of
scikit-learn, also for classes without rows, ties and divisions by zero; what is undefined there
is NaN here, and null in JSON.

A user's own metric (see `distbp.own_parts`) is a `RowMetric`: its `__call__` returns a number for
each row of a block, and the mean of these over all rows is the metric. In a file my_parts.py,

    class WithinTenPercent(RowMetric):
        tasks = ("regression",)

        def __call__(self, output, y):
            return np.abs(output - y) <= 0.1 * np.abs(y)

is the metric of `--metrics my_parts:WithinTenPercent`.

The arguments are, for a block of m rows:

    classification  output (m, n_L)  outputs of the network, such as probabilities
                    y (m,)           numbers of the classes, int64
    multilabel      output (m, n_L)  likewise
                    y (m, n_L)       0 and 1
    regression      output, y        (m, n_L) float64 in the user's units

What is returned has m rows. With `columns` = k it is (m, k), and their sums over all rows are
`summary.sums` (k,), from which `value` computes a number, such as a ratio of two sums. `tasks`
are those that the metric is for; `is_maximized` says whether more is better, which counts where
the metric decides what is best (`--monitor`). A metric sees blocks of rows in any order and on
any rank: its result for a row must depend on that row alone.

Names: the metric alone is the mean over the classes, labels or targets (macro average);
`f1-micro` and `f1-weighted` are other averages; `f1:CLASS` is the value of one of them. With
`_` instead of `-` they are the keys of records and of `distbp evaluate --json`.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.training.class_counts import ClassCounts
from distbp.training.score_counts import ClassScores

TASKS = ("classification", "multilabel", "regression")
_CLASSES, _ONLY_CLASSES, _REGRESSION = TASKS[:2], TASKS[:1], TASKS[2:]


@dataclass(frozen=True)
class Summary:
    """What is known of all rows; empty where no metric needs it.

    Attributes
    ----------
    rows : int
    sums : (k,) float64
        What a `RowMetric` has returned, summed over the rows.
    counts : ClassCounts
    scores : ClassScores
    r2 : (n_L,) float64
        R² of each target of a regression.
    """

    rows: int
    sums: np.ndarray
    counts: ClassCounts
    scores: ClassScores
    r2: np.ndarray

    def with_sums(self, sums: np.ndarray) -> "Summary":
        """Return the summary for another metric."""
        return replace(self, sums=sums)


class Metric(ABC):
    """A number that says how good outputs are.

    Attributes
    ----------
    tasks : tuple of str
        What it can be computed for.
    is_maximized : bool
        Whether more is better.
    averages : tuple of str
        What can follow its name.
    needs : tuple of str
        What it is computed from: counts, places, matrix, scores, r2; or nothing for a `RowMetric`.
    """

    tasks: tuple[str, ...] = TASKS
    is_maximized = True
    averages: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @abstractmethod
    def value(self, summary: Summary, average: str) -> Any:
        """Return the number; NaN where it is undefined. `average` is "" or one of `averages`."""

    def parts(self, summary: Summary) -> np.ndarray | None:
        """Return the value for each class, label or target (n_L,), if it has any."""
        return None

    def applies_to(self, n_out: int) -> bool:
        """Return whether it says anything about so many outputs."""
        return True


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


class RowMetric(Metric):
    """A metric that is computed from what it is for each row; see the page of this module.

    Attributes
    ----------
    columns : int, optional
        Numbers for each row; None for one for each output.
    """

    columns: int | None = 1

    @abstractmethod
    def __call__(self, output: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return one or `columns` numbers for each row."""

    def value(self, summary: Summary, average: str) -> float:
        """Return the mean over rows, and over columns if there are several."""
        return float(summary.sums.mean()) / summary.rows

    def block_sums(self, output: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the sums over the rows of a block: (columns,) float64."""
        # The other metrics take the same arrays.
        found = np.asarray(self(_read_only(output), _read_only(y)), np.float64)
        columns = output.shape[1] if self.columns is None else self.columns
        if found.shape[:1] != (len(output),) or (columns > 1 and found[0].size != columns):
            raise ConfigError(
                f"The metric {type(self).__name__} returned an array {found.shape} for "
                f"{len(output)} rows. Return {columns} numbers for each row."
            )
        found = found.reshape(len(output), -1)
        return (found.mean(axis=1, keepdims=True) if columns == 1 else found).sum(axis=0)


class _Ratio(Metric):
    """A ratio of counts for each class or label.

    Classes that neither occur nor are predicted have no value, and no part in the averages; a
    ratio of 0 to 0 is 0.
    """

    tasks, averages, needs = _CLASSES, ("macro", "micro", "weighted"), ("counts",)

    @abstractmethod
    def ratio(
        self, right: np.ndarray, predicted: np.ndarray, actual: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numerator and denominator."""

    def parts(self, summary: Summary) -> np.ndarray:
        counts = summary.counts
        values = _divide(*self.ratio(counts.right, counts.predicted, counts.actual))
        is_absent = np.zeros(len(values), bool)
        if not counts.is_multilabel:
            is_absent = counts.predicted + counts.actual == 0
        return np.where(is_absent, np.nan, values)

    def value(self, summary: Summary, average: str) -> float:
        counts = summary.counts
        if average == "micro":
            sums = (
                one.sum(keepdims=True) for one in (counts.right, counts.predicted, counts.actual)
            )
            return float(_divide(*self.ratio(*sums))[0])
        values = self.parts(summary)
        is_there = ~np.isnan(values)
        weights = counts.actual[is_there] if average == "weighted" else None
        if weights is not None and not weights.any():
            weights = None
        return float(np.average(values[is_there], weights=weights))


class Precision(_Ratio):
    """Of the rows that are predicted as a class, the fraction that is of it."""

    def ratio(
        self, right: np.ndarray, predicted: np.ndarray, actual: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return right, predicted


class Recall(_Ratio):
    """Of the rows of a class, the fraction that is predicted as such."""

    def ratio(
        self, right: np.ndarray, predicted: np.ndarray, actual: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return right, actual


class F1(_Ratio):
    """The harmonic mean of precision and recall."""

    def ratio(
        self, right: np.ndarray, predicted: np.ndarray, actual: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return 2 * right, predicted + actual


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the ratios of integers, 0 where the denominator is."""
    return np.where(denominator == 0, 0.0, numerator / np.maximum(denominator, 1))


class BalancedAccuracy(Metric):
    """The mean recall of the classes that occur."""

    tasks, needs = _ONLY_CLASSES, ("counts",)

    def value(self, summary: Summary, average: str) -> float:
        occurs = summary.counts.actual > 0
        return float(np.mean(summary.counts.right[occurs] / summary.counts.actual[occurs]))


class ExactMatch(Metric):
    """The fraction of rows whose labels are all right, scikit-learn's accuracy of multilabel."""

    tasks, needs = ("multilabel",), ("counts",)

    def value(self, summary: Summary, average: str) -> float:
        return int(summary.counts.exact[0]) / summary.rows


@dataclass(frozen=True)
class TopAccuracy(Metric):
    """The fraction of rows whose class is among the k with the largest outputs."""

    k: int

    tasks, needs = _ONLY_CLASSES, ("counts", "places")

    def value(self, summary: Summary, average: str) -> float:
        return int(summary.counts.places[: self.k].sum()) / summary.rows

    def applies_to(self, n_out: int) -> bool:
        return self.k < n_out


class RocAuc(Metric):
    """The area under the ROC curve of each class against the others, or of each label.

    Undefined if a class has no rows, or all; weighted, classes without rows do not count.
    """

    tasks, averages, needs = _CLASSES, ("macro", "micro", "weighted"), ("counts", "scores")

    def parts(self, summary: Summary) -> np.ndarray:
        return summary.scores.areas[0]

    def value(self, summary: Summary, average: str) -> float:
        areas = self.parts(summary)
        is_binary = len(areas) == 2 and not summary.counts.is_multilabel
        if is_binary:  # both are the same, and so is every average
            return float(areas[0])
        if average == "micro":
            return summary.scores.pooled()[0]
        weights = None
        if average == "weighted":
            weights = summary.counts.actual
            if not weights.any():
                return 0.0
            areas = np.where(weights > 0, areas, 0.0)
        return float(np.average(areas, weights=weights))


class LogLoss(RowMetric):
    """The mean of −ln of the output of the right class, at least the smallest ε of its type."""

    tasks, is_maximized = _ONLY_CLASSES, False

    def __call__(self, output: np.ndarray, y: np.ndarray) -> np.ndarray:
        right = np.take_along_axis(output, y[:, np.newaxis], axis=1)[:, 0]
        epsilon = np.finfo(output.dtype).eps
        return -np.log(np.clip(right, epsilon, 1 - epsilon), dtype=np.float64)


class ConfusionMatrix(Metric):
    """Rows of class i that are predicted as j; of a label, [[00, 01], [10, 11]]."""

    tasks, needs = _CLASSES, ("counts", "matrix")

    def value(self, summary: Summary, average: str) -> list[Any] | None:
        counts = summary.counts
        if not counts.is_multilabel:
            return None if counts.matrix is None else counts.matrix.tolist()
        missed, wrong = counts.actual - counts.right, counts.predicted - counts.right
        rest = counts.rows - counts.right - missed - wrong
        matrices: list[Any] = np.stack([rest, wrong, missed, counts.right], axis=1).tolist()
        return [[one[:2], one[2:]] for one in matrices]


class MeanAbsoluteError(RowMetric):
    """The mean of |a − y|, over the rows and the targets."""

    tasks, is_maximized, columns = _REGRESSION, False, None

    def __call__(self, output: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.abs(output - y)

    def parts(self, summary: Summary) -> np.ndarray:
        return summary.sums / summary.rows


class RootMeanSquaredError(RowMetric):
    """The root of the mean of (a − y)² of a target, and the mean of these roots."""

    tasks, is_maximized, columns = _REGRESSION, False, None

    def __call__(self, output: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.square(output - y)

    def parts(self, summary: Summary) -> np.ndarray:
        return np.sqrt(summary.sums / summary.rows)

    def value(self, summary: Summary, average: str) -> float:
        return float(self.parts(summary).mean())


class R2(Metric):
    """1 − Σ(y − a)² / Σ(y − ȳ)² of a target, and the mean of them."""

    tasks, needs = _REGRESSION, ("r2",)

    def parts(self, summary: Summary) -> np.ndarray:
        return summary.r2

    def value(self, summary: Summary, average: str) -> float:
        return float(summary.r2.mean())


METRICS: dict[str, Metric] = {
    "balanced-accuracy": BalancedAccuracy(),
    "exact-match": ExactMatch(),
    "precision": Precision(),
    "recall": Recall(),
    "f1": F1(),
    "top-3-accuracy": TopAccuracy(3),  # and any other number
    "top-5-accuracy": TopAccuracy(5),
    "roc-auc": RocAuc(),
    "log-loss": LogLoss(),
    "confusion-matrix": ConfusionMatrix(),
    "mae": MeanAbsoluteError(),
    "rmse": RootMeanSquaredError(),
    "r2": R2(),
}


def _add_own_metric(name: str) -> None:
    """Add a user's own metric to `METRICS`, or put it there anew if its class was replaced."""
    if own_parts.is_known(name):
        kind = own_parts.find(name, Metric, "metric")
        if type(METRICS.get(name)) is not kind:
            METRICS[name] = kind()


def find_metric(name: str) -> Metric | None:
    """Return the metric of a name, without an average, or None."""
    if match := re.fullmatch(r"top-([1-9]\d{0,5})-accuracy", name):
        return TopAccuracy(int(match[1]))
    if name not in METRICS or own_parts.is_own(name):
        _add_own_metric(name)
    return METRICS.get(name)
