"""What the unit tests share: NumPy that raises, and memory that is counted."""

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings

# How long an example takes is the machine's affair, which may do other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def numpy_raises() -> Iterator[None]:
    """Overflow, division by zero and invalid values are errors in every test."""
    with np.errstate(all="raise", under="ignore"):
        yield


@pytest.fixture
def peak() -> Callable[[Callable[[], object]], int]:
    """Return a function that calls another one twice and counts the second call's new bytes."""

    def measure(function: Callable[[], object]) -> int:
        function()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            function()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    return measure
