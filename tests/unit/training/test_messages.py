"""What a person is told before a run: what makes it slower, or its bits others."""

import re
from types import SimpleNamespace

import pytest

from distbp.network.network import Network
from distbp.training.config import Config
from distbp.training.messages import introduction, warnings
from distbp.training.state import Progress

BITS = {"cpu": "X", "numpy": "2.0", "blas": "openblas"}


def machines(ranks, cores=None, nodes=1, bits=None):
    """Return what ranks say of themselves, each of a node's with all its cores."""
    cores = list(range(cores or ranks))
    return [[rank % nodes, cores, (bits or {}).get(rank, BITS)] for rank in range(ranks)]


CONFIG = Config(shards=4, combine="tree")


def test_nothing_to_warn_of():
    """Ranks with a core and a shard each are as they should be."""
    assert warnings(CONFIG, machines(4), None) == []
    assert warnings(CONFIG, machines(4, cores=2, nodes=2), None) == []
    same = SimpleNamespace(about={"machine": BITS | {"threads": 1}})
    assert warnings(CONFIG, machines(1), same) == []


@pytest.mark.parametrize(
    ("config", "ranks", "message"),
    [
        (CONFIG, machines(3, cores=2), "3 ranks of 1 thread share 2 cores"),
        (Config(shards=4, threads=2), machines(2, cores=2), "2 ranks of 2 threads share 2 cores"),
        (CONFIG, machines(7), "3 of 7 ranks have nothing to compute.*--shards 7 would use them"),
        (Config(shards=4, combine="allreduce"), machines(1), "--combine allreduce is not exact"),
        (CONFIG, machines(3, bits={2: BITS | {"cpu": "Y"}}), "rank 2 has cpu 'Y', unlike rank 0"),
    ],
)
def test_warnings(config, ranks, message):
    """One sentence each: what is so, and what it means."""
    (text,) = warnings(config, ranks, None)
    assert re.search(message, text)


def test_a_run_that_was_begun_elsewhere():
    """Another machine than the one before is named, because bits may differ."""
    before = SimpleNamespace(about={"machine": BITS | {"numpy": "1.9", "threads": 1}})
    (text,) = warnings(CONFIG, machines(1), before)
    assert "begun with numpy '1.9'" in text


def test_introduction():
    """Sizes, rows, ranks, sums, and what a death would cost; a line more where a run goes on."""
    network = Network((4, 3, 2))
    lines = introduction(CONFIG, network, machines(2, nodes=2), 1000, Progress(), False)
    assert lines[0] == "4-3-2, 23 parameters, float32; 1,000 training rows, 4 steps an epoch"
    assert lines[1].startswith("2 ranks on 2 nodes, 4 shards, 1 thread a rank, 4 cores; exact sums")
    assert lines[2:] == [
        "a rank that dies ends the run: the last checkpoint is kept, --resume goes on"
    ]
    lines = introduction(CONFIG, network, machines(2), 1000, Progress(), True)
    assert lines[2] == "a rank that dies costs the step in flight: the others go on"
    lines = introduction(CONFIG, network, machines(1), 1000, Progress(epoch=1, step=2), False)
    assert lines[2] == "resumed after 1 epoch and 2 steps"
