"""Some metrics of some rows: what they need is collected block by block, on any ranks.

A `Measurement` adds blocks of rows, in any order and on any rank. Sums of floating-point numbers
are returned for each block instead, since they have to be added in an order that does not depend
on the ranks, which is the business of `evaluation`; counts and scores are exact in any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distbp.parallel.topology import Topology
from distbp.training.class_counts import ClassCounts
from distbp.training.metric_names import Choice, as_json
from distbp.training.metrics import Metric, RowMetric, Summary
from distbp.training.score_counts import ClassScores


@dataclass(frozen=True)
class Measured:
    """Metrics, as JSON can represent them.

    Attributes
    ----------
    values : dict
        By the key of the metric: a number, None where it is undefined, or a matrix; and
        `roc_auc_error`, by how much the area may be wrong, unless it is exact.
    parts : dict of list
        By the key of the metric, the values of each class, label or target; `rows` and
        `predicted` are the numbers of rows of each class or label.
    """

    values: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, list[Any]] = field(default_factory=dict)


class Measurement:
    """Collects what some metrics are computed from.

    Parameters
    ----------
    choices : sequence of Choice
    task : {'classification', 'multilabel', 'regression'}
    n_out : int
    has_parts : bool
        Whether the values for each class, label or target are wanted, too.

    Attributes
    ----------
    width : int
        The sums of a block.
    """

    def __init__(
        self, choices: Sequence[Choice], task: str, n_out: int, has_parts: bool = False
    ) -> None:
        self._choices, self._has_parts = tuple(choices), has_parts
        metrics = dict.fromkeys(choice.metric for choice in choices)
        needs = {need for metric in metrics for need in metric.needs}
        self._row_metrics: dict[RowMetric, slice] = {}
        self.width = 0
        for metric in metrics:
            if isinstance(metric, RowMetric):
                stop = self.width + (n_out if metric.columns is None else metric.columns)
                self._row_metrics[metric], self.width = slice(self.width, stop), stop
        self._counts = ClassCounts(task, n_out, "places" in needs, "matrix" in needs)
        self._scores = ClassScores(task, n_out)
        self._collected: list[ClassCounts | ClassScores] = []
        self._collected += [self._counts] * ("counts" in needs)
        self._collected += [self._scores] * ("scores" in needs)

    def add(self, output: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Add a block of rows, and return its sums: (width,) float64; see `metrics`."""
        sums = np.zeros(self.width)
        for metric, columns in self._row_metrics.items():
            sums[columns] = metric.block_sums(output, y)
        for collected in self._collected:
            collected.add(output, y)
        return sums

    def gather(self, comm: Topology) -> None:
        """Add the blocks of all other ranks on rank 0; collective."""
        for collected in self._collected:
            collected.gather(comm)

    def results(self, rows: int, sums: np.ndarray, r2: np.ndarray) -> Measured:
        """Return the metrics of all rows.

        Parameters
        ----------
        rows : int
        sums : (width,) float64
            Those of all blocks, added.
        r2 : (n_L,) float64
            Of each target of a regression.
        """
        shared = Summary(rows, np.empty(0), self._counts, self._scores, r2)
        own: dict[Metric, Summary] = {
            one: shared.with_sums(sums[columns]) for one, columns in self._row_metrics.items()
        }
        summaries = {one.metric: own.get(one.metric, shared) for one in self._choices}
        values = {one.key: one.value(summaries[one.metric]) for one in self._choices}
        if self._scores in self._collected and (error := self._scores.areas[1]):
            values["roc_auc_error"] = error
        return Measured(values, self._parts(summaries) if self._has_parts else {})

    def _parts(self, summaries: Mapping[Metric, Summary]) -> dict[str, list[Any]]:
        """Return the values for each class, label or target."""
        parts: dict[str, list[Any]] = {}
        if self._counts in self._collected:
            parts["rows"] = self._counts.actual.tolist()
            parts["predicted"] = self._counts.predicted.tolist()
        for choice in self._choices:
            found = choice.metric.parts(summaries[choice.metric])
            if found is not None and not choice.average:
                parts[choice.key] = [as_json(float(value)) for value in found]
        return parts
