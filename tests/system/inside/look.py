"""Open files that may be malicious, one after the other, and print the outcome of each.

    look.py checkpoint|data|import GOOD < list of files

Prints a line of JSON per file: its outcome (`accepted`, `refused` or `other` structure), the
message of the refusal, and CPU seconds; at the end, by how much the memory has grown since
GOOD was read. A file that takes 5 seconds ends the process by a signal.
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

ROOM = 1 << 30  # bytes of address space beyond what is used already


def look_at_checkpoint(path: Path) -> Any:
    found = checkpoint.read_checkpoint(path)
    return found.network.sizes, found.network.dtype.name, [a.shape for a in found.state.values()]


def look_at_data(path: Path) -> Any:
    """Open a data set and read every row of it, as training does."""
    data = DataSet(path)
    for split in data.splits.values():
        loader = BatchLoader(split, data.scaling, len(data.classes), 100, np.dtype(np.float32))
        for start in range(0, len(split), 100):
            loader.load(split.numbers(start, min(start + 100, len(split))))
    return data.identity["rows"], data.n_in, data.n_out, data.task


def look_at_source(path: Path) -> Any:
    options = ImportOptions(x="train/x", y="train/y", task="classification")
    return importing.import_data(path, path.with_suffix(".out.h5"), options)["rows"]


LOOKS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": look_at_checkpoint,
    "data": look_at_data,
    "import": look_at_source,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(kind: str, good: str) -> None:
    look = LOOKS[kind]
    np.seterr(all="ignore")  # numbers of a damaged file may be anything
    wanted, before = look(Path(good)), peak()
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + ROOM,) * 2)
    for name in map(str.rstrip, sys.stdin):
        print(end=json.dumps({"file": name})[:-1] + ", ", flush=True)
        began, text = time.process_time(), ""  # others may want the processor too
        signal.alarm(5)
        try:
            outcome = "accepted" if look(Path(name)) == wanted else "other"
        except DistbpError as error:
            outcome, text = "refused", str(error)
        signal.alarm(0)
        rest = {"outcome": outcome, "text": text, "seconds": time.process_time() - began}
        print(json.dumps(rest)[1:], flush=True)
    print(json.dumps({"grown": peak() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
