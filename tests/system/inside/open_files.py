"""Open files that may be hostile, one after the other, and report the outcome of each.

    open_files.py checkpoint|data|import|labels GOOD < list of files

Prints a line of JSON per file: the outcome (`intact`, `refused`, or `other` if it was read with
another structure than GOOD), the error message, and the CPU time in seconds. The last line is
the growth of memory since GOOD was read. A file that takes longer than 5 seconds kills
the process by a signal.
"""

import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data import importing
from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet
from distbp.data.tables import ImportOptions
from distbp.errors import DistbpError
from distbp.storage import checkpoint

MEMORY_LIMIT = 1 << 30  # bytes of address space beyond those in use


def open_checkpoint(path: Path) -> Any:
    found = checkpoint.read_checkpoint(path)
    return found.network.sizes, found.network.dtype.name, [a.shape for a in found.state.values()]


def open_data(path: Path) -> Any:
    """Open a data set and read every row of it, as training does."""
    data = DataSet(path)
    for split in data.splits.values():
        loader = BatchLoader(split, data.scaling, len(data.classes), 100, np.dtype(np.float32))
        for start in range(0, len(split), 100):
            loader.load(split.numbers(start, min(start + 100, len(split))))
    return data.identity["rows"], data.n_in, data.n_out, data.task


def open_source(path: Path) -> Any:
    options = ImportOptions(x="train/x", y="train/y", task="classification")
    return importing.import_data(path, path.with_suffix(".out.h5"), options)["rows"]


OPENERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": open_checkpoint,
    "data": open_data,
    "import": open_source,
    "labels": open_source,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(kind: str, good: str) -> None:
    open_file = OPENERS[kind]
    np.seterr(all="ignore")  # a damaged file may contain any values
    expected, before = open_file(Path(good)), peak()
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY_LIMIT,) * 2)
    for name in map(str.rstrip, sys.stdin):
        print(end=json.dumps({"file": name})[:-1] + ", ", flush=True)
        began, text = time.process_time(), ""  # CPU time: other programs may be running
        signal.alarm(5)
        try:
            outcome = "intact" if open_file(Path(name)) == expected else "other"
        except DistbpError as error:
            outcome, text = "refused", str(error)
        signal.alarm(0)
        rest = {"outcome": outcome, "text": text, "seconds": time.process_time() - began}
        print(json.dumps(rest)[1:], flush=True)
    print(json.dumps({"grown": peak() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
