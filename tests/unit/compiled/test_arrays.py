"""The buffers of a shard."""

import numpy as np
import pytest

from distbp.compiled.arrays import allocate_work


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_buffers_begin_at_a_cache_line(dtype):
    """In the network's type, with room for the rows of all layers."""
    work = allocate_work((5, 7, 9, 3), 11, np.dtype(dtype), True)
    sizes = {name: array.size for name, array in work._asdict().items()}
    assert sizes == {"x": 55, "y": 33, "labels": 11, "weights": 11, "z": 209, "a": 209,
                     "delta": 209, "fed": 176, "keep": 176}  # fmt: skip
    for name, array in work._asdict().items():
        assert array.dtype == (np.int64 if name == "labels" else dtype)
        assert name == "labels" or array.ctypes.data % 64 == 0
    assert allocate_work((5, 7, 3), 11, np.dtype(dtype), False).keep.size == 0
