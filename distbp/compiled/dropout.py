"""The factors of hidden units: those of `network.dropout.Dropout`, bit for bit.

The random numbers are those of Philox 4x64 with ten rounds, key (seed, purpose) and counter
(·, epoch, step, shard), as in `network.rng`. Source: Salmon et al., Parallel random numbers: as
easy as 1, 2, 3 (SC11).
"""

from functools import cache

import numpy as np

from distbp.compiled.intrinsics import high_product, inlined, kernel
from distbp.compiled.vector_math import Real, Scalar
from distbp.network.rng import DROPOUT

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_KEY_STEP_0, _KEY_STEP_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_PURPOSE, _ROUNDS = np.uint64(DROPOUT), 10


@inlined
def _philox(c0, c1, c2, c3, k0, k1):
    """Return the four random numbers of a counter and a key, all uint64."""
    for _ in range(_ROUNDS):
        high0, high1 = high_product(_MULTIPLIER_0, c0), high_product(_MULTIPLIER_1, c2)
        low0, low1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _KEY_STEP_0, k1 + _KEY_STEP_1
    return c0, c1, c2, c3


@cache
def make_draw(real: Real) -> Scalar:
    """Return the kernel draw(keep, count, threshold, scale, seed, epoch, step, shard).

    It writes the first `count` factors, those of a shard's hidden layers one behind the other;
    `threshold` and `scale` are `Dropout`'s, all other numbers int64.
    """
    zero = real(0)

    @kernel
    def draw(keep, count, threshold, scale, seed, epoch, step, shard):
        kept, block, at = real(scale), np.uint64(0), 0
        while at < count:
            block += np.uint64(1)  # NumPy counts before it draws
            numbers = _philox(block, np.uint64(epoch), np.uint64(step), np.uint64(shard),
                              np.uint64(seed), _PURPOSE)  # fmt: skip
            for number in numbers:
                bits = number
                for _ in range(4):  # 16-bit numbers, the lowest first
                    if at < count:
                        drawn = np.int64(bits & np.uint64(0xFFFF))
                        keep[at] = kept if drawn >= threshold else zero
                    bits >>= np.uint64(16)
                    at += 1

    return draw
