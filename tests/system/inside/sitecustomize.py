"""Code that Python runs at its start, without an import, in every program of a system test.

It lets SIGUSR2 write the stacks of all threads to a file, and installs an injected
fault, slower steps or a measurement if the environment requests them.
"""

import faulthandler
import os
import signal


def rank() -> str:
    """Return the rank that a launcher gave this process; "alone" without a launcher."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        if name in os.environ:
            return os.environ[name]
    return "alone"


if "DISTBP_TEST_STACKS" in os.environ:
    path = os.path.join(os.environ["DISTBP_TEST_STACKS"], f"rank-{rank()}-{os.getpid()}")
    faulthandler.register(signal.SIGUSR2, file=os.open(path, os.O_WRONLY | os.O_CREAT))

if os.environ.get("DISTBP_TEST_FAULT", "").split(":")[0] in (rank(), "all"):
    import inject_fault

    inject_fault.install(*os.environ["DISTBP_TEST_FAULT"].split(":")[1:])

# A job that was disturbed, and requeued by SLURM, may hurry.
if "DISTBP_TEST_PACE" in os.environ and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    import pace

    pace.install(float(os.environ["DISTBP_TEST_PACE"]))

if "DISTBP_TEST_MEASURE" in os.environ:
    import measure

    measure.install(os.environ["DISTBP_TEST_MEASURE"], rank())
