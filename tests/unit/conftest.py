"""Fixtures of the unit tests: NumPy errors, log handlers, and memory allocations."""

import logging
import tracemalloc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings

from distbp.console import ConsoleHandler, install_handlers

# No time limit for an example: the machine may be busy with other programs.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


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
    """Return a function that calls another one twice and returns the peak bytes of the second."""

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
