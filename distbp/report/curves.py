"""Curves of numbers that a run records per epoch, and what they show in a sentence.

A curve of 100,000 epochs would make a page of many megabytes, and hide its extremes behind its
own line: `envelope` reduces it to the least, mean and greatest value of a few hundred intervals.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from distbp.training.messages import count, format_cost

_MOST_POINTS = 600  # of a line on a page: more than it has pixels
_LOG_RATIO = 50.0  # of the greatest to the least value, above which an axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """Numbers over epochs, drawn as one line.

    Attributes
    ----------
    label : str
    x, y : (n,) float64 arrays
        y may have NaN.
    color : int
        Number of its color.
    is_dashed : bool
    mark : int, optional
        The position of a point to be marked.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    color: int = 0
    is_dashed: bool = False
    mark: int | None = None

    @property
    def has_values(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.y).any())


@dataclass(frozen=True)
class Envelope:
    """A curve in intervals of x: their centers, and the range of y in each.

    Attributes
    ----------
    x, low, middle, high : (m,) float64 arrays
    is_reduced : bool
        Whether an interval has several points.
    """

    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    is_reduced: bool


def envelope(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> Envelope:
    """Return a curve (n,) in at most so many intervals; NaN where one has no finite value."""
    if len(y) <= most:
        return Envelope(x, y, y, y, is_reduced=False)
    starts = np.linspace(0, len(y), most, endpoint=False).astype(np.int64)
    is_finite = np.isfinite(y)
    count = np.add.reduceat(is_finite.astype(np.float64), starts)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        middle = np.add.reduceat(np.where(is_finite, y, 0.0), starts) / count
    low, high = (
        reduce.reduceat(np.where(is_finite, y, np.nan), starts) for reduce in (np.fmin, np.fmax)
    )
    ends = np.append(starts[1:], len(y)) - 1
    # The sum of huge values may overflow, and a mean may be rounded past them.
    middle = np.clip(middle, low, high)
    return Envelope((x[starts] + x[ends]) / 2, low, middle, high, is_reduced=True)


def needs_log_scale(values: Iterable[np.ndarray]) -> bool:
    """Return whether values are positive and span orders of magnitude."""
    all_values = np.concatenate([*values, np.empty(0)])
    finite = all_values[np.isfinite(all_values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() > _LOG_RATIO * finite.min())


def describe_curves(curves: Sequence[Curve], is_maximized: bool | None) -> str:
    """Return a sentence of what curves show, also for those who do not see them.

    `is_maximized` says whether more is better; None if neither is.
    """
    texts = [_describe(curve, is_maximized) for curve in curves if curve.has_values]
    last = max((int(curve.x[-1]) for curve in curves if len(curve.x)), default=0)
    return f"In {count(last, 'epoch')}: {'; '.join(texts)}."


def _describe(curve: Curve, is_maximized: bool | None) -> str:
    finite = np.flatnonzero(np.isfinite(curve.y))
    first, last = curve.y[finite[0]], curve.y[finite[-1]]
    if len(finite) == 1 or (curve.y[finite] == first).all():
        return f"{curve.label} {short(first)}"
    text = f"{curve.label} from {short(first)} to {short(last)}"
    if is_maximized is None:
        return text
    pick = np.nanargmax if is_maximized else np.nanargmin
    best = pick(np.where(np.isfinite(curve.y), curve.y, np.nan))
    word = "highest" if is_maximized else "lowest"
    return f"{text}, {word} {short(curve.y[best])} in epoch {int(curve.x[best]):,}"


def describe_marks(curves: Sequence[Curve]) -> str:
    """Return a sentence about what is drawn besides the lines, if there is anything."""
    text, marks = "", sum(curve.mark is not None for curve in curves)
    if marks:
        text += " The dot marks the best epoch." if marks == 1 else " Dots mark the best epochs."
    longest = max((len(curve.y) for curve in curves), default=0)
    if longest > _MOST_POINTS:
        text += f" Each point is the mean of {longest / _MOST_POINTS:,.0f} epochs, in their range."
    return text


def short(value: float) -> str:
    """Return a number as text of a few characters; '–' for one that is undefined."""
    if not math.isfinite(value):
        return "–"
    if value < 0:
        return f"−{short(-value)}"
    return f"{value:,.0f}" if 1000 <= value < 1e6 else format_cost(float(value), 3)
