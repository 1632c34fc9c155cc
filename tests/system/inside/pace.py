"""Slow down steps without using the CPU, so that a run lasts long enough to be disturbed.

DISTBP_TEST_PACE is the time to sleep before each step, in seconds.
"""

import time
from typing import Any


def install(seconds: float) -> None:
    """Make every rank sleep before it computes the gradients of a step."""
    from distbp.training.gradient import BatchGradient

    compute = BatchGradient.compute

    def late(*arguments: Any) -> Any:
        time.sleep(seconds)
        return compute(*arguments)

    BatchGradient.compute = late
