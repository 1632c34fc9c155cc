"""Measure BLAS threads and memory of each rank at the end of training, as JSON.

DISTBP_TEST_MEASURE is the folder for the results, one file per rank. Barriers before and after
make sure that all ranks still share their memory while it is measured.
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
