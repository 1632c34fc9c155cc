"""The exchange between nodes during backprop: the same bits in every mode, on any layout."""

import numpy as np
import pytest

from distbp.parallel import overlap
from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.loop import train

pytestmark = pytest.mark.mpi

ROWS = 600
OPTIONS = {
    "hidden": (300, 300), "batch_size": 45, "shards": 11, "epochs": 2, "optimizer": "adam",
    "dropout": 0.2, "quiet": True, "engine": "numpy",
}  # fmt: skip


def run(comm: Topology, **more) -> str:
    """Train on random rows; return the digest."""
    random = np.random.default_rng(3)
    x, y = random.random((ROWS, 300), np.float32), random.integers(0, 4, ROWS)
    return train(Config(**OPTIONS | more), x, y, comm=comm, task="classification").digest


@pytest.fixture(scope="module")
def alone() -> dict:
    """Return the digests of one process."""
    return {None: run(Topology()), 0.5: run(Topology(), clip_norm=0.5)}


def test_compiled_steps_overlap_as_well(comm, everywhere, monkeypatch):
    """They store to the counter themselves; without any trial, to the bits of one process."""
    pytest.importorskip("numba")
    begin, begun = overlap.Overlap.begin, []

    def threaded(self):
        self._trial.next = lambda: setattr(self._trial, "mode", overlap.THREAD)
        begun.append(begin(self))
        return begun[-1]

    monkeypatch.setattr(overlap.Overlap, "begin", threaded)
    digest = run(comm, engine="compiled")
    assert set(everywhere(digest)) == {run(Topology(), engine="compiled")}
    assert all(everywhere(bool(begun) == (comm.nodes > 1)))


@pytest.mark.parametrize("mode", ["trial", overlap.OFF, overlap.CALLS, overlap.THREAD])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_every_mode_has_the_bits_of_one_process(
    comm, everywhere, monkeypatch, alone, mode, clip_norm
):
    """The trial runs through all of them; 11 shards are a different number on each rank."""
    begun = []
    begin = overlap.Overlap.begin

    def counted(self):
        if mode != "trial":
            self._trial.next = lambda: setattr(self._trial, "mode", mode)
        begun.append(begin(self))
        return begun[-1]

    monkeypatch.setattr(overlap.Overlap, "begin", counted)
    digest = run(comm, clip_norm=clip_norm)
    assert set(everywhere(digest)) == {alone[clip_norm]}
    if comm.nodes > 1:
        steps = 2 * -(-ROWS // 45)
        assert all(everywhere(len(begun) == steps))
        expected = {overlap.OFF: {False}, "trial": {True, False}}.get(mode, {True})
        assert mode == "trial" or all(everywhere(set(begun) == expected))
    else:
        assert not any(everywhere(begun))
