"""Several nodes on one machine: a communicator that claims its ranks are on different ones."""

from typing import Any

from mpi4py import MPI


class TwoNodes(MPI.Intracomm):
    """All ranks, as if a launcher had distributed them over two nodes in turn (cyclically)."""

    def Split_type(self, split_type: int, key: int = 0, info: Any = None) -> MPI.Intracomm:  # noqa: N802
        return self.Split(self.rank % 2, key)
