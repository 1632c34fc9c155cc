"""How long the parts of a step take on this rank alone: those of real steps, in memory."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distbp.data.arrays import Arrays
from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.inputs import import_options, open_arrays
from distbp.training.loop import Run
from distbp.training.setup import assemble

_MEASUREMENT_S = 0.2  # duration of a measurement
_MEASUREMENT_RUNS = 5  # of which the median counts
_BATCHES = 16  # of different rows, so that they are not in the cache


class StepTimes(NamedTuple):
    """Seconds of a step of one shard on one rank.

    Attributes
    ----------
    compute : float
        For the gradient, conversion of the rows included.
    update : float
        For θ.
    rest : float
        For all else.
    """

    compute: float
    update: float
    rest: float


def measure_step(sizes: Sequence[int], rows: int, dtype: str, engine: str) -> StepTimes:
    """Measure steps of one shard of `rows` rows of bytes, by an engine."""
    run = _run_of_one_shard(sizes, rows, dtype, engine)
    parts = run.parts
    numbers = parts.order.batches(0, min(parts.engine.max_steps, _BATCHES))

    def make_steps() -> int:
        before = parts.engine.timing.steps
        run.progress = parts.start
        run.step(numbers)
        return parts.engine.timing.steps - before

    make_steps()  # not measured: the first call may allocate
    measured = []
    for _ in range(_MEASUREMENT_RUNS):
        began, timing = time.perf_counter(), parts.engine.timing
        before, steps = np.array([timing.compute, timing.update]), 0
        while time.perf_counter() - began < _MEASUREMENT_S / _MEASUREMENT_RUNS or not steps:
            steps += make_steps()
        seconds = time.perf_counter() - began
        compute, update = (np.array([timing.compute, timing.update]) - before).tolist()
        measured.append([compute / steps, update / steps, (seconds - compute - update) / steps])
    return StepTimes(*np.median(measured, axis=0).tolist())


def _run_of_one_shard(sizes: Sequence[int], rows: int, dtype: str, engine: str) -> Run:
    """Return a run on random bytes, on this process alone."""
    random, count = np.random.default_rng(0), rows * _BATCHES
    x = random.integers(0, 256, (count, sizes[0]), np.uint8)
    y = np.arange(count) % sizes[-1] if sizes[-1] > 1 else random.random(count)
    alone = Topology()
    config = Config(
        hidden=tuple(sizes[1:-1]), batch_size=rows, shards=1, dtype=dtype, engine=engine,
        learning_rate=0.0, quiet=True,
    )  # fmt: skip
    classes = [str(label) for label in range(sizes[-1])] if sizes[-1] > 1 else None
    data = open_arrays(Arrays((x, y), classes=classes), import_options({}), alone, False)
    return Run(assemble(config, alone, data=data))
