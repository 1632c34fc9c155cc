"""The output of `distbp evaluate`: one line on all rows, then a table per class or target."""

from collections.abc import Mapping, Sequence
from typing import Any

from distbp.terminal import printable
from distbp.training.messages import format_number, metric_name

_MOST_LINES = 20  # classes, labels or targets that are listed
_MOST_IN_MATRIX = 10  # classes of a confusion matrix
_COLUMNS = {
    "rows": "rows", "precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC",
    "r2": "R²", "mae": "MAE", "rmse": "RMSE",
}  # fmt: skip
_IN_UNITS = ("mae", "rmse")  # of the target, so that they may be large or small
_AVERAGES = {"macro average": "", "micro average": "_micro", "weighted average": "_weighted"}
_Row = list[str]


def score_lines(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return the lines about the score of a split or a file.

    Parameters
    ----------
    name : str
    found : dict
        As `distbp.training.evaluation.Score.to_dict` returns it.
    """
    if "r2" in found:
        accuracy = f"R² {_cell('r2', found['r2'])}"
    else:
        accuracy = f"accuracy {found['accuracy']:.2%}"
    cost = format_number(found["cost"], 6)
    if "cost_of" in found:  # the other numbers are of the targets themselves
        cost += f" of {printable(found['cost_of'])}"
    line = f"{name}: {found['rows']:,} rows, cost {cost}, {accuracy}"
    kind = next((one for one in ("classes", "labels", "targets") if one in found), None)
    return [line] if kind is None else [line, *_other_numbers(found), "", *_table(kind, found)]


def _other_numbers(found: Mapping[str, Any]) -> list[str]:
    """Return a line with the numbers that have no place in the table."""
    others = {
        key: value for key, value in found.items()
        if isinstance(value, float | None) and key not in ("cost", "accuracy")
        and not any(key in (one, f"{one}_micro", f"{one}_weighted") for one in _COLUMNS)
    }  # fmt: skip
    error = others.pop("roc_auc_error", None)
    words = [f"{metric_name(key)} {format_number(one)}" for key, one in others.items()]
    if error is not None:
        words.append(f"ROC AUC to within {error:.1g}")
    return [", ".join(words)] if words else []


def _table(kind: str, found: Mapping[str, Any]) -> list[str]:
    """Return a table with a line for each class, label or target, and their averages."""
    parts = found[kind]
    columns = [key for key in _COLUMNS if key in parts[0]]
    rows: list[_Row] = [[kind, *(_COLUMNS[key] for key in columns)]]
    for part in parts[:_MOST_LINES] if len(parts) <= _MOST_LINES else ():
        rows.append([printable(part["name"]), *(_cell(key, part[key]) for key in columns)])
    for title, suffix in _AVERAGES.items() if len(parts) > 1 else ():
        if any(f"{key}{suffix}" in found for key in columns):
            # All averages are over the same rows.
            keys = (key if key == "rows" else f"{key}{suffix}" for key in columns)
            cells = [_cell(key, found.get(name)) for key, name in zip(columns, keys, strict=True)]
            rows.append(["mean" if kind == "targets" else title, *cells])
    lines = _aligned(rows)
    if len(parts) > _MOST_LINES:
        lines.append(f"{len(parts):,} {kind}: --json prints each of them")
    return lines + _matrix(kind, found)


def _matrix(kind: str, found: Mapping[str, Any]) -> list[str]:
    """Return the confusion matrix of few classes."""
    matrix, parts = found.get("confusion_matrix"), found[kind]
    if kind != "classes" or matrix is None or len(parts) > _MOST_IN_MATRIX:
        return []
    names = [printable(part["name"]) for part in parts]
    rows = [[name, *map(str, row)] for name, row in zip(names, matrix, strict=True)]
    return ["", *_aligned([["class \\ predicted", *names], *rows])]


def _cell(key: str, value: Any) -> str:
    """Return a value as the table shows it."""
    if value is None:
        return "–"
    if key == "rows":
        return f"{value:,}"
    return format_number(value) if key in _IN_UNITS else f"{value:.4f}"


def _aligned(rows: Sequence[_Row]) -> list[str]:
    """Return rows as lines with columns of equal width, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
