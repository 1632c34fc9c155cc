"""Detecting silent data corruption: bits that flip in memory, or that a processor gets wrong.

The last step is recomputed from the version of θ that it began with. Where the result
differs, the first one was corrupt, and the second one has replaced it. If there are several
replicas of θ, all are compared after that: one that still differs was corrupted before the
last step, and only a checkpoint can restore it.
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
        Whether all replicas are equal after the step was recomputed.
    """

    text: str
    corrected: bool


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
        first = self._checksums()
        self._recompute(batch, epoch, step, rate)
        second = self._checksums()
        world = self._comm.world
        places = [f"rank {r} on {host}" for r, host in enumerate(world.allgather(platform.node()))]
        replicas = [
            (place, old, new)
            for place, (old, new) in zip(places, world.allgather([first, second]), strict=True)
            if old
        ]
        texts = [
            f"layer {_first_difference(old, new)} in the memory of {place}"
            for place, old, new in replicas
            if old != new
        ]
        reference_place, _, reference = replicas[0]
        differing = [(place, new) for place, _, new in replicas if new != reference]
        texts += [
            f"layer {_first_difference(reference, new)}, where {place} differs from "
            f"{reference_place}"
            for place, new in differing
        ]
        return SdcReport(", ".join(texts), corrected=not differing)

    def _recompute(self, batch: np.ndarray, epoch: int, step: int, rate: float) -> None:
        """Repeat the last step."""
        store = self._update.store
        steps = store.steps
        store.rollback()
        try:
            self._engine.repeat(batch, (epoch, step), rate)
        finally:
            # If that failed, or its numbers were not finite, this rank is where it was before.
            if store.steps < steps:
                store.commit()

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


def _first_difference(these: list[int], those: list[int]) -> int:
    """Return the first layer, from 1, whose checksums differ."""
    return next(l for l, (a, b) in enumerate(zip(these, those, strict=True), 1) if a != b)
