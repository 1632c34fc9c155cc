"""Everything random: pure functions of a seed, a purpose and a position.

The numbers are the raw output of Philox 4x64, a counter-based generator: key and
counter say where in the stream to look, so any process can draw its part without
drawing what comes before. `Generator` methods are not used, because their streams
may change from one NumPy version to the next. Source: Salmon et al., Parallel
random numbers: as easy as 1, 2, 3 (SC11).
"""

import numpy as np

# Purposes: the same seed draws independent streams for each.
WEIGHTS, SHUFFLE, HOLDOUT, DROPOUT = range(4)

# Draws are made in pieces, so that a step does not allocate more than this.
DRAW_CHUNK = 256
NORMAL_CHUNK = 1 << 16  # weights; each takes some 100 bytes while it is made


def stream(seed: int, purpose: int, *position: int) -> np.random.Philox:
    """Return the generator for up to three position numbers, such as epoch, step, shard."""
    counter = np.zeros(4, np.uint64)
    counter[1 : 1 + len(position)] = position
    return np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=counter)


def normal(seed: int, layer: int, count: int) -> np.ndarray:
    """Return `count` standard normal numbers, float64, by the Box-Muller transform."""
    first, second = stream(seed, WEIGHTS, layer), stream(seed, WEIGHTS, layer)
    second.advance(count // 4)  # a counter of Philox 4x64 gives four numbers
    second.random_raw(count % 4)
    numbers = np.empty(count)
    for start in range(0, count, NORMAL_CHUNK):
        piece = numbers[start : start + NORMAL_CHUNK]
        raw = np.stack([first.random_raw(len(piece)), second.random_raw(len(piece))])
        u, v = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # in (0, 1)
        piece[:] = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
    return numbers


def permutation(count: int, seed: int, purpose: int, *position: int) -> np.ndarray:
    """Return the numbers 0 … count − 1 (int64) in random order."""
    return np.argsort(stream(seed, purpose, *position).random_raw(count), kind="stable")


class Bits:
    """A buffer of raw random bits that is refilled without allocating.

    Parameters
    ----------
    count : int
        16-bit numbers that are needed at once.
    """

    def __init__(self, count: int) -> None:
        self._raw = np.empty(-(-count // 4), np.uint64)
        self.uint16 = self._raw.view(np.uint16)

    def fill(self, count: int, seed: int, purpose: int, *position: int) -> np.ndarray:
        """Return `count` uint16 numbers, good until the next call."""
        generator = stream(seed, purpose, *position)
        stop = -(-count // 4)
        for start in range(0, stop, DRAW_CHUNK):
            piece = self._raw[start : min(start + DRAW_CHUNK, stop)]
            piece[:] = generator.random_raw(len(piece))
        return self.uint16[:count]
