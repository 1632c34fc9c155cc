"""The learning curves of one run, or of several in the same figures."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from distbp.report.curves import Curve, describe_curves, describe_marks
from distbp.report.elements import Element, Note, Plot, Plots
from distbp.report.plots import draw_curves
from distbp.report.reported_run import ReportedRun
from distbp.report.wording import clean, number, slug
from distbp.training.messages import metric_name
from distbp.training.monitor import is_maximized
from distbp.training.state import STANDARDIZED_COST

_SPLITS = {"train": "training", "validation": "validation", "test": "test"}
_WITH_TRAINING = 3  # runs whose training curves are drawn beside those of the validation
_MOST_METRICS = 8


def learning_elements(runs: Sequence[ReportedRun]) -> list[Element]:
    """Return the curves of cost, accuracy, other metrics and learning rate."""
    begun = [run for run in runs if run.epochs]
    if not begun:
        return [Note("No epoch has been completed yet.")]
    found: list[Element] = []
    plots = [plot for key in _metric_keys(begun) if (plot := _metric_plot(begun, key))]
    rate = _rate_plot(begun)
    found.append(Plots(plots + ([rate] if rate else [])))
    if rate is None:
        rates = {run.values("learning_rate")[-1] for run in begun}
        text = " and ".join(sorted(f"{one:g}" for one in rates))
        found.append(Note(f"The learning rate was {text} in all epochs."))
    return found


def is_regression(run: ReportedRun) -> bool:
    """Return whether the accuracy in a run's records is R²."""
    if run.checkpoint is not None:
        return str(run.checkpoint.about["task"]) == "regression"
    return bool(run.epochs) and run.epochs[-1].get("train_accuracy") is None


def metric_title(key: str, runs: Sequence[ReportedRun]) -> str:
    """Return what people read for a key of records without its split."""
    if key == "accuracy" and all(map(is_regression, runs)):
        return "R²"
    return clean(metric_name(key))


def _metric_keys(runs: Sequence[ReportedRun]) -> list[str]:
    """Return the numbers that the records have, without their splits: cost and accuracy first."""
    keys = dict.fromkeys(("cost", "accuracy", STANDARDIZED_COST))
    for run in runs:
        for name, value in run.epochs[-1].items():
            split, _, key = name.partition("_")
            if split in ("validation", "test") and isinstance(value, float | int | None):
                keys.setdefault(key)
    return list(keys)[: _MOST_METRICS + 3]


def _metric_plot(runs: Sequence[ReportedRun], key: str) -> Plot | None:
    """Return the curves of a metric, or None if no run has it."""
    curves = _split_curves(runs[0], key) if len(runs) == 1 else _run_curves(runs, key)
    if not any(curve.has_values for curve in curves):
        return None
    title = metric_title(key, runs)
    is_best_high = is_maximized(f"validation_{key}")
    caption = describe_curves(curves, is_best_high)
    caption += describe_marks(curves)
    draw = partial(draw_curves, curves, title, may_be_log=not is_best_high)
    return Plot(slug(key.replace("_", "-")), title[:1].upper() + title[1:], caption, draw)


def _split_curves(run: ReportedRun, key: str) -> list[Curve]:
    """Return a curve for each split."""
    curves = [
        _curve(run, f"{split}_{key}", word, color)
        for color, (split, word) in enumerate(_SPLITS.items())
    ]
    return [curve for curve in curves if curve.has_values]


def _run_curves(runs: Sequence[ReportedRun], key: str) -> list[Curve]:
    """Return a curve for each run: of the validation if all have one, otherwise of the training.

    Of few runs there are both.
    """
    curves = []
    held = [_curve(run, f"validation_{key}", clean(run.name), i) for i, run in enumerate(runs)]
    has_held = all(curve.has_values for curve in held)
    for i, run in enumerate(runs):
        label = clean(run.name)
        if has_held:
            curves.append(held[i])
        if not has_held or len(runs) <= _WITH_TRAINING:
            word = f"{label}, training" if has_held else label
            curves.append(_curve(run, f"train_{key}", word, i, is_dashed=has_held))
    return [curve for curve in curves if curve.has_values]


def _curve(run: ReportedRun, key: str, label: str, color: int, is_dashed: bool = False) -> Curve:
    x = np.array(run.values("epoch"), np.float64)
    y = np.array(run.values(key), np.float64)
    return Curve(label, x, y, color, is_dashed, _best_position(run, key))


def _best_position(run: ReportedRun, key: str) -> int | None:
    """Return the position of the best epoch, if a curve is that of the run's monitor."""
    summary = run.summary
    if summary.monitor is None or summary.monitor.name != key or summary.epoch is None:
        return None
    return next((i for i, one in enumerate(run.epochs) if one["epoch"] == summary.epoch), None)


def _rate_plot(runs: Sequence[ReportedRun]) -> Plot | None:
    """Return the learning rate over epochs; None if it does not change in any run."""
    is_alone = len(runs) == 1
    curves = [
        _curve(run, "learning_rate", "learning rate" if is_alone else clean(run.name), i)
        for i, run in enumerate(runs)
    ]
    curves = [curve for curve in curves if curve.has_values]
    if all((curve.y == curve.y[0]).all() for curve in curves):
        return None
    caption = describe_curves(curves, is_maximized=None)
    draw = partial(draw_curves, curves, "learning rate", may_be_log=True, is_step=True)
    return Plot("learning-rate", "Learning rate", caption, draw)


def best_epoch(run: ReportedRun) -> tuple[str, str] | None:
    """Return the run's monitor and its best value with the epoch, as text."""
    summary = run.summary
    if summary.monitor is None or summary.score is None:
        return None
    split, _, key = summary.monitor.name.partition("_")
    name = f"{_SPLITS.get(split, split)} {metric_title(key, [run])}"
    return name, f"{number(summary.score)}"
