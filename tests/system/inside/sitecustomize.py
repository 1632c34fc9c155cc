"""What runs at the start of every Python that a system test starts: it asks for no import.

SIGUSR2 makes the process write the stacks of its threads to a file of its own; a
fault, a pace or a measurement is put in place if the environment asks for it.
"""

import faulthandler
import os
import signal


def rank() -> str:
    """Return the rank that a launcher gave this process, or what it is instead."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        if name in os.environ:
            return os.environ[name]
    return "alone"


if "DISTBP_TEST_STACKS" in os.environ:
    path = os.path.join(os.environ["DISTBP_TEST_STACKS"], f"rank-{rank()}-{os.getpid()}")
    faulthandler.register(signal.SIGUSR2, file=os.open(path, os.O_WRONLY | os.O_CREAT))

if os.environ.get("DISTBP_TEST_FAULT", "").split(":")[0] in (rank(), "all"):
    import faulty

    faulty.install(*os.environ["DISTBP_TEST_FAULT"].split(":")[1:])

if "DISTBP_TEST_PACE" in os.environ:
    import pace

    pace.install(float(os.environ["DISTBP_TEST_PACE"]))

if "DISTBP_TEST_MEASURE" in os.environ:
    import measure

    measure.install(os.environ["DISTBP_TEST_MEASURE"], rank())
