"""A timeline of the steps: what each rank did when, as a file that Perfetto and Chrome open.

A `SpanRecorder` keeps the latest spans (name, begin, end) of a rank, in memory that is allocated
once. Where steps are so short that recording would slow them down, it keeps those of some steps
only, in bursts of consecutive ones that are the same on all ranks. At the end `gather_lanes`
brings the spans of all ranks to rank 0, in its time: clocks of several hosts are compared by
`read_clocks` at the start and at the end. `write_trace` writes one lane a rank.

The format is Google's Trace Event Format, as JSON, or compressed if the name ends in .gz. What the
spans are of is up to `profiling`.
"""

import gzip
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from distbp.errors import DataError
from distbp.parallel.topology import Topology
from distbp.storage.atomic import atomic_write

SPAN_NAMES = (
    "rows", "forward", "backprop", "wait", "exchange", "update", "checkpoint", "evaluation",
)  # fmt: skip
# Those of a step, which compiled code records as well, are in `compiled.descriptor`.
CHECKPOINT, EVALUATION = len(SPAN_NAMES) - 2, len(SPAN_NAMES) - 1

BURST_STEPS = 32
_MAX_SHARE = 0.0025  # of the time, for recording
_COLD_FACTOR = 2  # in a step the caches hold other things than in the loop that measures the cost
_MAX_PERIOD = 1 << 20  # bursts
_CAPACITY, _CAPACITY_OF_ALL = 1 << 16, 1 << 22  # spans of a rank, and of all ranks
_CALIBRATION_SPANS = 1000
_CLOCK_ROUNDS = 10
_LINES_AT_ONCE = 4096

Clock = Callable[[], int]


class SpanRecorder:
    """Keeps the latest spans of this rank.

    Parameters
    ----------
    capacity : int
        Spans.
    clock : function
        Returns nanoseconds.

    Attributes
    ----------
    is_recording : bool
        Whether the spans of the current steps are to be added.
    added : int
        Spans so far, those included that were overwritten.
    span_cost : float
        Nanoseconds that a span takes, as measured for `add` and two readings of the clock; to be
        set if it takes more.
    """

    def __init__(self, capacity: int = _CAPACITY, clock: Clock = time.perf_counter_ns) -> None:
        self.clock = clock
        self._spans = np.zeros((capacity, len(("name", "began", "ended"))), np.int64)
        # Storing through a memoryview takes a third of the time that NumPy's indexing does.
        self._numbers = self._spans.reshape(-1).data
        self._place, self._end, self._rounds = 0, self._spans.size, 0
        self.span_cost = self._measure_cost()
        self.clear()
        self._steps_left, self._bursts, self._period = 0, 0, 1
        self._burst_began, self._added_before = clock(), 0
        self.is_recording = False

    def _measure_cost(self) -> float:
        """Return how many nanoseconds a span takes, with its two readings of the clock."""
        began = time.perf_counter_ns()
        for _ in range(_CALIBRATION_SPANS):
            self.add(0, time.perf_counter_ns(), time.perf_counter_ns())
        return (time.perf_counter_ns() - began) / _CALIBRATION_SPANS

    def clear(self) -> None:
        """Forget all spans."""
        self._place = self._rounds = 0

    @property
    def added(self) -> int:
        return (self._rounds * self._end + self._place) // self._spans.shape[1]

    def add(self, name: int, began: int, ended: int) -> None:
        """Add a span: an index of `SPAN_NAMES`, and two readings of the clock."""
        place, numbers = self._place, self._numbers
        numbers[place], numbers[place + 1], numbers[place + 2] = name, began, ended
        place += 3
        if place == self._end:
            place, self._rounds = 0, self._rounds + 1
        self._place = place

    @property
    def array(self) -> np.ndarray:
        """The circular array (capacity, 3) of spans, to which compiled code writes as well."""
        return self._spans

    @property
    def place(self) -> tuple[int, int]:
        """The place of the next span, in numbers, and how often the array was full."""
        return self._place, self._rounds

    @place.setter
    def place(self, value: tuple[int, int]) -> None:
        self._place, self._rounds = value

    def begin_steps(self, count: int = 1) -> bool:
        """Decide whether the spans of the next steps are recorded; to be called before them.

        Returns whether `is_recording` is another one than for the steps before.
        """
        self._steps_left -= count
        if self._steps_left >= 0:
            return False
        self._steps_left, before = BURST_STEPS - count, self.is_recording
        self._begin_burst()
        return self.is_recording is not before

    def _begin_burst(self) -> None:
        """Record every burst, or every second, fourth, …: those with the same number on all ranks.

        Ranks whose steps have more spans record fewer bursts, but none that others leave out.
        """
        # Counted as they begin: a call of compiled code may be several times as long as a burst.
        number, self._bursts = self._bursts, self._bursts + 1
        now = self.clock()
        spans = self.added - self._added_before
        if self.is_recording and spans:
            share = _COLD_FACTOR * spans * self.span_cost / max(now - self._burst_began, 1)
            self._period = 1
            while self._period * _MAX_SHARE < share and self._period < _MAX_PERIOD:
                self._period *= 2
        self.is_recording = number % self._period == 0
        self._burst_began, self._added_before = now, self.added

    def spans(self) -> np.ndarray:
        """Return the spans that were kept, in the order they were added: (m, 3) int64."""
        row = self._place // self._spans.shape[1]
        if not self._rounds:
            return self._spans[:row].copy()
        return np.concatenate([self._spans[row:], self._spans[:row]])

    def write(self, path: Path) -> None:
        """Write the spans of this rank alone."""
        write_trace(path, [Lane(0, 0, platform.node(), self.spans())])


def capacity_for(ranks: int) -> int:
    """Return how many spans each of so many ranks may keep: rank 0 gets them all."""
    return max(1000, min(_CAPACITY, _CAPACITY_OF_ALL // ranks))


class ClockReading(NamedTuple):
    """A comparison of clocks.

    Attributes
    ----------
    own : int
        This rank's clock.
    offset : int
        How much it is ahead of that of rank 0.
    """

    own: int
    offset: int


def read_clocks(comm: Topology, clock: Clock = time.perf_counter_ns) -> ClockReading:
    """Compare this rank's clock with that of rank 0; collective.

    No rank leaves an allgather before all have entered it. So the clock of rank r, when it enters,
    is at most its offset ahead of that of rank 0 when it leaves, and the other way round: two
    bounds of the offset. Several rounds narrow them down to half the time of a message.
    """
    low, high = None, None
    for _ in range(_CLOCK_ROUNDS):
        entered = comm.world.allgather_int(clock())
        left = comm.world.allgather_int(clock())
        bounds = entered - left[0], left - entered[0]
        low = bounds[0] if low is None else np.maximum(low, bounds[0])
        high = bounds[1] if high is None else np.minimum(high, bounds[1])
    now = clock()
    if low is None or high is None or comm.node_index == 0:  # processes of a host share its clock
        return ClockReading(now, 0)
    first = sum(comm.node_sizes[: comm.node_index])
    node = slice(first, first + comm.node_size)
    return ClockReading(now, (int(low[node].max()) + int(high[node].min())) // 2)


def in_common_time(spans: np.ndarray, first: ClockReading, last: ClockReading) -> np.ndarray:
    """Return spans in the time of rank 0; the offset of clocks that drift is interpolated."""
    found = spans.copy()
    drift = (last.offset - first.offset) / max(last.own - first.own, 1)
    for column in (1, 2):
        elapsed = spans[:, column] - first.own
        found[:, column] -= first.offset + np.rint(elapsed * drift).astype(np.int64)
    return found


class Lane(NamedTuple):
    """The spans (m, 3) of a rank, in the time of rank 0."""

    rank: int
    node: int
    host: str
    spans: np.ndarray


def gather_lanes(comm: Topology, spans: np.ndarray) -> list[Lane]:
    """Return the lanes of all ranks on rank 0, none elsewhere; collective."""
    counts = comm.world.allgather_int(len(spans))
    places = comm.world.allgather([comm.node_index, platform.node()])
    everything = comm.world.gather_rows(np.ascontiguousarray(spans))
    if comm.rank:
        return []
    parts = np.split(everything, np.cumsum(counts)[:-1])
    return [
        Lane(rank, node, host, part)
        for rank, ((node, host), part) in enumerate(zip(places, parts, strict=True))
    ]


def write_trace(path: Path, lanes: Sequence[Lane]) -> None:
    """Write a trace, atomically.

    Raises
    ------
    DataError
        It cannot be written.
    """
    with atomic_write(path, DataError) as temporary, temporary.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                _write_events(packed, lanes)
        else:
            _write_events(file, lanes)


def _write_events(file: IO[bytes] | gzip.GzipFile, lanes: Sequence[Lane]) -> None:
    start = min((int(lane.spans[:, 1].min()) for lane in lanes if len(lane.spans)), default=0)
    file.write(b'{"displayTimeUnit":"ns","traceEvents":[\n')
    block: list[str] = []
    separator = ""
    for lane in lanes:
        for event in _events(lane, start):
            block.append(separator + event)
            separator = ",\n"
            if len(block) == _LINES_AT_ONCE:
                file.write("".join(block).encode())
                block.clear()
    file.write("".join([*block, "\n]}\n"]).encode())


def _events(lane: Lane, start: int) -> Iterator[str]:
    """Yield the name of a lane and its spans as JSON; times are microseconds since `start`."""
    # Process and thread 0 are the idle task for Perfetto.
    place = {"pid": lane.node + 1, "tid": lane.rank + 1}
    for name, arguments in (
        ("process_name", {"name": f"node {lane.node}: {lane.host}"}),
        ("process_sort_index", {"sort_index": lane.node}),
        ("thread_name", {"name": f"rank {lane.rank}"}),
        ("thread_sort_index", {"sort_index": lane.rank}),
    ):
        yield _json({"ph": "M", "name": name, **place, "args": arguments})
    spans = lane.spans
    # One that contains others has to precede them.
    order = np.lexsort((-spans[:, 2], spans[:, 1]))
    heads = [f'{{"ph":"X","name":"{name}","pid":{lane.node + 1},"tid":{lane.rank + 1},"ts":'
             for name in SPAN_NAMES]  # fmt: skip
    for name, began, ended in spans[order].tolist():
        yield f'{heads[name]}{(began - start) / 1e3:.3f},"dur":{(ended - began) / 1e3:.3f}}}'


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
