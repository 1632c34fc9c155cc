"""NumPy arrays in memory that the ranks of a node share."""

import math
from collections.abc import Callable

import numpy as np

from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.shared_memory import allocate_shared
from distbp.parallel.topology import Topology


class SharedArray:
    """An array with one copy per node, or one per rank if a node cannot share memory.

    Making one is collective.

    Parameters
    ----------
    topology : Topology
    shape : tuple of int
    dtype : dtype
    rows : (start, stop), optional
        The part of the first axis that this rank reserves; together the ranks of a node
        reserve all. By default the owner does.
    owner : int, optional
        The rank of the node that is to fill the array; −1 is the last one.

    Attributes
    ----------
    array : array of `shape` and `dtype`
        Zeros at first.
    is_shared : bool
        Whether all ranks of the node have the same copy.
    is_owner : bool
        Whether this rank is to fill its copy.
    reason : str
        Why it is not shared, or not in `/dev/shm`; empty if it is.
    """

    def __init__(
        self,
        topology: Topology,
        shape: tuple[int, ...],
        dtype: np.dtype,
        rows: tuple[int, int] | None = None,
        owner: int = 0,
    ) -> None:
        self._topology, node = topology, topology.node
        is_owner = node.rank == owner % node.size
        memory, self.reason = None, ""
        if node.size > 1:
            row = math.prod(shape[1:]) * dtype.itemsize
            start, stop = rows or (0, shape[0] if is_owner else 0)
            memory, self.reason = allocate_shared(node, shape[0] * row, (start * row, stop * row))
        self.is_shared = memory is not None or node.size == 1
        self.is_owner = memory is None or is_owner
        if memory is None:
            self.array = np.zeros(shape, dtype)
        else:
            self.array = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)

    def fill(self, function: Callable[[np.ndarray], None]) -> None:
        """Have the owner of each copy call `function` on it; collective.

        A DistbpError of one rank is raised on all.
        """
        with collective_errors(self._topology):
            if self.is_owner:
                function(self.array)


def filled_shared_array(
    topology: Topology,
    shape: tuple[int, ...],
    dtype: np.dtype,
    fill: Callable[[np.ndarray], None],
) -> np.ndarray:
    """Return an array with one copy per node, filled once by `fill`; collective."""
    shared = SharedArray(topology, shape, dtype)
    shared.fill(fill)
    return shared.array
