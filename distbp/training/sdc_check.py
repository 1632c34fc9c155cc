"""Detecting silent data corruption: bits that flip in memory, or that a processor gets wrong.

The last step is recomputed from the version of θ that it began with. If the result differs,
it is recomputed once more: what two of the three computations agree on is correct, and is
what the last one has to have left behind. If no two agree, or if replicas of θ still differ
from each other after that, θ was corrupted before the last step, or is so all the time, and
only a checkpoint can restore it.
"""

import platform
import zlib
from dataclasses import dataclass

import numpy as np

from distbp.network.parameters import theta_size
from distbp.network.update import Update
from distbp.parallel.topology import Topology
from distbp.training.engine import Engine


@dataclass(frozen=True)
class SdcReport:
    """What a check has found.

    Attributes
    ----------
    text : str
        Which layers are corrupt, and on which ranks; empty if none.
    corrected : bool
        Whether the step was computed twice with this result, and all replicas have it.
    """

    text: str
    corrected: bool


@dataclass(frozen=True)
class _Replica:
    """The checksums of one replica of θ and state: `last` of the third computation, if any."""

    place: str
    first: list[int]
    second: list[int] | None
    last: list[int] | None

    @property
    def is_confirmed(self) -> bool:
        """Whether two computations of the step agree on what is there now."""
        return self.last is not None and self.last in (self.first, self.second)

    def difference(self) -> str:
        """Return which layer was corrupt, and when; empty if none."""
        if self.first == self.second == self.last:
            return ""
        if not self.is_confirmed:
            layer = _differing_layer(self.first, self.last)
            return f"{layer} in the memory of {self.place}, which differs each time"
        text = f"{_differing_layer(self.first, self.second)} in the memory of {self.place}"
        return text if self.last == self.second else f"{text} when the step was recomputed"


class SdcCheck:
    """Checks θ and the optimizer state after a step; for an `OrderedReduction` only.

    That one keeps the version before the step, and its sums are reproducible.

    Parameters
    ----------
    comm : Topology
    update : Update
    engine : Engine
    """

    def __init__(self, comm: Topology, update: Update, engine: Engine) -> None:
        self._comm, self._update, self._engine = comm, update, engine

    def check(self, batch: np.ndarray, epoch: int, step: int, rate: float) -> SdcReport:
        """Recompute the last step from the same arguments, and compare; collective."""
        world, first = self._comm.world, self._checksums()
        second = self._recompute(batch, epoch, step, rate)
        found = world.allgather([platform.node(), first, second])
        newest = [second for _, _, second in found]
        if any(first != second for _, first, second in found):
            newest = world.allgather(self._recompute(batch, epoch, step, rate))
        replicas = [
            _Replica(f"rank {rank} on {host}", first, second, last)
            for rank, ((host, first, second), last) in enumerate(zip(found, newest, strict=True))
            if first
        ]
        texts = [text for replica in replicas if (text := replica.difference())]
        reference = replicas[0]
        differing = [one for one in replicas if one.last != reference.last]
        texts += [
            f"{_differing_layer(reference.last, one.last)}, where {one.place} differs from "
            f"{reference.place}"
            for one in differing
        ]
        is_confirmed = all(one.is_confirmed for one in replicas)
        return SdcReport(", ".join(texts), corrected=is_confirmed and not differing)

    def _recompute(self, batch: np.ndarray, epoch: int, step: int, rate: float) -> list[int] | None:
        """Repeat the last step; return the checksums, or None if it was not finite."""
        store = self._update.store
        steps = store.steps
        store.rollback()
        try:
            totals = self._engine.repeat(batch, (epoch, step), rate)
        finally:
            # If that failed, or its numbers were not finite, this rank is at the step where it was
            # before; but the result that it had there is overwritten.
            if store.steps < steps:
                store.commit()
        return self._checksums() if totals.applied else None

    def _checksums(self) -> list[int]:
        """Return the CRC-32 of each layer of θ and state; empty if another rank does it."""
        if not self._engine.reduction.has_replica:
            return []
        network, checksums, start = self._update.network, [], 0
        for l in range(1, len(network.sizes)):
            stop = start + theta_size(network.sizes[l - 1 : l + 1])
            checksum = 0
            for array in (network.theta, *self._update.store.state.values()):
                checksum = zlib.crc32(array[start:stop].data, checksum)
            checksums.append(checksum)
            start = stop
        return checksums


def _differing_layer(these: list[int] | None, those: list[int] | None) -> str:
    """Return the first layer, counted from 1, whose checksums differ."""
    if these is None or those is None:
        return "a layer"  # one that was not finite
    return next(
        f"layer {l}" for l, (a, b) in enumerate(zip(these, those, strict=True), 1) if a != b
    )
