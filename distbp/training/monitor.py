"""Which metrics an epoch's evaluation computes, and which number decides what is best.

`plan_metrics` turns the options `--metrics` and `--monitor` into what the evaluation and the
history take, for a data set with its splits and its classes, labels or targets.
"""

from dataclasses import replace
from typing import NamedTuple, NoReturn

from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.storage.checkpoint import Checkpoint
from distbp.training.config import FIRST_MONITOR, Config
from distbp.training.metric_names import (
    Choice,
    all_metrics,
    check_own_metric,
    choose,
    find_average,
    find_choice,
    part_names,
)
from distbp.training.state import STANDARDIZED_COST, Monitor

_VALIDATION = "validation_"
_MOST_IN_RECORD = (
    100  # classes of a confusion matrix: each checkpoint has the records of all epochs
)


class EpochMetrics(NamedTuple):
    """What is computed after each epoch, besides costs and accuracies.

    Attributes
    ----------
    choices : tuple of Choice
        Also that of the monitor.
    monitor : Monitor, optional
        That of `History`.
    """

    choices: tuple[Choice, ...]
    monitor: Monitor | None


def _names(data: DataSet) -> tuple[str, ...]:
    return part_names(data.classes, data.preprocessing, data.n_out)


def _has_validation(config: Config, data: DataSet) -> bool:
    return config.validation > 0 or config.fold is not None or "validation" in data.splits


def with_monitor(config: Config, data: DataSet, checkpoint: Checkpoint | None = None) -> Config:
    """Return the configuration with a monitor, if it has none: that of a run that is resumed."""
    if config.monitor is not None:
        return config
    if checkpoint is not None:
        return replace(config, monitor=Config.read(checkpoint.about["config"], config.out).monitor)
    if not _has_validation(config, data):
        return replace(config, monitor="train_cost")
    # In the user's units, the cost would be that of the target with the largest numbers.
    is_standardized = data.target is not None and data.target.has_several_units
    return replace(config, monitor=_VALIDATION + (STANDARDIZED_COST if is_standardized else "cost"))


def is_maximized(name: str) -> bool:
    """Return whether more is better of a number of the records, such as `validation_f1`."""
    key = name.partition("_")[2]
    # After the last colon may be the name of a class.
    choice = find_average(key) or find_average(key.partition(":")[0])
    return key == "accuracy" or (choice is not None and choice.metric.is_maximized)


def plan_metrics(config: Config, data: DataSet) -> EpochMetrics:
    """Return what a run computes after each epoch.

    Parameters
    ----------
    config : Config
        With nothing left open.
    data : DataSet

    Raises
    ------
    ConfigError
        There is no such metric for this data set, or no split to compute it for.
    """
    choices = _chosen_metrics(config, data)
    name = config.monitor or FIRST_MONITOR
    if name == FIRST_MONITOR:
        return EpochMetrics(choices, None)
    if name in (known := _recorded_anyway(config, data)):
        return EpochMetrics(choices, known[name])
    choice = None
    if name.startswith(_VALIDATION) and _has_validation(config, data):
        choice = find_choice(name.removeprefix(_VALIDATION), data.task, _names(data))
    if choice is None or not choice.is_number:
        _refuse(name, list(known), config, data)
    monitor = Monitor(f"{_VALIDATION}{choice.key}", choice.metric.is_maximized)
    return EpochMetrics(choose_once(*choices, choice), monitor)


def choose_once(*choices: Choice) -> tuple[Choice, ...]:
    """Return each choice once."""
    return tuple({one.key: one for one in choices}.values())


def _chosen_metrics(config: Config, data: DataSet) -> tuple[Choice, ...]:
    """Return the metrics of --metrics."""
    parts = _names(data)
    choices = choose(config.metrics, data.task, parts)
    if choices and not _has_validation(config, data) and "test" not in data.splits:
        raise ConfigError(
            f"--metrics {','.join(config.metrics)}: {data.name} has neither validation nor test "
            "rows to compute them for. Hold some out with --validation 0.1, or leave it out."
        )
    if len(parts) > _MOST_IN_RECORD and (large := [one for one in choices if not one.is_number]):
        raise ConfigError(
            f"--metrics {large[0].key.replace('_', '-')}: for {len(parts)} classes it is too large "
            f"for the record of each epoch, which has room for {_MOST_IN_RECORD} classes. Leave it "
            "out; distbp evaluate --json prints it."
        )
    return choices


def _recorded_anyway(config: Config, data: DataSet) -> dict[str, Monitor]:
    """Return what can be monitored without a further metric, by its name."""
    known = [Monitor("train_cost")]
    if data.labels_per_row:
        known.append(Monitor("train_accuracy", is_maximized=True))
    if _has_validation(config, data):
        known += [Monitor("validation_cost"), Monitor("validation_accuracy", is_maximized=True)]
        if data.target is not None and data.target.has_several_units:
            known.append(Monitor(f"{_VALIDATION}{STANDARDIZED_COST}"))
    return {one.name: one for one in known}


def _refuse(name: str, known: list[str], config: Config, data: DataSet) -> NoReturn:
    """Raise ConfigError for a monitor that does not exist, with those that do."""
    if _has_validation(config, data):
        numbers = (one for one in all_metrics(data.task, _names(data)) if one.is_number)
        known += [f"{_VALIDATION}{one.key}" for one in numbers]
    check_own_metric(name.removeprefix(_VALIDATION))
    fact = f"the records of this run have no number {name!r}"
    if name.startswith("test"):
        fact = "the test set must have no influence on the training"
    elif name.startswith(_VALIDATION) and not _has_validation(config, data):
        fact = f"{data.name} has no validation rows, which --validation 0.1 would hold out"
    raise ConfigError(f"--monitor {name}: {fact}. Choose from {', '.join(known)}.")
