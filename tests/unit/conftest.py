"""Fixtures of the unit tests: NumPy errors, log handlers, and memory allocations."""

import logging
import os
import tracemalloc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings

from distbp.console import ConsoleHandler, install_handlers

# No time limit for an example: the machine may be busy with other programs. The same examples each
# time, but in the long form.
settings.register_profile(
    "distbp", deadline=None, derandomize=os.environ.get("DISTBP_TEST_FULL") != "1"
)
settings.load_profile("distbp")


@pytest.fixture(autouse=True)
def numpy_raises() -> Iterator[None]:
    """Overflow, division by zero and invalid values are errors in every test."""
    with np.errstate(all="raise", under="ignore"):
        yield


@pytest.fixture
def handlers() -> Iterator[ConsoleHandler]:
    """Print what distbp logs and warns about, as the command line does."""
    logger, show = logging.getLogger("distbp"), warnings.showwarning
    with warnings.catch_warnings():
        yield install_handlers()
    warnings.showwarning = show
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def peak() -> Callable[[Callable[[], object]], int]:
    """Return a function that measures the peak bytes of calls of another one.

    It is the least of three calls after a first one: tracemalloc counts the allocations of
    every thread, and a worker of pytest-xdist receives messages in a second one.
    """

    def measure(function: Callable[[], object]) -> int:
        function()
        peaks = []
        tracemalloc.start()
        try:
            for _ in range(3):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                function()
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        return min(peaks)

    return measure
