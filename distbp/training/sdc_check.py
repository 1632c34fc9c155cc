"""Looking for bits that have changed by themselves, in memory or in a processor.

The last step is made again, from the version of θ that it began with: what differs was
wrong, and is right now. On several nodes, each of which has a replica, all are compared:
where they differ after that, the fault is older than a step, and only a checkpoint helps.
"""

import platform
import zlib
from dataclasses import dataclass

import numpy as np

from distbp.network.parameters import theta_size
from distbp.network.update import Update
from distbp.parallel.comm import Comm
from distbp.parallel.reduction import GradientReduction
from distbp.training.gradient import BatchGradient


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes
    ----------
    text : str
        Where bits have changed; empty if nowhere.
    is_mended : bool
        Whether all nodes have the same again.
    """

    text: str
    is_mended: bool


class SdcCheck:
    """Checks θ and the optimizer's state after a step; for combiners that have two versions.

    Parameters
    ----------
    comm, update, reduction, gradient : parts of the run
    """

    def __init__(
        self, comm: Comm, update: Update, reduction: GradientReduction, gradient: BatchGradient
    ) -> None:
        self._comm, self._update = comm, update
        self._reduction, self._gradient = reduction, gradient

    def check(self, batch: np.ndarray, epoch: int, step: int, rate: float) -> Finding:
        """Make the last step again, with the same arguments, and compare; collective."""
        first = self._fingerprints()
        self._repeat(batch, epoch, step, rate)
        again = self._fingerprints()
        places = [
            f"rank {r} on {host}" for r, host in enumerate(self._comm.allgather(platform.node()))
        ]
        replicas = [
            (where, old, new)
            for where, (old, new) in zip(places, self._comm.allgather([first, again]), strict=True)
            if old
        ]
        texts = [
            f"layer {different(old, new)} in the memory of {where}"
            for where, old, new in replicas
            if old != new
        ]
        there, _, right = replicas[0]
        odd = [(where, new) for where, _, new in replicas if new != right]
        texts += [
            f"layer {different(right, new)}, where {where} differs from {there}"
            for where, new in odd
        ]
        return Finding(", ".join(texts), not odd)

    def _repeat(self, batch: np.ndarray, epoch: int, step: int, rate: float) -> None:
        """Make the last step again; whatever happens, it has been made afterwards."""
        update = self._update
        made = update.steps
        update.undo()
        try:
            self._gradient.compute(batch, epoch, step)
            self._reduction.reduce_and_update(len(batch), rate)
        finally:
            if update.steps < made:
                update.commit()

    def _fingerprints(self) -> list[int]:
        """Return a checksum of each layer, of θ and state; empty if another rank has this copy."""
        if not self._reduction.has_replica:
            return []
        update, sums, start = self._update, [], 0
        sizes = update.network.sizes
        for l in range(1, len(sizes)):
            stop = start + theta_size(sizes[l - 1 : l + 1])
            layer = 0
            for array in (update.network.theta, *update.state.values()):
                layer = zlib.crc32(array[start:stop].data, layer)
            sums.append(layer)
            start = stop
        return sums


def different(these: list[int], those: list[int]) -> int:
    """Return the first layer, from 1, whose checksums differ."""
    return next(l for l, (a, b) in enumerate(zip(these, those, strict=True), 1) if a != b)
