"""What a run's model predicts for rows that it has not seen, and its first layer, as elements."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from distbp.data.dataset import DataSet
from distbp.report.elements import Element, Gallery, Note, Picture, Plot, Plots, Table
from distbp.report.findings import (
    Evaluation,
    Example,
    picture_shape,
    worst_examples,
    worst_misses,
)
from distbp.report.pictures import as_rgb, weight_images
from distbp.report.plots import (
    draw_confusion,
    draw_histogram,
    draw_predictions,
    draw_residuals,
    draw_weights,
)
from distbp.report.reported_run import ReportedRun
from distbp.report.wording import clean, number, percent, slug, some

_MOST_PARTS = 30  # classes, labels or targets in a table
_MOST_TARGETS = 4  # that have figures
_MOST_PICTURES = 24
_MOST_LISTED = 10
_MOST_UNITS, _MOST_INPUTS = 64, 30  # of a heat map
_COLUMNS = {
    "rows": "rows", "precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC",
    "r2": "R²", "mae": "MAE", "rmse": "RMSE",
}  # fmt: skip


def prediction_elements(run: ReportedRun, found: Evaluation, data: DataSet) -> list[Element]:
    """Return the score of a model, its errors, and the worst of them."""
    if found.task == "classification":
        return _classification(run, found, data)
    if found.task == "regression":
        return _regression(run, found)
    text = (
        f"{_evaluated(run, found)}: {percent(found.score['accuracy'])} of all labels are correct."
    )
    table = _part_table(found, "labels")
    return [Note(text), *([table] if table else [])]


def _evaluated(run: ReportedRun, found: Evaluation) -> str:
    """Return what was evaluated, as the beginning of a sentence."""
    epoch = run.checkpoint.about["progress"]["epoch"] if run.checkpoint else 0
    held = ", held out of the training rows" if found.group == "train" else ""
    rows = some(len(found.targets), found.total, f"{found.split} row")
    return f"The newest checkpoint, after epoch {epoch:,}, on {rows}{held}"


def _classification(run: ReportedRun, found: Evaluation, data: DataSet) -> list[Element]:
    matrix, names = found.confusion, [clean(name) for name in found.names]
    share = percent(found.score["accuracy"])
    text = f"{_evaluated(run, found)}: the class of {share} is predicted correctly."
    plot = Plot(
        "confusion-matrix", "Confusion matrix", _describe_confusion(matrix, names),
        partial(draw_confusion, matrix, names),
    )  # fmt: skip
    examples = worst_examples(found, data, _MOST_PICTURES)
    return [
        Note(text), Plots([plot], _part_table(found, "classes")),
        *_worst_elements(found, examples),
    ]  # fmt: skip


def _describe_confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Return the most frequent confusions in a sentence."""
    text = "Rows by their class, and by the class that is predicted"
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-errors, axis=None, kind="stable")[:3]
    pairs = [divmod(int(at), len(matrix)) for at in order if errors.flat[at]]
    if not pairs:
        return f"{text}: no row is predicted wrongly."
    texts = [f"{names[i]} taken for {names[j]} ({matrix[i, j]:,})" for i, j in pairs]
    return f"{text}. Most frequent errors: {', '.join(texts)}."


def _part_table(found: Evaluation, kind: str) -> Table | None:
    """Return the metrics of each class, label or target; of many, those with the worst."""
    parts = found.score.get(kind, [])
    columns = [key for key in _COLUMNS if parts and key in parts[0]]
    worst = "r2" if kind == "targets" else "f1"
    caption = f"Metrics of the {kind}"
    if len(parts) > _MOST_PARTS:
        order = sorted(parts, key=lambda part: (part[worst] is not None, part[worst] or 0.0))
        parts, total = order[:_MOST_PARTS], len(parts)
        caption += f": the {_MOST_PARTS} of {total:,} with the lowest {_COLUMNS[worst]}"
    rows = [[clean(part["name"]), *(_cell(key, part[key]) for key in columns)] for part in parts]
    if not rows:
        return None
    noun = {"classes": "class", "labels": "label", "targets": "target"}[kind]
    return Table(caption, [noun, *(_COLUMNS[key] for key in columns)], rows)


def _cell(key: str, value: float | None) -> str:
    return f"{value:,}" if key == "rows" else number(value)


def _worst_elements(found: Evaluation, examples: Sequence[Example]) -> list[Element]:
    """Return the worst errors: as pictures if the rows are images, otherwise as a table."""
    if not examples:
        return []
    caption = (
        f"The rows of {found.split} that are predicted wrongly and whose true class has the lowest "
        f"probability. Rows are counted from 0 in “{found.group}”."
    )
    images = [one.picture for one in examples if one.picture is not None]
    if len(images) < len(examples):
        rows = [
            [f"{one.row:,}", clean(one.truth), clean(one.predicted), percent(one.confidence),
             percent(one.probability)]
            for one in examples[:_MOST_LISTED]
        ]  # fmt: skip
        headers = ["row", "true", "predicted", "with probability", "of the true class"]
        return [Table(f"Worst errors. {caption}", headers, rows)]
    pictures = [
        Picture(
            image,
            f"Row {one.row}: {clean(one.truth)}, predicted as {clean(one.predicted)}",
            (f"{clean(one.truth)} → {clean(one.predicted)}", f"{percent(one.confidence)}",
             f"row {one.row:,}"),
        )
        for one, image in zip(examples, as_rgb(images), strict=True)
    ]  # fmt: skip
    title = "Worst errors: true → predicted class, its probability"
    return [Gallery("worst-errors", title, caption, pictures)]


def _regression(run: ReportedRun, found: Evaluation) -> list[Element]:
    text = f"{_evaluated(run, found)}: R² {number(found.score['r2'])}"
    if len(found.names) == 1:  # those of several targets are in other units
        text += f", RMSE {number(found.score['rmse'])}"
    elements: list[Element] = [Note(f"{text}.")]
    table = _part_table(found, "targets")
    elements += [table] if table else []
    for i in range(min(len(found.names), _MOST_TARGETS)):
        elements.append(Plots(_target_plots(found, i), _largest_errors(found, i)))
    return elements


def _largest_errors(found: Evaluation, i: int) -> Table:
    """Return the rows with the largest errors of a target."""
    rows = [
        [f"{row:,}", number(truth), number(value), number(value - truth)]
        for row, truth, value in worst_misses(found, i, _MOST_LISTED)
    ]
    caption = f"Largest errors of {_target_name(found, i)} in {found.split}"
    return Table(caption, ["row", "true", "predicted", "predicted − true"], rows)


def _target_name(found: Evaluation, i: int) -> str:
    """Return the name of a target; that of the only one may be but its number."""
    name = found.names[i]
    return "value" if len(found.names) == 1 and name == "0" else clean(name)


def _target_plots(found: Evaluation, i: int) -> list[Plot]:
    """Return the figures of one target."""
    truth, predicted = found.targets[:, i], found.outputs[:, i].astype(np.float64)
    # The exponential of a predicted logarithm may overflow.
    is_finite = np.isfinite(predicted)
    truth, predicted = truth[is_finite], predicted[is_finite]
    if not len(truth):
        return []
    residuals, label = predicted - truth, _target_name(found, i)
    end = "" if len(found.names) == 1 else f"-{slug(label)}"
    low, middle, high = np.quantile(residuals, [0.05, 0.5, 0.95])
    spread = f"median {number(middle, 2)}, 90 % between {number(low, 2)} and "
    spread += number(high, 2)
    if not is_finite.all():
        spread += f"; without {(~is_finite).sum():,} rows whose predicted value is not finite"
    correlation = np.corrcoef(truth, predicted)[0, 1] if min(truth.std(), predicted.std()) else 0.0
    return [
        Plot(
            f"predicted-against-true{end}", f"Predicted against true {label}",
            f"One dot a row; on the dashed line both are equal. Their correlation is "
            f"{number(correlation, 3)}.",
            partial(draw_predictions, truth, predicted, label),
        ),
        Plot(
            f"residuals{end}", f"Residuals of {label}",
            f"Predicted minus true value against the predicted one, one dot a row: {spread}.",
            partial(draw_residuals, truth, predicted, label),
        ),
        Plot(
            f"residual-histogram{end}", f"Distribution of the residuals of {label}",
            f"Rows by predicted minus true value: {spread}.",
            partial(draw_histogram, residuals),
        ),
    ]  # fmt: skip


def weight_elements(run: ReportedRun, shape: Sequence[int] | None) -> list[Element]:
    """Return the weights of the first layer, as images if the rows have the shape of images."""
    if run.checkpoint is None:
        return []
    weights = run.checkpoint.network.weights[0]  # (n_1, n_0)
    names, is_output = _unit_names(run)
    norms = np.linalg.norm(weights, axis=1)
    units = np.arange(len(weights)) if is_output else np.argsort(-norms, kind="stable")
    image = picture_shape(shape) if shape is not None else None
    if image is None or shape is None:
        return [Plots([_heat_map(run, weights, units[:_MOST_UNITS])])]
    chosen = units[:_MOST_PICTURES]
    if tuple(shape) != image and len(image) == 3:  # channels first
        pixels = np.arange(weights.shape[1]).reshape(shape).transpose(1, 2, 0).ravel()
        weights = weights[:, pixels]
    pictures = [
        Picture(picture, f"Weights of {names[unit]}", (names[unit],))
        for unit, picture in zip(chosen, weight_images(weights[chosen], image), strict=True)
    ]
    which = "" if len(chosen) == len(units) else f" The {len(chosen)} with the largest norm."
    caption = (
        f"Each image has the weights of one of {len(units):,} units from all inputs: blue is "
        f"positive, orange negative, relative to the largest of the unit.{which}"
    )
    return [Gallery("first-layer-weights", "Weights of the first layer", caption, pictures)]


def _unit_names(run: ReportedRun) -> tuple[list[str], bool]:
    """Return the names of the first layer's units, and whether these are the outputs."""
    checkpoint = run.checkpoint
    if checkpoint is None:
        return [], False
    sizes, classes = checkpoint.network.sizes, checkpoint.about["classes"]
    if len(sizes) == 2 and classes:
        return [clean(name) for name in classes], True
    return [f"unit {i}" for i in range(sizes[1])], len(sizes) == 2


def _heat_map(run: ReportedRun, weights: np.ndarray, units: np.ndarray) -> Plot:
    preprocessing = run.checkpoint.preprocessing if run.checkpoint else None
    n_inputs = weights.shape[1]
    names = (
        [clean(name) for name in preprocessing.input_names]
        if preprocessing
        else [f"input {i}" for i in range(n_inputs)]
    )
    norms = np.linalg.norm(weights, axis=0)
    inputs = np.arange(n_inputs)
    if n_inputs > _MOST_INPUTS:
        inputs = np.sort(np.argsort(-norms, kind="stable")[:_MOST_INPUTS])
    largest = [names[i] for i in np.argsort(-norms, kind="stable")[:3]]
    caption = (
        f"{some(len(inputs), n_inputs, 'input').capitalize()} by "
        f"{some(len(units), len(weights), 'unit')}: blue is positive, orange negative. The largest "
        f"norms are those of {', '.join(largest)}. Inputs are scaled as in the training."
    )
    chosen = weights[np.ix_(units, inputs)]
    return Plot(
        "first-layer-weights", "Weights of the first layer", caption,
        partial(draw_weights, chosen, [names[i] for i in inputs]),
    )  # fmt: skip
