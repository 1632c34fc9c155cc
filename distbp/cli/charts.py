"""Curves of text: in Braille characters, or in ASCII where a terminal shows no others.

A `Chart` turns series of numbers into lines of a given width and height. Braille characters have
two by four dots each, which are told apart by color only; so several curves without color are drawn
in marks of ASCII, too. What the numbers are is not known here.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row in a cell
_MARKS = "*o+x"
_MIN_PLOT_WIDTH = 8
_LOG_RATIO = (
    30.0  # between the largest and the smallest value, from which on a scale is logarithmic
)


@dataclass(frozen=True)
class Curve:
    """A series of numbers, NaN where there is none, and the style of its color."""

    name: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True)
class Chart:
    """How to draw curves.

    Attributes
    ----------
    width, height : int
        In characters; of the height, one line is the title and one the axis.
    is_ascii : bool
    has_colors : bool
    """

    width: int
    height: int
    is_ascii: bool = False
    has_colors: bool = True

    def lines(self, title: str, curves: Sequence[Curve]) -> list[Text]:
        """Return the lines of a chart of values that are counted from 1."""
        rows = max(self.height - 2, 1)
        has_marks = self.is_ascii or (len(curves) > 1 and not self.has_colors)
        # Of means where there are more values than columns: an outlier does not flatten all.
        most = 2 * self.width
        low, high = _limits([_resampled(c.values, min(most, len(c.values))) for c in curves])
        is_log = low > 0 and high / low > _LOG_RATIO
        labels = [_format_tick(high), *[""] * (rows - 2), _format_tick(low)][:rows]
        margin = max(map(len, labels))
        columns = max(self.width - margin - 1, _MIN_PLOT_WIDTH)
        grid = _Grid(columns, rows, has_marks, is_log, low, high)
        heading = Text(title + " (log)" * is_log, "bold")
        for number, curve in enumerate(curves):
            mark = _MARKS[number % len(_MARKS)]
            grid.draw(curve, mark)
            name = f" {mark} {curve.name}" if has_marks else f" {curve.name}"
            heading.append(name, self._style(curve.style))
        lines = [heading]
        for label, cells in zip(labels, grid.rows(), strict=True):
            lines.append(Text(label.rjust(margin) + ("|" if self.is_ascii else "│")))
            for character, style in cells:
                lines[-1].append(character, self._style(style))
        lines.append(Text(" " * (margin + 1) + _axis(curves, columns)))
        for line in lines:
            line.truncate(self.width)
        return lines

    def _style(self, style: str) -> str:
        return style if self.has_colors else ""


class _Grid:
    """The dots of a chart, in cells of one character each."""

    def __init__(
        self, columns: int, rows: int, has_marks: bool, is_log: bool, low: float, high: float
    ) -> None:
        self.columns, self.height = columns, rows
        self._across, self._down = (1, 1) if has_marks else (2, 4)
        self._is_log, self._low, self._high = is_log, low, high
        self._cells: dict[tuple[int, int], tuple[int, str, str]] = {}

    def draw(self, curve: Curve, mark: str) -> None:
        """Draw a curve over those before it; neighbours are connected, NaN leave gaps."""
        before = None
        for x, value in enumerate(_resampled(curve.values, self.columns * self._across)):
            if math.isnan(value):
                before = None
                continue
            y = self._row(value)
            # From the row after the last value's, so that a steep curve has no gaps.
            start = y if before is None else before + (y > before) - (y < before)
            for dot in range(min(start, y), max(start, y) + 1):
                self._set(x, dot, mark, curve.style)
            before = y

    def _row(self, value: float) -> int:
        """Return the row of dots of a value, counted from the top."""
        scale = math.log if self._is_log else float
        low, high = scale(self._low), scale(self._high)
        dots = self.height * self._down
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        return dots - 1 - min(max(round(share * (dots - 1)), 0), dots - 1)

    def _set(self, x: int, y: int, mark: str, style: str) -> None:
        cell = x // self._across, y // self._down
        bits = self._cells.get(cell, (0, "", ""))[0]
        self._cells[cell] = bits | _DOTS[x % self._across][y % self._down], mark, style

    def rows(self) -> list[list[tuple[str, str]]]:
        """Return the characters of each row, and their styles."""
        return [[self._cell(x, y) for x in range(self.columns)] for y in range(self.height)]

    def _cell(self, x: int, y: int) -> tuple[str, str]:
        if (x, y) not in self._cells:
            return " ", ""
        bits, mark, style = self._cells[x, y]
        return (mark if self._across == 1 else chr(_BRAILLE + bits)), style


def _limits(series: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the smallest and the largest value that are finite; 0 and 1 without any."""
    found = [value for values in series for value in values if math.isfinite(value)]
    return (min(found), max(found)) if found else (0.0, 1.0)


def _resampled(values: Sequence[float], count: int) -> list[float]:
    """Return about `count` values: means of neighbours, or values between them."""
    n = len(values)
    if n == 0:
        return []
    if n > count:
        ends = [i * n // count for i in range(count + 1)]
        return [_mean(values[a:b]) for a, b in itertools.pairwise(ends)]
    if n == 1:
        return [values[0] if math.isfinite(values[0]) else math.nan]
    return [_between(values, i * (n - 1) / (count - 1)) for i in range(count)]


def _mean(values: Sequence[float]) -> float:
    finite = [one for one in values if math.isfinite(one)]
    return sum(finite) / len(finite) if finite else math.nan


def _between(values: Sequence[float], at: float) -> float:
    """Return the value at a position between two; that of one whose neighbour is missing."""
    left = min(int(at), len(values) - 1)
    right = min(left + 1, len(values) - 1)
    share = at - left
    nearest = values[right if share >= 0.5 else left]
    found = values[left] * (1 - share) + values[right] * share
    return found if math.isfinite(found) else nearest if math.isfinite(nearest) else math.nan


def _axis(curves: Sequence[Curve], columns: int) -> str:
    """Return the numbers of the first and the last value, at the ends of a line."""
    count = max((len(curve.values) for curve in curves), default=0)
    last = str(count) if count > 1 else ""
    return "1".ljust(columns - len(last)) + last


def _format_tick(value: float) -> str:
    """Return a number for an axis, in few characters."""
    return f"{value:.3g}"
