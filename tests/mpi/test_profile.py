"""Clocks of several hosts, and a profile with a lane for each rank."""

import json
import time

import numpy as np
import pytest
import samples

from distbp.training import profile_trace
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.profile_trace import gather_lanes, read_clocks

pytestmark = pytest.mark.mpi

SHIFT = 10**15


def test_clocks_are_compared(comm, everywhere, monkeypatch):
    """Those of a host are the same; that of another is ahead by what it is ahead."""
    monkeypatch.setattr(profile_trace, "_CLOCK_ROUNDS", 100)
    ahead = SHIFT * comm.node_index
    reading = read_clocks(comm, lambda: time.perf_counter_ns() + ahead)
    errors = everywhere(reading.offset - ahead)
    # Ranks wait for each other's time slice: there may be more of them than cores.
    assert max(map(abs, errors)) < 50_000_000
    first = everywhere([comm.node_index, reading.offset])
    assert all(offset == 0 for node, offset in first if node == 0)
    assert len({tuple(one) for one in first}) == comm.nodes


def test_lanes_of_all_ranks(comm, everywhere):
    """In the order of the ranks, with their nodes, also of a rank without spans."""
    own = np.full((comm.rank, 3), comm.rank, np.int64)
    lanes = gather_lanes(comm, own)
    found = [(lane.rank, lane.node, lane.spans.tolist()) for lane in lanes]
    expected = [(rank, [[rank] * 3] * rank) for rank in range(comm.size)]
    assert [(rank, spans) for rank, _, spans in found] == (expected if comm.rank == 0 else [])
    nodes = sorted(everywhere(comm.node_index))
    assert comm.rank or [node for _, node, _ in found] == nodes


@pytest.mark.parametrize("engine", ["numpy", "compiled"])
def test_the_profile_of_a_run(comm, everywhere, tmp_path, engine):
    """Waits of each rank, and exchanges between nodes; the digest is that without a profile."""
    folder = everywhere(str(tmp_path))[0]
    if comm.rank == 0:
        samples.DATA_SETS["digits"](tmp_path / "digits.h5")
    everywhere(None)
    options = {"data": f"{folder}/digits.h5", "hidden": (9,), "batch_size": 70, "shards": 7,
               "epochs": 1, "quiet": True, "engine": engine}  # fmt: skip
    path = f"{folder}/profile.json"
    profiled = train(Config(out=f"{folder}/run", profile=path, **options), comm=comm)
    plain = train(Config(out=f"{folder}/plain", **options), comm=comm)
    everywhere(None)
    with open(path) as file:
        events = json.load(file)["traceEvents"]
    spans = [one for one in events if one["ph"] == "X"]
    ok = profiled.digest == plain.digest
    ok &= {one["tid"] for one in spans} == {rank + 1 for rank in range(comm.size)}
    ok &= sum(one["name"] == "update" for one in spans) == 8 * comm.size
    ok &= any(one["name"] == "exchange" for one in spans) == (comm.nodes > 1)
    ok &= sum(one["name"] == "backprop" for one in spans) == 8 * 7
    assert all(everywhere(bool(ok)))
