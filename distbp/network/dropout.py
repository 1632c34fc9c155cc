"""Dropout: which hidden units a pass leaves out.

The choice is a function of seed, epoch, step and shard, so it does not depend on the rank
that computes the shard. `Network` applies it, by the factors in a `Workspace`.
"""

import numpy as np

from distbp.network import rng
from distbp.network.network import Workspace


def keep_threshold(probability: float) -> int:
    """Return the 16-bit number below which a unit is dropped."""
    # At least one of 65536 units is kept: a scale of 1/0 would be no number.
    return min(round(probability * 65536), 65535)


def keep_scale(probability: float) -> float:
    """Return the factor on the units that are kept."""
    return 65536 / (65536 - keep_threshold(probability))


class Dropout:
    """Draws the factors of hidden units for one pass after the other.

    A unit is kept with probability 1 − p and then multiplied by 1 / (1 − p), so that
    nothing has to be scaled in evaluation. p is rounded to a multiple of 1/65536, as
    the random numbers have 16 bits. Source: Srivastava et al., JMLR 15 (2014), section 10.

    Parameters
    ----------
    probability : float in (0, 1)
    seed : int
    work : Workspace
        The passes' buffers; those that dropout needs are added.
    """

    def __init__(self, probability: float, seed: int, work: Workspace) -> None:
        self.threshold = keep_threshold(probability)
        self.scale = keep_scale(probability)
        self.seed = seed
        hidden = work.a[:-1]
        work.fed = [np.empty_like(a) for a in hidden]
        work.keep = self._keep = [np.empty_like(a) for a in hidden]
        self._is_kept = [np.empty(a.shape, np.bool_) for a in hidden]
        self._bits = rng.Bits(sum(a.size for a in hidden))

    def draw(self, epoch: int, step: int, shard: int) -> None:
        """Choose the units for one shard of one step."""
        count = sum(keep.size for keep in self._keep)
        bits = self._bits.fill(count, self.seed, rng.DROPOUT, epoch, step, shard)
        start = 0
        for keep, is_kept in zip(self._keep, self._is_kept, strict=True):
            part = bits[start : start + keep.size].reshape(keep.shape)
            np.copyto(keep, np.greater_equal(part, self.threshold, out=is_kept))
            np.multiply(keep, self.scale, out=keep)
            start += keep.size
