"""The names of metrics, as options and records have them, and what they stand for.

`f1` is the metric alone, the mean over the classes, labels or targets; `f1-micro` and
`f1-weighted` are other averages, and `f1:NAME` is the value of one class, label or target. With
`_` instead of `-` they are keys of records.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.storage.preprocessing import Preprocessing
from distbp.training.metrics import METRICS, ConfusionMatrix, Metric, Summary, find_metric

_ALWAYS_RECORDED = ("cost", "accuracy")


class Choice(NamedTuple):
    """A metric, with the average or the class, label or target that is asked for.

    Attributes
    ----------
    key : str
        In records.
    metric : Metric
    average : str
    part : int, optional
    """

    key: str
    metric: Metric
    average: str = ""
    part: int | None = None

    @property
    def is_number(self) -> bool:
        """Whether the value is a number, by which epochs can be compared."""
        return not isinstance(self.metric, ConfusionMatrix)

    def value(self, summary: Summary) -> Any:
        """Return a number; None, as JSON has no NaN, where it is undefined; or a matrix."""
        if self.part is None:
            return as_json(self.metric.value(summary, self.average))
        parts = self.metric.parts(summary)
        return None if parts is None else as_json(float(parts[self.part]))


def as_json(value: Any) -> Any:
    """Return None for a float that is not finite, and anything else as it is."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def part_names(
    classes: Sequence[str], preprocessing: Preprocessing | None, n_out: int
) -> tuple[str, ...]:
    """Return the names of the classes, labels or targets of a model or data set."""
    if classes:
        return tuple(classes)
    if preprocessing is not None and len(preprocessing.labels) == n_out:
        return preprocessing.labels
    return tuple(map(str, range(n_out)))


def choose(names: Iterable[str], task: str, parts: Sequence[str]) -> tuple[Choice, ...]:
    """Return the metrics of some names, each once, without those that every record has.

    Parameters
    ----------
    names : iterable of str
    task : {'classification', 'multilabel', 'regression'}
    parts : sequence of str
        Names of the classes, labels or targets.

    Raises
    ------
    ConfigError
        There is no such metric for this task.
    """
    found = {}
    for name in names:
        if name in _ALWAYS_RECORDED:
            continue
        choice = find_choice(name, task, parts)
        if choice is None:
            check_own_metric(name)
            known = ", ".join(one.key.replace("_", "-") for one in all_metrics(task, parts))
            shown = ", ".join(parts[:8]) + ", …" * (len(parts) > 8)
            raise ConfigError(
                f"There is no metric {name!r} for {task}. Choose from {known}; or, for one of "
                f"{shown}, a name such as {'mae' if task == 'regression' else 'f1'}:{parts[0]}."
            )
        found[choice.key] = choice
    return tuple(found.values())


def check_own_metric(name: str) -> None:
    """Raise ConfigError if this is the name of a user's own metric that may not be run."""
    base = name.partition(":")[0].replace("_", "-")
    is_ours = not base or find_average(base) is not None
    if own_parts.is_own(name) and not is_ours and not own_parts.is_known(name):
        own_parts.find(name, Metric, "metric")


def find_choice(name: str, task: str, parts: Sequence[str]) -> Choice | None:
    """Return the metric of a name, as in `choose`, or None."""
    base, _, part = name.partition(":")
    choice = find_average(name)
    if choice is None and part in parts:
        choice = find_average(base)
        if choice is not None:
            has_parts = type(choice.metric).parts is not Metric.parts and not choice.average
            part_of = choice._replace(key=f"{choice.key}:{part}", part=parts.index(part))
            choice = part_of if has_parts else None
    return choice if choice is not None and task in choice.metric.tasks else None


def find_average(name: str) -> Choice | None:
    """Return the metric of a name, which may end with an average, or None."""
    dashed = name.replace("_", "-")
    key, (base, _, average) = name.replace("-", "_"), dashed.rpartition("-")
    metric = find_metric(name) or find_metric(dashed)
    if metric is not None:
        return Choice(key, metric)
    metric = find_metric(base)
    return Choice(key, metric, average) if metric and average in metric.averages else None


def all_metrics(task: str, parts: Sequence[str], names: Iterable[str] = ()) -> tuple[Choice, ...]:
    """Return every metric for a task, with all its averages.

    `names` are those of a run's `--metrics`, of which a user's own are among them.
    """
    for name in names:
        if own_parts.is_known(name):
            find_metric(name)  # which adds it to METRICS
    choices = []
    for name, metric in METRICS.items():
        if task in metric.tasks and metric.applies_to(len(parts)):
            key = name.replace("-", "_")
            averages = (one for one in metric.averages if one != "macro")  # which is the default
            choices += [Choice(key, metric), *(Choice(f"{key}_{a}", metric, a) for a in averages)]
    return tuple(choices)
