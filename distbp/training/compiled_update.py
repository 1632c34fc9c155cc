"""The update of θ as machine code, where a reduction that sends messages calls it.

On one node the compiled step sums and updates by itself. Elsewhere a reduction updates the chunks
of θ in the order in which their sums arrive, and `CompiledUpdate` is what it calls: the same code,
so that a run has the same bits on one node and on several.
"""

from collections.abc import Callable

import numpy as np

from distbp.compiled.descriptor import SUM, UPDATE, Binding, address
from distbp.compiled.step_constants import COUNT, step_constants
from distbp.network.update import ChunkUpdate, Update
from distbp.parallel.step_totals import STATS_WIDTH


def constants_of(update: Update, learning_rate: float, steps: int) -> list[float]:
    """Return what the elements of an update share, after so many steps."""
    return step_constants(
        update.optimizer, learning_rate, steps + 1, update.l1, update.l2, update.decay, update.ema
    )


class CompiledUpdate(ChunkUpdate):
    """Calls one phase of the compiled step at a time.

    Parameters
    ----------
    binding : Binding
        Of the step; its fields of a sum on one node are used here.
    function : function
        The compiled step, of the address of a descriptor.
    update : Update
        Has the chunks, and the versions that are bound.
    """

    def __init__(self, binding: Binding, function: Callable[[int], int], update: Update) -> None:
        self._binding, self._function, self._update = binding, function, update
        self._fields = binding.fields
        self._constants = np.zeros((1, COUNT))
        # Where `compiled.slice_update` puts whether the owner of a slice has computed a bad number.
        self._flags = np.zeros(STATS_WIDTH + 1, update.network.dtype)
        binding.put(constants=self._constants, flags=self._flags)
        self._fields.gradient_moves = self._fields.ranks = 1

    def measure_squares(self, total: np.ndarray) -> None:
        self._call_phase(SUM, total, *self._update.store.owned)

    def begin(self, rows: int, learning_rate: float) -> None:
        self._fields.n_numbers = rows
        self._constants[0] = constants_of(self._update, learning_rate, self._update.store.steps)

    def apply_chunk(self, i: int, g: np.ndarray) -> bool:
        chunk = self._update.chunks[i]
        self._call_phase(UPDATE, g, chunk.start, chunk.stop)
        return bool(self._flags[STATS_WIDTH])

    def _call_phase(self, phase: int, gradient: np.ndarray, start: int, stop: int) -> None:
        fields = self._fields
        fields.phase, fields.gradient = phase, address(gradient)
        fields.own_start, fields.own_stop = start, stop
        self._function(self._binding.address)
