"""Random numbers as pure functions of a seed, a purpose and a position.

They are the raw output of Philox 4x64, a counter-based generator: key and counter determine
the numbers, so any process can draw its part without drawing what comes before. Methods of
`Generator` are not used, because their streams may change from one NumPy version to the
next. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC11).
"""

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

# Purposes: each has an independent stream of the same seed.
WEIGHTS, SHUFFLE, HOLDOUT, DROPOUT, BLOCKS, WINDOW, FOLDS = range(7)

# `random_raw` allocates its result: drawing in chunks bounds what a step allocates.
_DRAW_CHUNK = 256  # uint64 numbers
_NORMAL_CHUNK = 1 << 16  # weights; each takes about 100 bytes while it is computed


class _Key(ISeedSequence):
    """The key of a stream, in place of a seed: given a key, NumPy asks the system for a seed, too.

    That takes as long as drawing 2,000 numbers.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self._words = np.array([seed, purpose], np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        return self._words


def _stream(seed: int, purpose: int, *position: int) -> np.random.Philox:
    """Return the generator of a position: up to three numbers, such as epoch, step, shard."""
    counter = np.zeros(4, np.uint64)
    counter[1 : 1 + len(position)] = position
    key: Any = _Key(seed, purpose)
    return np.random.Philox(seed=key, counter=counter)


def normal(seed: int, layer: int, count: int) -> np.ndarray:
    """Return `count` standard normal numbers, float64, by the Box-Muller transform."""
    # u and v are the first and the second half of one stream, whatever the chunks.
    first, second = _stream(seed, WEIGHTS, layer), _stream(seed, WEIGHTS, layer)
    second.advance(count // 4)  # each count of Philox 4x64 yields four numbers
    second.random_raw(count % 4)
    numbers = np.empty(count)
    for start in range(0, count, _NORMAL_CHUNK):
        piece = numbers[start : start + _NORMAL_CHUNK]
        raw = np.stack([first.random_raw(len(piece)), second.random_raw(len(piece))])
        u, v = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # in (0, 1)
        piece[:] = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
    return numbers


def sort_keys(count: int, seed: int, purpose: int, *position: int) -> np.ndarray:
    """Return the random uint64 numbers by which `permutation` sorts: (count,)."""
    return _stream(seed, purpose, *position).random_raw(count)


def permutation(count: int, seed: int, purpose: int, *position: int) -> np.ndarray:
    """Return 0 … count − 1 (int64) in random order."""
    return _stable_order(sort_keys(count, seed, purpose, *position))


def _stable_order(keys: np.ndarray) -> np.ndarray:
    """Return the indices that sort `keys`; equal ones stay in their order."""
    # Up to four times as fast as sorting indices: each index takes the place of its key's last
    # bits, which matter only where all others are equal.
    bits = len(keys).bit_length()
    last = np.uint64((1 << bits) - 1)
    packed = keys & ~last
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & last).view(np.int64)
    packed >>= np.uint64(bits)
    is_tied = packed[1:] == packed[:-1]
    if is_tied.any():
        places = np.zeros(len(keys), bool)
        places[1:] = is_tied
        places[:-1] |= is_tied
        tied = order[places]
        order[places] = tied[np.argsort(keys[tied], kind="stable")]
    return order


class Bits:
    """A buffer of random 16-bit numbers that is refilled without allocating.

    Parameters
    ----------
    count : int
        Most numbers that one call of `fill` asks for.
    """

    def __init__(self, count: int) -> None:
        self._raw = np.empty(-(-count // 4), np.uint64)
        self.uint16 = self._raw.view(np.uint16)

    def fill(self, count: int, seed: int, purpose: int, *position: int) -> np.ndarray:
        """Return `count` uint16 numbers, valid until the next call."""
        generator = _stream(seed, purpose, *position)
        stop = -(-count // 4)
        for start in range(0, stop, _DRAW_CHUNK):
            piece = self._raw[start : min(start + _DRAW_CHUNK, stop)]
            piece[:] = generator.random_raw(len(piece))
        return self.uint16[:count]
