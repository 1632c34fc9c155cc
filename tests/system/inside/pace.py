"""Steps that take their time and none of the machine's: a run long enough to be disturbed.

Asked for by DISTBP_TEST_PACE, the seconds to sleep before each step.
"""

import time
from typing import Any


def install(seconds: float) -> None:
    """Let every rank sleep before it computes a step's gradients."""
    from distbp.training.gradient import BatchGradient

    compute = BatchGradient.compute

    def late(*arguments: Any) -> Any:
        time.sleep(seconds)
        return compute(*arguments)

    BatchGradient.compute = late
