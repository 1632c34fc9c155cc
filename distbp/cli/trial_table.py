"""The results of a sweep: a table for people, and rows for CSV files."""

from collections.abc import Sequence
from typing import Any

from distbp.terminal import printable
from distbp.training.messages import format_number
from distbp.training.run_summary import FAILED, FINISHED, TrialSummary
from distbp.training.search_space import value_text

_DIGEST_DIGITS = 12  # are enough to tell models apart


def table_lines(trials: Sequence[TrialSummary], names: Sequence[str]) -> list[str]:
    """Return a table with a line for each trial, and then why some failed.

    Parameters
    ----------
    trials : sequence of TrialSummary
        In the order of their scores.
    names : sequence of str
        Fields of Config that vary.
    """
    has_folds = any(len(trial.runs) > 1 for trial in trials)
    head = ["trial", *(one.replace("_", "-") for one in names), _score_name(trials)]
    head += ["±"] * has_folds + ["epoch"] + ["digest"] * (not has_folds) + ["state"]
    lines = [head]
    for trial in trials:
        cells = [trial.name, *(_option(trial, name) for name in names), _number(trial.score)]
        cells += [_number(trial.deviation)] * has_folds + [_epochs(trial)]
        cells += [_digests(trial)[:_DIGEST_DIGITS]] * (not has_folds) + [trial.state]
        lines.append(cells)
    return (
        _aligned(lines)
        + _caution(trials)
        + [
            f"{_run_name(trial, run)} failed: {printable(run.message)}"
            for trial in trials
            for run in trial.runs
            if run.state == FAILED
        ]
    )


def _caution(trials: Sequence[TrialSummary]) -> list[str]:
    """Return a line if the scores say little about new rows."""
    name = _score_name(trials)
    if not name.startswith("train_"):
        return []
    return [
        f"{name} is of the rows that were trained on: to compare choices, hold others out with "
        "--validation 0.2 or --kfold 5."
    ]


def csv_rows(trials: Sequence[TrialSummary], names: Sequence[str]) -> list[list[Any]]:
    """Return the same as rows of a CSV file, the names of its columns first.

    Numbers are those of the records; the digests of several folds are separated by spaces.
    """
    columns = ["monitor", "score", "deviation", "epoch", "state", "digest"]
    rows: list[list[Any]] = [["trial", *(one.replace("_", "-") for one in names), *columns]]
    for trial in trials:
        monitor = trial.runs[0].monitor
        rows.append([
            trial.name, *(_option(trial, name, missing="") for name in names),
            monitor.name if monitor else "", trial.score, trial.deviation, _epochs(trial, ""),
            trial.state, _digests(trial),
        ])  # fmt: skip
    return rows


def _score_name(trials: Sequence[TrialSummary]) -> str:
    """Return the heading of the scores."""
    names = {run.monitor.name for trial in trials for run in trial.runs if run.monitor}
    return names.pop() if len(names) == 1 else "score"


def _option(trial: TrialSummary, name: str, missing: str = "–") -> str:
    """Return the value of an option as --vary has it."""
    config = trial.runs[0].config
    if config is None:
        return missing
    return value_text(getattr(config, name))


def _number(value: float | None) -> str:
    return "–" if value is None else format_number(value)


def _epochs(trial: TrialSummary, missing: str = "–") -> str:
    return ",".join(missing if run.epoch is None else str(run.epoch) for run in trial.runs)


def _digests(trial: TrialSummary) -> str:
    if trial.state != FINISHED:
        return ""
    return " ".join(run.digest() for run in trial.runs)


def _run_name(trial: TrialSummary, run: Any) -> str:
    return trial.name if len(trial.runs) == 1 else f"{trial.name}/{run.folder.name}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
