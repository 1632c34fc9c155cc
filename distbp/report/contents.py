"""The contents of a report: of one run in all detail, or of several that are compared.

`make_page` reads, evaluates and words everything; nothing of it is drawn or formatted yet.
"""

import time
from collections.abc import Sequence
from dataclasses import fields

from distbp.errors import DistbpError
from distbp.report.elements import Element, Fact, Folded, Note, Page, Section, Table
from distbp.report.findings import Evaluation, evaluate_run, open_run_data
from distbp.report.learning_contents import best_epoch, learning_elements, metric_title
from distbp.report.prediction_contents import prediction_elements, weight_elements
from distbp.report.reported_run import ReportedRun
from distbp.report.run_contents import (
    config_elements,
    event_elements,
    identity_elements,
    median_speed,
    show_value,
    time_elements,
    training_seconds,
)
from distbp.report.wording import clean, count, moment, number, percent, seconds, slug
from distbp.training.config import Config
from distbp.version import __version__

_NOT_COMPARED = ("out", "quiet")
_DIGEST_CHARS = 12
_COMPARED = ("train_cost", "validation_cost", "validation_accuracy", "test_cost", "test_accuracy")


def make_page(runs: Sequence[ReportedRun], data: str | None = None) -> Page:
    """Return the report on some runs.

    Parameters
    ----------
    runs : sequence of ReportedRun
    data : path, optional
        Of the data set, if it is not where the runs had it.
    """
    now = moment(time.time())
    if len(runs) == 1:
        sections, found = _run_sections(runs[0], data)
        curves = Section("Learning curves", learning_elements(runs))
        facts = _facts(runs[0], found)
        title, subtitle = clean(runs[0].name), _subtitle(runs[0])
        return Page(title, subtitle, facts, [curves, *sections], now, __version__)
    sections = [
        Section("Comparison", [_comparison(runs)]),
        Section("Learning curves", learning_elements(runs)),
        *(_folded_run(run, data) for run in runs),
    ]
    names = ", ".join(clean(run.name) for run in runs[:4]) + ", …" * (len(runs) > 4)
    return Page(f"{len(runs)} runs: {names}", "", [], sections, now, __version__)


def _folded_run(run: ReportedRun, data: str | None) -> Section:
    """Return one of several runs: its numbers, and everything else on request."""
    sections, _ = _run_sections(run, data)
    return Section(
        f"Run {clean(run.name)}",
        [Note(_subtitle(run)), *(Folded(one.title, one.items) for one in sections)],
        prefix=f"{slug(run.name)}-",
    )


def _run_sections(run: ReportedRun, path: str | None) -> tuple[list[Section], Evaluation | None]:
    """Return all sections of a run but its curves, and how its model was evaluated."""
    predictions: list[Element] = []
    found, shape = None, None
    try:
        data = open_run_data(run, path)
        shape = data.about["shape"]
        found = evaluate_run(run, data)
        predictions = prediction_elements(run, found, data)
    except DistbpError as error:  # the rest of the report needs no data
        predictions = [Note(str(error))]
    weights = weight_elements(run, shape)
    return [
        Section("Predictions", predictions),
        *([Section("First layer", weights)] if weights else []),
        Section("Time", time_elements(run)),
        Section("Starts and faults", event_elements(run)),
        Section("Configuration", config_elements(run)),
        Section("Digests", identity_elements(run)),
    ], found


def _subtitle(run: ReportedRun) -> str:
    """Return what was trained on what, and how far."""
    epochs = f"{len(run.epochs):,} of {count(run.config.epochs, 'epoch')}, {run.state}"
    data = f" of {clean(run.config.data)}" if run.config.data else ""
    if run.checkpoint is None:
        return f"{epochs}."
    network = run.checkpoint.network
    sizes = "-".join(map(str, network.sizes))
    return f"{run.checkpoint.about['task'].capitalize()}{data} by a network {sizes}: {epochs}."


def _facts(run: ReportedRun, found: Evaluation | None) -> list[Fact]:
    """Return the numbers at the top of a run's report."""
    facts = []
    if found is not None:
        rows = f"of {count(len(found.targets), 'row')}"
        if "r2" in found.score:
            facts.append(Fact(f"{found.split} R²", number(found.score["r2"]), rows))
        else:
            accuracy = percent(found.score["accuracy"])
            facts.append(Fact(f"{found.split} accuracy", accuracy, rows))
    if (best := best_epoch(run)) is not None:
        facts.append(Fact(f"best {best[0]}", best[1], f"in epoch {run.summary.epoch:,}"))
    facts.append(Fact("epochs", f"{len(run.epochs):,}", f"of {run.config.epochs:,}, {run.state}"))
    if run.epochs:
        ranks = f"on {count(run.ranks, 'rank')}" if run.ranks else "of training"
        facts.append(Fact("time", seconds(training_seconds(run)), ranks))
        facts.append(Fact("speed", f"{median_speed(run):,.0f}", "samples/s, median"))
    if run.checkpoint is not None:
        size = f"{run.checkpoint.network.theta.size:,}"
        facts.append(Fact("parameters", size, run.checkpoint.network.dtype.name))
    return facts


def _comparison(runs: Sequence[ReportedRun]) -> Table:
    """Return a line for each run: the options that differ, and the metrics of its last epoch."""
    differing = [
        one.name
        for one in fields(Config)
        if one.name not in _NOT_COMPARED
        and any(getattr(run.config, one.name) != getattr(runs[0].config, one.name) for run in runs)
    ]
    keys = [
        key
        for key in _COMPARED
        if any(run.epochs and isinstance(run.epochs[-1].get(key), int | float) for run in runs)
    ]
    titles = [
        f"{split} {metric_title(key, runs)}"
        for split, _, key in (one.partition("_") for one in keys)
    ]
    found = dict.fromkeys(best[0] for run in runs if (best := best_epoch(run)) is not None)
    headers = [
        "run", *(name.replace("_", "-") for name in differing), "epochs done",
        f"best {' or '.join(found)}", "in epoch", *titles, "time", "samples/s", "digest",
    ]  # fmt: skip
    caption = "The options that differ, the best score, and the metrics after the last epoch"
    return Table(caption, headers, [_comparison_row(run, differing, keys) for run in runs])


def _comparison_row(run: ReportedRun, differing: Sequence[str], keys: Sequence[str]) -> list[str]:
    best = best_epoch(run)
    digest = run.checkpoint.digest[:_DIGEST_CHARS] if run.checkpoint else ""
    return [
        clean(run.name),
        *(show_value(getattr(run.config, name)) for name in differing),
        f"{len(run.epochs):,}" + ("" if run.has_ended else f" of {run.config.epochs:,}"),
        *((best[1], f"{run.summary.epoch:,}") if best else ("", "")),
        *(number(run.values(key)[-1]) if run.epochs else "" for key in keys),
        seconds(training_seconds(run)),
        f"{median_speed(run):,.0f}" if run.epochs else "",
        digest,
    ]
