"""Several nodes on one machine: communicators that say that their ranks are apart."""

from typing import Any

from mpi4py import MPI


class Dealt(MPI.Intracomm):
    """All ranks, as if a launcher had dealt them out to two nodes in turn."""

    def Split_type(self, split_type: int, key: int = 0, info: Any = None) -> MPI.Intracomm:  # noqa: N802
        return self.Split(self.rank % 2, key)
