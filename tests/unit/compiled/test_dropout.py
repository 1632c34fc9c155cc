"""The compiled factors of hidden units have the bits of `Dropout`."""

import numpy as np
import pytest

from distbp.compiled.dropout import make_draw
from distbp.network.dropout import Dropout
from distbp.network.network import Network

from .calls import python_function

SIZES = (5, 7, 9, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_factors_are_those_of_numpy(dtype):
    """For any rows, probability, seed and position, and none behind those asked for."""
    draw, rng = python_function(make_draw(np.dtype(dtype).type)), np.random.default_rng(0)
    for rows in (1, 2, 5, 64):
        work = Network(SIZES, dtype=dtype).workspace(rows)
        seed = int(rng.integers(0, 2**63))
        position = [int(one) for one in rng.integers(0, 2**62, 3)]
        dropout = Dropout(rng.uniform(0.05, 0.95), seed, work)
        dropout.draw(*position)
        expected = b"".join(keep.tobytes() for keep in work.keep)
        count = rows * sum(SIZES[1:-1])
        keep = np.full(count + 3, 7, dtype)
        draw(keep, count, dropout.threshold, dropout.scale, seed, *position)
        assert keep[:count].tobytes() == expected
        assert keep[count:].tolist() == [7, 7, 7]
