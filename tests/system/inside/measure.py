"""What a rank looks like at the end of training: BLAS threads and memory, as JSON.

Asked for by DISTBP_TEST_MEASURE, the folder for one file a rank. All ranks wait for
each other before and after, so that what they share is shared while it is counted.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any


def install(folder: str, rank: str) -> None:
    """Measure when `Run.train` has ended."""
    # As the command line does, before NumPy is loaded here: OpenBLAS reads this once.
    from distbp.cli.main import set_environment_defaults

    set_environment_defaults()
    from distbp.training.loop import Run

    train = Run.train

    @functools.wraps(train)
    def measured(run: Any) -> Any:
        result = train(run)
        run.parts.comm.world.barrier()
        Path(folder, f"rank-{rank}.json").write_text(json.dumps(measurement()))
        run.parts.comm.world.barrier()
        return result

    Run.train = measured


def measurement() -> dict[str, Any]:
    """Return BLAS threads, cores and memory in bytes of this process."""
    import threadpoolctl

    blas = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
    return {
        "threads": [info["num_threads"] for info in blas],
        "cores": len(os.sched_getaffinity(0)),
        "uid": os.geteuid(),
        "memory": memory(),
    }


def memory() -> dict[str, int]:
    """Return the fields of /proc/self/smaps_rollup in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in map(str.split, lines)}
