"""Dropout of hidden units."""

import numpy as np

from distbp.network import rng
from distbp.network.network import Workspace


class Dropout:
    """Draws which hidden units a pass leaves out.

    A unit is kept with probability 1 − p and then counts 1 / (1 − p), so that
    nothing has to be scaled when the network is used. p is taken to the nearest
    1/65536. Source: Srivastava et al., JMLR 15 (2014), section 10.

    Parameters
    ----------
    probability : float in (0, 1)
    seed : int
    work : Workspace
        Of the passes; it gets the buffers that dropout needs.
    """

    def __init__(self, probability: float, seed: int, work: Workspace) -> None:
        self.threshold = min(round(probability * 65536), 65535)
        self.scale = 65536 / (65536 - self.threshold)
        self.seed = seed
        hidden = work.a[:-1]
        work.fed = [np.empty_like(a) for a in hidden]
        work.keep = self._keep = [np.empty_like(a) for a in hidden]
        self._is_kept = [np.empty(a.shape, np.bool_) for a in hidden]
        self._bits = rng.Bits(sum(a.size for a in hidden))

    def draw(self, epoch: int, step: int, shard: int) -> None:
        """Choose the units for one shard of one step: a function of these three alone."""
        count = sum(keep.size for keep in self._keep)
        bits = self._bits.fill(count, self.seed, rng.DROPOUT, epoch, step, shard)
        start = 0
        for keep, is_kept in zip(self._keep, self._is_kept, strict=True):
            part = bits[start : start + keep.size].reshape(keep.shape)
            np.copyto(keep, np.greater_equal(part, self.threshold, out=is_kept))
            np.multiply(keep, self.scale, out=keep)
            start += keep.size
