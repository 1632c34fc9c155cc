"""The text of `distbp watch`: a page about one run, or a line for each of several.

Pure functions of a `RunFollower` and of the `Look` of the terminal, which return lines that are no
wider than it. Reading, waiting and drawing are not done here.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from distbp.cli.charts import Chart, Curve
from distbp.terminal import printable
from distbp.training.messages import count, format_cost, metric_name
from distbp.training.run_follower import DIED, SILENT, STATES, WAITING, RunFollower
from distbp.training.run_summary import FAILED, FINISHED, UNFINISHED
from distbp.training.status_file import RUNNING, STOPPED

_STYLES = {
    RUNNING: "green", FINISHED: "bold green", STOPPED: "yellow", SILENT: "yellow",
    UNFINISHED: "yellow", FAILED: "bold red", DIED: "bold red", WAITING: "dim",
}  # fmt: skip
_CURVE_STYLES = {"train": "cyan", "validation": "green", "test": "magenta"}
_LABEL_WIDTH = 10
_SIDE_BY_SIDE_WIDTH = 100
_CHART_HEIGHT, _MIN_CHART_HEIGHT = 8, 4
_BAR_WIDTH, _MIN_NAME_WIDTH = 20, 8
_NO_VALUE = ""


@dataclass(frozen=True)
class Look:
    """What a terminal can show.

    Attributes
    ----------
    width : int
    height : int or None
        None without a limit.
    is_ascii, has_colors : bool
    """

    width: int
    height: int | None = None
    is_ascii: bool = False
    has_colors: bool = True

    def style(self, name: str) -> str:
        """Return a style, or none where there are no colors."""
        return name if self.has_colors else ""


# One run


def run_page(run: RunFollower, look: Look) -> list[Text]:
    """Return all that is known of a run, with its curves in what is left of the height."""
    lines = [*_heading(run, look), _progress_line(run, look)]
    for label, text in (
        ("speed", _speed(run)),
        ("cost", _values(run, "cost")),
        (_score_label(run, look), _values(run, _score_key(run))),
        ("best", _best(run)),
        ("saved", _saved(run)),
        ("warnings", _warnings(run)),
    ):
        lines += _labelled(label, text, look)
    left = 2 * _CHART_HEIGHT if look.height is None else look.height - len(lines) - 1
    lines += _charts(run, look, left)
    return [_cut(line, look) for line in lines]


def _cut(line: Text, look: Look) -> Text:
    """Shorten a line to the width of the terminal."""
    if line.cell_len > look.width:
        line.truncate(
            look.width - 3 * look.is_ascii, overflow="crop" if look.is_ascii else "ellipsis"
        )
        if look.is_ascii:
            line.append("...")
    return line


def _heading(run: RunFollower, look: Look) -> list[Text]:
    state, more = run.state()
    title = Text(_plain(str(run.folder), look), look.style("bold"))
    title.append("  ").append(state, look.style(_STYLES[state]))
    if run.process and state in (RUNNING, SILENT, DIED):
        title.append(f" on {_plain(run.process, look)}")
    if state == FINISHED and run.epochs < run.total_epochs:
        more = more or f"early, after {count(run.epochs, 'epoch')} of {run.total_epochs:,}"
    if state in (DIED, UNFINISHED) and not math.isnan(run.age("last.h5")):
        more += ("; " if more else "") + f"distbp train --resume {run.folder} continues it"
    if state == WAITING:
        more = "it has not been started, or does not exist"
    wrapped = textwrap.wrap(_plain(more, look), look.width)
    return [title, *(Text(line, look.style(_STYLES[state])) for line in wrapped)]


def _plain(text: str, look: Look) -> str:
    """Return text from a file as what the terminal can show."""
    text = printable(text)
    return text.encode("ascii", "replace").decode() if look.is_ascii else text


def _labelled(label: str, text: str, look: Look) -> list[Text]:
    """Return the lines of a text, the first one with a label; none if it is empty."""
    room = max(look.width - _LABEL_WIDTH, _LABEL_WIDTH)
    wrapped = textwrap.wrap(_plain(text, look), room, max_lines=3, placeholder=" ...")
    lines = [Text(f"{'':{_LABEL_WIDTH}}{line}") for line in wrapped]
    if lines:
        lines[0] = Text(f"{label:{_LABEL_WIDTH}}", look.style("bold")).append(
            wrapped[0], "not bold"
        )
    return lines


def _progress_line(run: RunFollower, look: Look) -> Text:
    step, steps = run.step
    total = f"/{run.total_epochs:,}" if run.total_epochs else ""
    text = f"{run.epochs:,}{total} epochs"
    if step:
        text += f" + {step:,}/{steps:,} steps"
    line = Text(f"{'done':{_LABEL_WIDTH}}", look.style("bold")).append(text, "not bold")
    room = look.width - line.cell_len - 7
    if run.total_epochs and room >= 5:
        line.append(" ").append_text(_bar(run.fraction, min(_BAR_WIDTH, room), look))
    return line.append(f" {run.fraction:4.0%}", "not bold") if run.total_epochs else line


def _bar(fraction: float, width: int, look: Look) -> Text:
    """Return a bar, of which a fraction is full."""
    full = int(fraction * width)
    filled, empty = ("#", "-") if look.is_ascii else ("━", "─")
    return Text(filled * full, look.style("not bold green")).append(
        empty * (width - full), look.style("not bold bright_black")
    )


def _speed(run: RunFollower) -> str:
    parts = []
    if not math.isnan(speed := run.samples_per_s):
        parts.append(f"{speed:,.0f} samples/s")
    if run.state()[0] in (RUNNING, SILENT) and not math.isnan(left := run.seconds_left()):
        parts.append(f"{duration(left)} left")
    if not math.isnan(rate := run.last("learning_rate")):
        parts.append(f"learning rate {rate:.4g}")
    return ", ".join(parts)


def _splits(run: RunFollower, key: str) -> list[str]:
    """Return the splits that have had a number of the records."""
    names = (f"{split}_{key}" for split in _CURVE_STYLES)
    found = [n for n in names if n in run.series and any(map(math.isfinite, run.series[n]))]
    return [name.partition("_")[0] for name in found]


def _values(run: RunFollower, key: str) -> str:
    """Return the last values of a number of the records."""
    return ", ".join(
        f"{split} {_format(run.last(f'{split}_{key}'))}" for split in _splits(run, key)
    )


def _format(value: float) -> str:
    return "not finite" if not math.isfinite(value) else format_cost(value)


def _score_key(run: RunFollower) -> str:
    """Return what is shown besides the cost: what is monitored, or the accuracy."""
    key = run.monitor.name.partition("_")[2] if run.monitor else "cost"
    return "accuracy" if key == "cost" else key


def _score_label(run: RunFollower, look: Look) -> str:
    key = _score_key(run)
    if key == "accuracy" and "train" not in _splits(run, key):  # of a regression
        return "R2" if look.is_ascii else "R²"
    return metric_name(key)


def _best(run: RunFollower) -> str:
    if run.best is None or run.monitor is None:
        return ""
    ago = run.epochs - 1 - run.best
    text = f"{run.monitor.name} {_format(run.series[run.monitor.name][run.best])} in epoch "
    text += f"{run.best + 1:,}"
    return f"{text}, {count(ago, 'epoch')} ago" if ago else text


def _saved(run: RunFollower) -> str:
    ages = [(name, run.age(name)) for name in ("last.h5", "best.h5")]
    return ", ".join(f"{name} {duration(age)} ago" for name, age in ages if not math.isnan(age))


def _warnings(run: RunFollower) -> str:
    parts = []
    if run.epochs and not math.isfinite(run.last("train_cost")):
        parts.append("the training cost is not a finite number")
    number = run.status.get("warnings")
    if isinstance(number, int) and number:
        parts.append(f"{number:,}; the last: {run.status.get('last_warning', '')}")
    return "; ".join(parts)


def _charts(run: RunFollower, look: Look, left: int) -> list[Text]:
    """Return the curves of cost and score, as far as `left` lines have room for them."""
    kinds = [("cost", "cost"), (_score_label(run, look), _score_key(run))]
    kinds = [(title, key) for title, key in kinds if _splits(run, key)]
    if not kinds or left < _MIN_CHART_HEIGHT:
        return []
    is_wide = look.width >= _SIDE_BY_SIDE_WIDTH and len(kinds) > 1
    if not is_wide and left < len(kinds) * _MIN_CHART_HEIGHT:
        kinds = kinds[-1:]
    width = (look.width - 2) // 2 if is_wide else look.width
    height = min(left if is_wide else left // len(kinds), 2 * _CHART_HEIGHT)
    chart = Chart(width, height, look.is_ascii, look.has_colors)
    drawn = [chart.lines(title, _curves(run, key)) for title, key in kinds]
    if not is_wide:
        return [line for lines in drawn for line in lines]
    for line in drawn[0]:
        line.pad_right(width + 2 - line.cell_len)
    return [one.append_text(other) for one, other in zip(*drawn, strict=True)]


def _curves(run: RunFollower, key: str) -> list[Curve]:
    splits = _splits(run, key)
    if "validation" in splits:
        splits = [split for split in splits if split != "test"]  # three would hide each other
    return [Curve(one, run.series[f"{one}_{key}"], _CURVE_STYLES[one]) for one in splits]


def duration(seconds: float) -> str:
    """Return a duration as text, in its two largest units."""
    total = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if total >= size:
            return f"{total // size} {unit} {total % size // part} {smaller}"
    return f"{total // 60} min {total % 60} s" if total >= 60 else f"{total} s"


# Several runs


@dataclass(frozen=True)
class _Column:
    """A column of the table of runs; those of low priority are left out first."""

    title: str
    priority: int
    is_number: bool = True


_COLUMNS = (
    _Column("run", 9, is_number=False),
    _Column("state", 8, is_number=False),
    _Column("epochs", 7),
    _Column("done", 6),
    _Column("cost", 3),
    _Column("best", 5),
    _Column("samples/s", 2),
    _Column("left", 4),
    _Column("", 1, is_number=False),
)


def runs_table(runs: Sequence[RunFollower], names: Sequence[str], look: Look) -> list[Text]:
    """Return a line for each run, those first that go on or have failed if there is no room."""
    states = [run.state() for run in runs]
    number = Counter(state for state, _ in states)
    summary = ", ".join(f"{number[one]} {one}" for one in STATES if number[one])
    order = list(range(len(runs)))
    room = len(order) if look.height is None else max(look.height - 4, 1)
    if len(order) > room:
        urgency = {one: i for i, one in enumerate((RUNNING, DIED, FAILED, SILENT, STOPPED))}
        order = sorted(sorted(order, key=lambda i: urgency.get(states[i][0], 9))[:room])
    rows = [_cells(runs[i], names[i], *states[i], look) for i in order]
    widths = _column_widths(rows, look)
    lines = [Text(f"{count(len(runs), 'run')}: {summary}", look.style("bold"))]
    lines.append(_row([column.title for column in _COLUMNS], widths, look, look.style("bold")))
    for i, row in zip(order, rows, strict=True):
        lines.append(_row(row, widths, look, "", look.style(_STYLES[states[i][0]])))
    if len(order) < len(runs):
        lines.append(Text(f"and {len(runs) - len(order):,} more"))
    return [_cut(line, look) for line in lines]


def _cells(run: RunFollower, name: str, state: str, more: str, look: Look) -> list[str]:
    cost = run.last("validation_cost")
    cost = run.last("train_cost") if math.isnan(cost) else cost
    monitor, is_going = run.monitor, state in (RUNNING, SILENT)
    best = monitor and run.best is not None and run.series[monitor.name][run.best]
    left = run.seconds_left() if is_going else math.nan
    speed = run.samples_per_s
    total = f"/{run.total_epochs:,}" if run.total_epochs else ""
    cells = [
        name, state, f"{run.epochs:,}{total}", f"{run.fraction:.0%}" if total else _NO_VALUE,
        _format(cost) if run.epochs else _NO_VALUE,
        format_cost(best) if isinstance(best, float) else _NO_VALUE,
        _NO_VALUE if math.isnan(speed) else f"{speed:,.0f}",
        _NO_VALUE if math.isnan(left) else duration(left),
        more,
    ]  # fmt: skip
    return [_plain(cell, look) for cell in cells]


def _column_widths(rows: Sequence[Sequence[str]], look: Look) -> dict[int, int]:
    """Return the widths of the columns that there is room for, by their numbers."""
    widths = {
        i: max(len(column.title), *(Text(row[i]).cell_len for row in rows))
        for i, column in enumerate(_COLUMNS)
    }
    last = len(_COLUMNS) - 1
    widths[last] = min(widths[last], 1)  # it takes what is left
    for i in sorted(widths, key=lambda i: _COLUMNS[i].priority):
        excess = sum(widths.values()) + 2 * (len(widths) - 1) - look.width
        if excess <= max(widths[0] - _MIN_NAME_WIDTH, 0) or i == 0:
            widths[0] -= max(excess, 0)
            break
        del widths[i]
    if last in widths:
        widths[last] += max(look.width - sum(widths.values()) - 2 * (len(widths) - 1), 0)
        if widths[last] < _MIN_NAME_WIDTH:
            del widths[last]
    return widths


def _row(
    cells: Sequence[str], widths: dict[int, int], look: Look, style: str, state_style: str = ""
) -> Text:
    line = Text(style=style)
    for i, width in widths.items():
        cell = Text(cells[i], state_style if _COLUMNS[i].title == "state" else "")
        cell = _cut(cell, Look(max(width, 4), is_ascii=look.is_ascii))
        padding = " " * (width - cell.cell_len)
        line.append("  " if i else "")
        line.append(padding if _COLUMNS[i].is_number else "").append_text(cell)
        line.append("" if _COLUMNS[i].is_number else padding)
    line.rstrip()
    return line
