"""What the compiled step is passed: a descriptor, a struct of numbers and of addresses of arrays.

Whoever makes one keeps the arrays alive (`Binding`). The step writes to the last fields how far it
has come: it returns to Python when a rank is late, and goes on from there when it is called again.
"""

import ctypes
from typing import Any

import numpy as np

# What the step does next: `phase`. In front of SUM, UPDATE and COMMIT it waits for the other ranks.
# FORWARD_AHEAD is for steps with messages only: a layer of the forward pass of the next step.
COMPUTE, SUM, UPDATE, COMMIT, FORWARD_AHEAD = range(5)
# What it returns: all steps are made, or the last one asks for something; or another rank is late.
DONE, LATE = range(2)

# What a span of a profile was spent on, the first of `training.profile_trace.SPAN_NAMES`.
ROWS, FORWARD, BACKPROP, WAIT, EXCHANGE, UPDATE_SPAN = range(6)

DESCRIPTOR = np.dtype(
    [
        (name, np.float64 if name in ("clip_norm", "keep_scale") else np.int64)
        for name in (
            # The network, and the rows of the data set (`arrays.Table`).
            "gemm", "layers", "sizes", "n_theta", "units",
            "x", "x_bytes", "y", "y_bytes", "shift", "scale", "one_hot", "y_shift", "y_scale",
            "weights",
            # The buffers of a shard (`arrays.Work`), for `rows` rows, and the runs of rows of
            # products: (shard_sizes, 1 + L), the number of rows first.
            "rows", "work_x", "work_y", "work_labels", "work_weights", "work_z", "work_a",
            "work_delta", "work_fed", "work_keep", "shard_sizes", "runs",
            # Dropout.
            "keep_threshold", "keep_scale", "seed",
            # This rank's part in the sum (`parallel.reduction_plan`): its schedule (tasks, 3), and
            # its slots, vectors of `width` numbers, `stride` numbers from each other. Whether the
            # products of BP4 are added to the slot below, see `blas.adds_exactly`.
            "adds_products", "shards", "tasks", "schedule", "slots", "stride", "width",
            # The owned slice of θ, or the chunk that a call is for; additions (n, 5): the address
            # of both operands and of the sum, of which the second and third number say whether the
            # operands move on with the chunk.
            "own_start", "own_stop", "additions", "n_additions", "gradient", "gradient_moves",
            # The sums of the statistics: additions (n, 2) of addresses, and the result's.
            "owns_stats", "stats_additions", "n_stats_additions", "stats",
            # θ and the state in two versions (2, arrays), of which `version` is the current one.
            "arrays", "versions", "version",
            # What the node's ranks share, and its barrier.
            "squares", "flags", "rank", "ranks", "counters", "spins", "clip_norm",
            # The steps of this call: batches of `batch_size` of the `n_numbers` rows, `constants`
            # (steps, COUNT) of the update.
            "numbers", "file_numbers", "n_numbers", "batch_size", "epoch", "first_step", "steps",
            "constants", "wants_stop", "wants_save",
            # The last `layered` shards are computed layer by layer, in as many buffers, and
            # `progress` is the address of a counter of layers: see `parallel.overlap`. The layer
            # that FORWARD_AHEAD computes, and whether COMPUTE finds all of them computed.
            "layered", "progress", "layer", "has_forward",
            # How far it has come: `costs` and `correct` (steps,) float64 of the steps made, the
            # totals of the last one, and the time in ns.
            "phase", "step", "costs", "correct", "applied", "stop", "save",
            # For a profile, or 0: a circular array (spans, 3) of spans, its size in numbers, the
            # place of the next one, and how often it was full.
            "spans", "spans_size", "spans_place", "spans_rounds",
            "compute_ns", "wait_ns", "update_ns", "mark_ns", "timespec", "seconds", "nanoseconds",
        )
    ],
    align=True,
)  # fmt: skip


class _Descriptor(ctypes.Structure):
    """The same for Python: a field of a NumPy record takes 1 µs to set, one of these 0.05."""

    __slots__ = ()  # a wrong name is an error
    _fields_ = [
        (name, ctypes.c_double if DESCRIPTOR[name].kind == "f" else ctypes.c_int64)
        for name in DESCRIPTOR.names or ()
    ]


def address(array: np.ndarray) -> int:
    """Return the address of a contiguous array's first number."""
    return int(array.__array_interface__["data"][0])


class Binding:
    """A descriptor, and the arrays that it has the addresses of, which it keeps alive.

    Attributes
    ----------
    fields : ctypes struct
        The descriptor: `fields.steps = 3` sets a field, to an int or a float.
    address : int
        What the compiled step is passed.
    """

    def __init__(self) -> None:
        self.fields: Any = _Descriptor()
        self.address = ctypes.addressof(self.fields)
        self._arrays: dict[str, Any] = {}
        offset: Any = _Descriptor.seconds
        self.fields.timespec = self.address + offset.offset

    def put(self, **arrays: np.ndarray) -> None:
        """Set the fields of these names to the addresses of arrays."""
        for name, array in arrays.items():
            self.keep(name, array)
            setattr(self.fields, name, address(array))

    def keep(self, name: str, array: np.ndarray) -> None:
        """Keep an array whose address is in another one."""
        self._arrays[name] = array
