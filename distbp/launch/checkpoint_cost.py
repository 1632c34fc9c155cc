"""What checkpoints cost, for `distbp plan`: measured by writing some to a temporary folder.

A checkpoint takes training the time of a copy; a thread writes it meanwhile, on a core that it
may share with the rank. How often that happens by default is known to `checkpoint_schedule`.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from distbp.network.network import Network
from distbp.storage.background_writer import copy_checkpoint
from distbp.storage.checkpoint import Checkpoint, write_checkpoint
from distbp.storage.scaling import Scaling
from distbp.training.checkpoint_schedule import SHORT_INTERVAL_S

_MAX_PARAMETERS = 1 << 24  # of a measurement, which takes less than a second then
_MEASUREMENTS = 3


class CheckpointCost(NamedTuple):
    """The size of a checkpoint without optimizer state, and the seconds that it takes."""

    bytes: int
    copy: float
    write: float

    @property
    def share(self) -> float:
        """The largest part of the time that the default schedule can spend."""
        seconds = self.copy + self.write
        return seconds / max(seconds, SHORT_INTERVAL_S)


def measure_checkpoint(parameters: int, dtype: str) -> CheckpointCost:
    """Measure a checkpoint of so many parameters.

    Raises
    ------
    CheckpointError, OSError
        The folder for temporary files is full, or cannot be written to.
    """
    measured = min(parameters, _MAX_PARAMETERS)
    # The shape does not matter: one layer with a single output has any number of parameters.
    network = Network((max(measured - 1, 1), 1), dtype=dtype)
    checkpoint = Checkpoint(network, {}, Scaling(np.zeros(1), np.ones(1)), {})
    buffers, runs = copy_checkpoint(checkpoint, None), []
    with tempfile.TemporaryDirectory(prefix="distbp_") as folder:
        for _ in range(_MEASUREMENTS):
            began = time.perf_counter()
            copy_checkpoint(checkpoint, buffers)
            copied = time.perf_counter()
            write_checkpoint(Path(folder, "checkpoint.h5"), checkpoint)
            runs.append((copied - began, time.perf_counter() - copied))
    factor = parameters / measured  # both are limited by bandwidths
    copy, write = (factor * median(part) for part in zip(*runs, strict=True))
    return CheckpointCost(parameters * network.dtype.itemsize, copy, write)


def checkpoint_line(cost: CheckpointCost) -> str:
    """Return what `distbp plan` prints about the default checkpoints."""
    return (
        f"A checkpoint has {cost.bytes / 1e6:,.1f} MB (adam: three times that), which are copied "
        f"in {cost.copy * 1e3:.2g} ms and written in {cost.write * 1e3:,.0f} ms, to "
        f"{tempfile.gettempdir()}, while training goes on. By default there is one after each "
        f"epoch, but at most one a second: up to {cost.share:.1%} of the time."
    )
