"""The steps that `distbp verify` compares: the same trace on any number of ranks."""

import json

import pytest
import samples

from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.step_trace import trace_steps

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_the_trace_does_not_depend_on_the_ranks(comm, everywhere, tmp_path, shuffle):
    """Rank 0 has that of a process on its own."""
    folder = everywhere(str(tmp_path))[0]
    data = f"{folder}/digits.h5"
    if comm.rank == 0:
        samples.DATA_SETS["digits packed"](tmp_path / "digits.h5")
    everywhere(None)
    config = Config(
        data=everywhere(data)[0], hidden=(9,), batch_size=60, shards=7, dropout=0.2, clip_norm=0.1,
        optimizer="adam", shuffle=shuffle,
    )  # fmt: skip
    trace, theta = trace_steps(config, 6, comm)
    alone, expected = trace_steps(config, 6, Topology())
    del trace["seconds"], alone["seconds"]
    equal = theta.tobytes() == expected.tobytes()
    if comm.rank == 0:
        equal &= json.dumps(trace) == json.dumps(alone)
    assert all(everywhere(equal))
