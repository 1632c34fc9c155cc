"""The figures of a report: pure functions from numbers to matplotlib's figures.

Each takes what it draws and a `Palette`; how a figure becomes part of a page or a file is known to
`figures`. Sizes are in inches; a page scales a figure to the width of its column.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from distbp.report.curves import Curve, envelope, needs_log_scale
from distbp.report.palette import N_SERIES, Palette
from distbp.report.pictures import SIGNED
from distbp.report.reported_run import RankTimes

_SIZE = (4.8, 3.0)
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # of series beyond the number of colors
_MOST_IN_AXES = 3  # names of lines beside them
_MOST_IN_LEGEND = 12
_MOST_BARS = 24  # ranks that get a bar each
_MOST_CELLS = 30  # classes whose matrix is drawn cell by cell
_MOST_NUMBERS = 12  # classes whose cells have their numbers in them
_MOST_DOTS = 1000
_LABEL_CHARS = 16
_SHADE = 0.5  # the darkest cell: its number has to be readable
_PART_NAMES = {"compute": "compute", "wait": "wait", "exchange": "exchange", "update": "update"}


def _new_figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def clip_label(text: str, most: int = _LABEL_CHARS) -> str:
    """Return text that fits beside an axis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def draw_curves(
    curves: Sequence[Curve],
    ylabel: str,
    palette: Palette,
    may_be_log: bool = False,
    has_zero: bool = False,
    is_step: bool = False,
) -> Figure:
    """Draw lines over epochs, those of many as their mean within their range.

    `may_be_log`: on a logarithmic scale, if they need one; `has_zero`: on one from 0 on; `is_step`:
    values stay the same for an epoch.
    """
    figure, axes = _new_figure()
    shown = [curve for curve in curves if curve.has_values]
    for curve in shown:
        _draw_curve(axes, curve, palette.series(curve.color), is_step)
    if may_be_log and needs_log_scale(curve.y for curve in shown):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif has_zero:
        axes.set_ylim(bottom=0.0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    if len(shown) > 1:
        _add_legend(figure, axes, len(shown))
    return figure


def _draw_curve(axes: Axes, curve: Curve, color: str, is_step: bool) -> None:
    reduced = envelope(curve.x, curve.y)
    dash: Any = _DASHES[1 if curve.is_dashed else curve.color // N_SERIES % len(_DASHES)]
    if reduced.is_reduced:
        axes.fill_between(
            reduced.x, reduced.low, reduced.high, color=color, alpha=0.25, linewidth=0
        )
    axes.plot(
        reduced.x, reduced.middle, color=color, linestyle=dash, label=clip_label(curve.label, 28),
        linewidth=1.2 if curve.is_dashed else 1.8, marker="o" if len(curve.x) == 1 else "",
        drawstyle="steps-mid" if is_step else "default",
    )  # fmt: skip
    if curve.mark is not None:
        axes.plot(curve.x[curve.mark], curve.y[curve.mark], "o", color=color, markersize=6)


def _add_legend(figure: Figure, axes: Axes, lines: int) -> None:
    """Name the lines: below the axes if there are many, as the names would cover them."""
    handles = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if lines <= _MOST_IN_AXES:
        axes.legend(handles=handles)
    else:
        shown = handles[:_MOST_IN_LEGEND]
        figure.legend(handles=shown, loc="outside lower center", ncols=2)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], palette: Palette) -> Figure:
    """Draw the counts (k, k) of rows by class and predicted class, each row by its share."""
    k = len(names)
    figure, axes = _new_figure((4.8, 4.5))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if k <= _MOST_CELLS:
        _draw_cells(axes, matrix, shares, palette)
    else:  # as one image
        axes.imshow(shares, cmap="viridis", norm="linear", interpolation="nearest")
    ticks = np.arange(k) if k <= _MOST_CELLS else np.linspace(0, k - 1, 6).astype(np.int64)
    labels = [clip_label(names[i], 12) for i in ticks]
    is_long = max(map(len, labels)) * k > 50
    axes.set_xticks(ticks, labels, rotation=90 if is_long else 0)
    axes.set_yticks(ticks, labels)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), xlabel="predicted", ylabel="true")
    axes.set_aspect("equal")
    axes.grid(False)
    axes.tick_params(length=0)
    return figure


def _draw_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray, palette: Palette) -> None:
    k = len(matrix)
    for i, j in np.argwhere(matrix > 0).tolist():
        color = palette.series(0 if i == j else 1)
        # Confusions are rare: on the scale of the right answers they would not show.
        shade = _SHADE * (shares[i, j] if i == j else min(1.0, 0.15 + 4.0 * shares[i, j]))
        axes.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=color, alpha=shade, linewidth=0)
        )
        if k <= _MOST_NUMBERS:
            size = 9 if k <= 6 else 7.5 if matrix.max() < 10_000 else 5.5
            axes.text(
                j, i, f"{matrix[i, j]:,}", ha="center", va="center", fontsize=size,
                color=palette["ink"],
            )  # fmt: skip
    for at in np.arange(k + 1) - 0.5:
        for draw in (axes.axhline, axes.axvline):
            draw(at, color=palette["rule"], linewidth=0.5)


def choose_dots(rows: int) -> np.ndarray:
    """Return the positions of the rows that a scatter plot shows."""
    return np.arange(rows) if rows <= _MOST_DOTS else np.arange(_MOST_DOTS) * rows // _MOST_DOTS


def draw_predictions(truth: np.ndarray, predicted: np.ndarray, name: str, p: Palette) -> Figure:
    """Draw predicted against true values (m,)."""
    figure, axes = _new_figure((4.8, 3.6))
    chosen = choose_dots(len(truth))
    _draw_dots(axes, truth[chosen], predicted[chosen], p)
    low, high = float(truth[chosen].min()), float(truth[chosen].max())
    axes.plot([low, high], [low, high], color=p["ink"], linewidth=1, linestyle=_DASHES[1])
    axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
    return figure


def draw_residuals(truth: np.ndarray, predicted: np.ndarray, name: str, p: Palette) -> Figure:
    """Draw the residuals, predicted minus true, against the predicted values (m,)."""
    figure, axes = _new_figure((4.8, 3.6))
    chosen = choose_dots(len(truth))
    _draw_dots(axes, predicted[chosen], (predicted - truth)[chosen], p)
    axes.axhline(0.0, color=p["ink"], linewidth=1, linestyle=_DASHES[1])
    axes.set(xlabel=f"predicted {name}", ylabel="predicted − true")
    return figure


def _draw_dots(axes: Axes, x: np.ndarray, y: np.ndarray, palette: Palette) -> None:
    axes.plot(x, y, "o", color=palette.series(0), markersize=3, alpha=0.4, markeredgewidth=0)


def draw_histogram(residuals: np.ndarray, palette: Palette) -> Figure:
    """Draw how many residuals (m,) lie in each of some intervals."""
    figure, axes = _new_figure((4.8, 3.6))
    axes.hist(
        residuals, bins=min(40, max(8, len(residuals) // 20)), color=palette.series(0), alpha=0.7
    )
    axes.axvline(0.0, color=palette["ink"], linewidth=1, linestyle=_DASHES[1])
    axes.set(xlabel="predicted − true", ylabel="rows")
    return figure


def draw_weights(weights: np.ndarray, names: Sequence[str], palette: Palette) -> Figure:
    """Draw weights (n_1, n_0) as a heat map with a line for each input."""
    n_inputs = weights.shape[1]
    figure, axes = _new_figure((4.8, min(6.5, 1.3 + 0.19 * max(n_inputs, 6))))
    limit = float(np.abs(weights).max()) or 1.0
    image = axes.imshow(
        weights.T, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(np.arange(n_inputs), [clip_label(name, 22) for name in names])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("hidden unit, by the norm of its weights")
    axes.grid(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def draw_step_times(ranks: Sequence[RankTimes], palette: Palette) -> Figure:
    """Draw the parts of a step's time for each rank, one after the other."""
    names = list(dict.fromkeys(name for rank in ranks for name in rank.parts))
    times = np.array([[1e6 * rank.parts.get(name, 0.0) for name in names] for rank in ranks])
    is_bars = len(ranks) <= _MOST_BARS
    figure, axes = _new_figure((4.8, 1.3 + 0.22 * len(ranks) if is_bars else 3.0))
    start = np.zeros(len(ranks))
    for i, name in enumerate(names):
        color, where = palette.series(i), np.arange(len(ranks))
        if is_bars:
            axes.barh(
                where, times[:, i], left=start, height=0.7, color=color, label=_PART_NAMES[name]
            )
        else:
            axes.fill_between(
                where, start, start + times[:, i], color=color, step="mid", linewidth=0,
                label=_PART_NAMES[name],
            )  # fmt: skip
        start = start + times[:, i]
    if is_bars:
        axes.set_yticks(np.arange(len(ranks)), [f"rank {i}" for i in range(len(ranks))])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("µs per step")
    else:
        axes.set(xlabel="rank", ylabel="µs per step", xlim=(0, len(ranks) - 1))
    figure.legend(loc="outside upper center", ncols=len(names))
    return figure


def draw_pictures(
    pictures: Sequence[np.ndarray], labels: Sequence[str], palette: Palette
) -> Figure:
    """Draw images with a label each, as a sheet."""
    columns = min(6, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, label in zip(grid.flat, pictures, labels, strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(label, fontsize=6, color=palette["ink"])
    return figure
