"""A few steps of a training, with the digests of all arrays after each: what `verify` compares.

They are ordinary steps of `Run`, on the first rows of the data, so that 20 of them are several
epochs, each with a last, short batch: dropout, clipping, schedules, averages, evaluations and the
check for silent data corruption all come to pass. They are done twice: as in a training, whose
engine may make several steps at once, and one by one, with a digest of each array after each step.
"""

import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.dataset import DataSet, Split
from distbp.network.parameter_store import AVERAGE
from distbp.parallel.topology import Topology
from distbp.training.array_difference import arrays_of_layers, state_vectors
from distbp.training.config import EXACT_REDUCTIONS, Config
from distbp.training.defaults import resolve
from distbp.training.folds import parse_fold
from distbp.training.holdout import split_validation
from distbp.training.inputs import open_data
from distbp.training.loop import Run
from distbp.training.recorder import MemoryRecorder, NullRecorder
from distbp.training.setup import IS_STREAMED, RunParts, assemble
from distbp.training.state import Progress

_MIN_EPOCHS = 4
_EVALUATED_ROWS = 500  # of validation and test
_CHECK_EVERY = 5  # steps, so that a step is recomputed, too
_TIMED_STEPS, _TIMED_S = 200, 2.0  # more steps where they are short, for a steadier time
_DIGEST_DIGITS = 16
_DECAYING = ("step", "plateau")  # the schedules that change the rate after some epochs
_CLOCK_KEYS = ("seconds", "samples_per_s")


@dataclass(frozen=True)
class FewSteps:
    """A short form of a training.

    Attributes
    ----------
    config : Config
        Without a directory, and with as many epochs as give the steps.
    data : DataSet
        With few rows.
    rows : Split
        To train on.
    """

    config: Config
    data: DataSet
    rows: Split


def plan_few_steps(config: Config, steps: int, comm: Topology) -> FewSteps:
    """Open the data and return a training of at least so many steps; collective.

    It follows from configuration and data alone, and so is the same on any ranks.

    Raises
    ------
    DistbpError
        On all ranks: the data cannot be read, or do not fit the configuration.
    """
    data = open_data(Path(config.data), comm, IS_STREAMED[config.shuffle])
    shuffle = resolve(config, data).shuffle  # by the size of all of the data
    epochs = min(_epochs_wanted(config), steps)
    _keep_first_rows(data, _rows_wanted(config, -(-steps // epochs)))
    check_every = config.check_every and min(config.check_every, _CHECK_EVERY)
    config = replace(
        config, out="", shuffle=shuffle, time_limit=None, quiet=True,
        check_every=check_every if config.combine in EXACT_REDUCTIONS else config.check_every,
    )  # fmt: skip
    rows, _ = split_validation(config, data, comm)
    per_epoch = -(-len(rows) // config.batch_size)
    config = resolve(replace(config, epochs=-(-steps // per_epoch)), data)
    return FewSteps(config, data, rows)


def _epochs_wanted(config: Config) -> int:
    """Return how many epochs show what the schedule does."""
    wanted = max(_MIN_EPOCHS, math.ceil(config.warmup_epochs) + 1)
    return max(wanted, config.decay_epochs + 2) if config.schedule in _DECAYING else wanted


def _rows_wanted(config: Config, steps: int) -> int:
    """Return the rows, those held out included, for so many steps, the last with half a batch."""
    rows = steps * config.batch_size - config.batch_size // 2
    if config.fold is not None:
        folds = parse_fold(config.fold)[1]
        return rows * folds // (folds - 1) + 1
    return math.ceil(rows / (1.0 - config.validation))


def _keep_first_rows(data: DataSet, count: int) -> None:
    """Let the splits of a data set have their first rows only."""
    for name, split in data.splits.items():
        kept = count if name == "train" else _EVALUATED_ROWS
        data.splits[name] = split.subset(np.arange(min(kept, len(split))))


class _StepRecorder(MemoryRecorder):
    """The recorder of a run without a directory, which also calls a function.

    At the start of an epoch, after each step, or after all that the engine has made at once.
    """

    def __init__(self, plain: NullRecorder, note: Callable[[Progress], None]) -> None:
        vars(self).update(vars(plain))
        self._note = note

    def on_epoch_start(self, progress: Progress) -> None:
        super().on_epoch_start(progress)
        self._note(progress)

    def on_step(self, progress: Progress) -> None:
        super().on_step(progress)
        self._note(progress)


def trace_steps(config: Config, steps: int, comm: Topology) -> tuple[dict[str, Any], np.ndarray]:
    """Train a few steps; return what there is to compare, and θ at the end; collective.

    Returns
    -------
    trace : dict
        For JSON: `arrays`, the layer and name of each; `steps`, with epoch, step, cost and the
        digests of all arrays, the first before any step; `records` of the epochs, and
        `plain_records`, when the steps are made as in a training; `seconds` of a step; `config`.
    theta : (P,) array

    Raises
    ------
    DistbpError
        On all ranks.
    """
    plan = plan_few_steps(config, steps, comm)
    plain = _run(assemble(plan.config, comm, data=plan.data), lambda progress: None)
    # The engine makes no more steps at once than there are until a checkpoint is due.
    one_by_one = replace(plan.config, checkpoint_every="1step")
    parts = assemble(one_by_one, comm, data=plan.data)
    found: list[dict[str, Any]] = []

    def note(progress: Progress) -> None:
        if comm.rank == 0 and (progress.position.step or not found):
            found.append(_describe_step(parts, progress))

    run = _run(parts, note)
    trace = {
        "arrays": [[layer, name] for layer, name, _ in _arrays(parts)],
        "steps": found,
        "records": _records(run),
        "plain_records": _records(plain),
        "seconds": _time_steps(plan, comm),
        "config": parts.config.to_dict() | {"checkpoint_every": config.checkpoint_every},
    }
    return trace, parts.network.theta


def _records(run: Run) -> list[dict[str, Any]]:
    """Return the records of a run's epochs, without times."""
    return [
        {key: value for key, value in record.items() if key not in _CLOCK_KEYS}
        for record in run.progress.history.records
    ]


def _run(
    parts: RunParts,
    note: Callable[[Progress], None],
    has_ended: Callable[[Run], bool] | None = None,
) -> Run:
    run = Run(replace(parts, recorder=_StepRecorder(parts.recorder, note)))
    with parts.stop_request:
        run.train(has_ended)
    return run


def _arrays(parts: RunParts) -> list[tuple[int, str, np.ndarray]]:
    state = parts.update.store.state
    average = state.pop(AVERAGE, None)
    vectors = {"": parts.network.theta}
    if average is not None:
        vectors[" of the moving average"] = average
    return list(arrays_of_layers(parts.network.sizes, vectors | state_vectors(state)))


def _describe_step(parts: RunParts, progress: Progress) -> dict[str, Any]:
    """Return the cost of the epoch so far, and the digest of each array."""
    epoch, step, _ = progress.position
    digests = [
        hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:_DIGEST_DIGITS]
        for _, _, array in _arrays(parts)
    ]
    return {"epoch": epoch + 1, "step": step, "cost": progress.cost.hex(), "digests": digests}


def _time_steps(plan: FewSteps, comm: Topology) -> float | None:
    """Return the median time of a step in seconds, None if there are too few; collective."""
    per_epoch = -(-len(plan.rows) // plan.config.batch_size)
    epochs = max(plan.config.epochs, -(-_TIMED_STEPS // per_epoch))
    # Whether it diverges in the end is not asked here.
    config = replace(plan.config, epochs=epochs, check_every=0, patience=None, on_nan="skip")
    parts, began = assemble(config, comm, data=plan.data), time.monotonic()
    ends: list[tuple[int, int, float]] = []

    def has_ended(run: Run) -> bool:
        late = time.monotonic() - began > _TIMED_S
        return bool(comm.world.broadcast(late and run.progress.position.epoch > 0))

    def note(progress: Progress) -> None:
        ends.append((*progress.position.batch, time.perf_counter()))

    _run(parts, note, has_ended)
    # Not from one epoch to the next, between which there is an evaluation.
    times = [
        (this[2] - last[2]) / (this[1] - last[1])
        for last, this in pairwise(ends)
        if this[0] == last[0] and this[1] > last[1]
    ]
    return statistics.median(times) if times else None
