"""A run's time, faults, configuration and digests, as elements of a page."""

import math
import statistics
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from distbp import kernels
from distbp.errors import ConfigError
from distbp.options import flag
from distbp.report.curves import Curve, describe_curves
from distbp.report.elements import Element, Folded, Note, Plot, Plots, Table
from distbp.report.plots import draw_curves, draw_step_times
from distbp.report.reported_run import RankTimes, ReportedRun, as_number
from distbp.report.wording import clean, count, moment, seconds
from distbp.training.config import Config
from distbp.training.defaults import resolve
from distbp.training.run_records import Event
from distbp.training.state import STANDARDIZED_COST

_MOST_EVENTS = 100
_NOT_IN_REPORT = ("quiet",)


def time_elements(run: ReportedRun) -> list[Element]:
    """Return where the time of a run went."""
    if not run.epochs:
        return [Note("No epoch has been completed yet.")]
    total, speed = training_seconds(run), median_speed(run)
    text = f"{count(len(run.epochs), 'epoch')} took {seconds(total)}, evaluations not counted"
    ranks = f" on {count(run.ranks, 'rank')}" if run.ranks else ""
    elements: list[Element] = [Note(f"{text}; the median is {speed:,.0f} samples/s{ranks}.")]
    plots = [*_speed_plot(run), *_step_plot(run)]
    elements.append(Plots(plots))
    if not run.step_times:
        elements.append(Note("The time of a step by its parts has not been recorded yet."))
    return elements


def training_seconds(run: ReportedRun) -> float:
    """Return the seconds of all epochs' steps."""
    return math.fsum(one for one in run.values("seconds") if math.isfinite(one))


def median_speed(run: ReportedRun) -> float:
    """Return the median of the epochs' samples per second; NaN if there is none."""
    finite = [one for one in run.values("samples_per_s") if math.isfinite(one)]
    return statistics.median(finite) if finite else math.nan


def _speed_plot(run: ReportedRun) -> list[Plot]:
    x, y = (np.array(run.values(key), np.float64) for key in ("epoch", "samples_per_s"))
    curve = Curve("samples/s", x, y)
    if not curve.has_values or len(x) < 2:
        return []
    caption = describe_curves([curve], is_maximized=None)
    return [
        Plot(
            "speed",
            "Samples per second",
            caption,
            partial(draw_curves, [curve], "samples/s", has_zero=True),
        )
    ]


def _step_plot(run: ReportedRun) -> list[Plot]:
    ranks = [rank for rank in run.step_times if rank.parts]
    if not ranks:
        return []
    caption = _describe_times(ranks)
    return [Plot("step-times", "Time of a step", caption, partial(draw_step_times, ranks))]


def _describe_times(ranks: list[RankTimes]) -> str:
    """Return the mean parts of a step's time, and the slowest rank, in a sentence."""
    names = list(dict.fromkeys(name for rank in ranks for name in rank.parts))
    means = {name: statistics.fmean(rank.parts.get(name, 0.0) for rank in ranks) for name in names}
    total = math.fsum(means.values())
    shares = ", ".join(f"{name} {mean / (total or 1.0):.0%}" for name, mean in means.items())
    text = f"Mean of {count(len(ranks), 'rank')}: {total * 1e6:,.0f} µs a step, of which {shares}"
    if len(ranks) == 1:
        return f"{text}."
    slowest = max(range(len(ranks)), key=lambda i: ranks[i].parts.get("compute", 0.0))
    return f"{text}. Rank {slowest} on {clean(ranks[slowest].host)} computes longest."


def event_elements(run: ReportedRun) -> list[Element]:
    """Return how often a run was started, and what went wrong and was survived."""
    problems: list[Element] = [Note(text) for text in run.problems]
    if run.detail:
        problems.insert(0, Note(f"{run.state.capitalize()}: {run.detail}"))
    if not run.events:
        text = "There is no record of starts and faults: an older version of distbp wrote this run."
        return [Note(text), *problems]
    starts = sum(one["event"] == "start" for one in run.events)
    warnings = sum(one["event"] == "warning" for one in run.events)
    text = f"{count(starts, 'start')}, {count(warnings, 'warning')}"
    if starts <= 1 and not warnings:
        text = "One start, without a fault or a warning"
    happened = [one for one in run.events if not _is_measurement(one)]
    shown = happened[-_MOST_EVENTS:]
    rows = [[moment(one.get("time")), _describe_event(one)] for one in shown]
    left = len(happened) - len(shown)
    caption = "What happened" + f" (without the first {left:,})" * (left > 0)
    return [Note(f"{text}."), *problems, Table(caption, ["time", "event"], rows, is_text=True)]


def _is_measurement(event: Event) -> bool:
    """Return whether an event is the times of the steps of a run that goes on."""
    # Before there was `is_end`, they were recorded at the end only.
    return event["event"] == "times" and not event.get("is_end", True)


def _describe_event(event: Event) -> str:
    match event["event"]:
        case "start":
            return _describe_start(event)
        case "stop":
            return f"Stopped by {event.get('reason')}, with a checkpoint."
        case "times":
            return (
                f"Trained to the end, {seconds(as_number(event.get('seconds')))} after the start."
            )
        case _:
            return str(event.get("text", event["event"]))


def _describe_start(event: Event) -> str:
    values = {name: event.get(name) for name in ("epoch", "step", "ranks", "nodes")}
    epoch, step, ranks, nodes = (one if isinstance(one, int) else 0 for one in values.values())
    where = f"on {count(ranks, 'rank')} of {count(nodes, 'node')}"
    if not epoch and not step:
        return f"Started {where}."
    return f"Resumed {where}, after {count(epoch, 'epoch')} and {count(step, 'step')}."


def config_elements(run: ReportedRun) -> list[Element]:
    """Return the options: those that differ from the defaults, and then the others."""
    defaults = default_config(run)
    others, own = list[list[str]](), list[list[str]]()
    for one in fields(Config):
        if one.name in _NOT_IN_REPORT:
            continue
        value, default = getattr(run.config, one.name), getattr(defaults, one.name)
        is_own = value != default or one.name in ("data", "out")
        (own if is_own else others).append(
            [flag(one.name)[2:], show_value(value), show_value(default)]
        )
    headers = ["option", "value", "default"]
    return [
        Table("Options that are not the defaults", headers, own, is_text=True),
        Folded(
            f"{len(others)} options with their defaults",
            [Table("Options with their defaults", headers, others, is_text=True)],
        ),
    ]


def show_value(value: Any) -> str:
    """Return the value of an option as it is typed, or a word for what has none."""
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return clean(",".join(map(str, value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def default_config(run: ReportedRun) -> Config:
    """Return a run's configuration as it would be with all defaults.

    What is derived from others is derived from those that the run had: a learning rate is no
    option of its own if it is the default of the optimizer.
    """
    config, checkpoint = run.config, run.checkpoint
    chosen: dict[str, Any] = {"monitor": _default_monitor(run), "shuffle": "full"}
    chosen |= {"engine": config.engine, "blas": config.blas}  # which follow from the machine
    if config.kernels != kernels.PORTABLE:
        chosen["kernels"] = config.kernels  # the name of those that are native to the CPUs
    if checkpoint is None:
        return replace(Config(), **chosen)
    sizes = checkpoint.network.sizes
    # What `resolve` asks of a data set, which may not be here.
    data = SimpleNamespace(
        task=checkpoint.about["task"], n_in=sizes[0], n_out=sizes[-1], name="",
        target=checkpoint.target, train_bytes=0,
    )  # fmt: skip
    given = replace(config, cost=None, learning_rate=None, shards=None, label_smoothing=0.0)
    try:
        derived = resolve(given, cast(Any, data))
    except ConfigError:  # a configuration of a version with other rules
        derived = config
    names = ("cost", "learning_rate", "shards")
    return replace(Config(), **chosen, **{name: getattr(derived, name) for name in names})


def _default_monitor(run: ReportedRun) -> str | None:
    """Return the monitor that a run would have had without --monitor."""
    if not run.epochs:
        return run.config.monitor
    record = run.epochs[-1]
    standardized = f"validation_{STANDARDIZED_COST}"
    if standardized in record:
        return standardized
    return "train_cost" if record.get("validation_accuracy") is None else "validation_cost"


def identity_elements(run: ReportedRun) -> list[Element]:
    """Return what identifies a run's results: digests, versions, hardware."""
    checkpoint = run.checkpoint
    if checkpoint is None:
        return [Note(text) for text in run.problems]
    about = checkpoint.about
    progress = about["progress"]
    rows = [
        ["digest of the parameters", checkpoint.digest],
        ["of the checkpoint after", f"{count(progress['epoch'], 'epoch')}, "
         f"{count(progress['step'], 'step')}; {count(progress['steps'], 'update')} in all"],
    ]  # fmt: skip
    best = [one for one in run.epochs if one["epoch"] == run.summary.epoch]
    if best and isinstance(best[0].get("digest"), str):
        rows.append([f"digest in epoch {best[0]['epoch']}, the best", best[0]["digest"]])
    rows += [
        ["digest of the data set", str(about["data"].get("digest", "not recorded"))],
        ["kernels", str(about["config"].get("kernels", "not recorded"))],
        ["machine", ", ".join(f"{key} {value}" for key, value in about["machine"].items())],
        ["versions", ", ".join(f"{key} {value}" for key, value in about["versions"].items())],
    ]
    note = (
        "The same data, configuration and kernels give the same digest on any number of ranks; "
        "distbp digest RUN prints the first of them."
    )
    return [Table("Digests and versions", ["what", "value"], rows, is_text=True), Note(note)]
