"""What the unit tests share: NumPy that raises, and memory that is counted."""

import logging
import tracemalloc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings

from distbp.console import ConsoleHandler, install_handlers

# How long an example takes is the machine's affair, which may do other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def numpy_raises() -> Iterator[None]:
    """Overflow, division by zero and invalid values are errors in every test."""
    with np.errstate(all="raise", under="ignore"):
        yield


@pytest.fixture
def handlers() -> Iterator[ConsoleHandler]:
    """What distbp logs and warns of is printed, as by the command line."""
    logger, show = logging.getLogger("distbp"), warnings.showwarning
    with warnings.catch_warnings():
        yield install_handlers()
    warnings.showwarning = show
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


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
