"""Training on arrays: the same bits on any number of ranks, which have or get the same arrays."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pandas
import pytest

from distbp import Config, DistbpError
from distbp.errors import ConfigError
from distbp.parallel.topology import Topology
from distbp.training.array_fit import fit
from distbp.training.loop import train

pytestmark = pytest.mark.mpi

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(307, 6))
Y = np.where(X[:, 0] + X[:, 1] ** 2 > 0.7, "yes", "no")
WEIGHTS = RANDOM.uniform(0.5, 2, len(X))
FRAME = pandas.DataFrame(X, columns=list("abcdef")).assign(
    kind=RANDOM.choice(["car", "bus", "tram"], len(X)), price=1e5 + 2e4 * X[:, 2]
)
CONFIG = Config(hidden=(9,), batch_size=50, epochs=3, quiet=True)

WAYS = {
    "arrays": ((X, Y), {"validation": (X[:90], Y[:90]), "sample_weight": WEIGHTS}),
    "columns in another order": ((np.asfortranarray(X), Y), {"test": (X[:90], Y[:90])}),
    "a data frame": ((FRAME, "price"), {"validation": (FRAME[:80], "price")}),
}


@pytest.mark.parametrize("distribute", [False, True])
@pytest.mark.parametrize(
    ("way", "comm"),
    [(way, "one node") for way in WAYS] + [("a data frame", "two nodes")],
    indirect=["comm"],
)
def test_arrays_give_the_bits_of_one_rank(comm, everywhere, way, distribute):
    """Whether all ranks have them or only rank 0 does; so do the predictions of each rank."""
    (x, y), options = WAYS[way]
    alone = train(CONFIG, x, y, **options, comm=Topology()).model
    if distribute and comm.rank > 0:
        x, y, options = None, None, {}
    model = train(CONFIG, x, y, **options, comm=comm, distribute=distribute).model
    assert everywhere(model.digest) == [alone.digest] * comm.size
    x = WAYS[way][0][0]
    np.testing.assert_array_equal(model.predict(x), alone.predict(x))
    assert model.classes.tolist() == alone.classes.tolist()


@pytest.mark.parametrize("comm", ["one node"], indirect=True)
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (lambda rank: (X + rank, Y), "The arrays of rank 1 are not those of rank 0"),
        (lambda rank: (X, np.char.add(Y, str(rank))), "The arrays of rank 1 are not those of"),
        (lambda rank: (X[rank:], Y[rank:]), "The arrays of rank 1 are not those of rank 0"),
        (lambda rank: (X.astype(str) if rank else X, Y), "rank 1: x is an array of text"),
        (lambda rank: (None, None) if rank else (X, Y), "Some ranks pass arrays and others none"),
        (lambda rank: ("d.h5", None) if rank else (X, Y), "Some ranks pass arrays and others none"),
    ],
)
def test_different_arrays_are_refused_on_all_ranks(comm, everywhere, own, message):
    """None waits for another."""
    if comm.size == 1:
        return
    x, y = own(min(comm.rank, 1))
    error = ""
    try:
        train(CONFIG, x, y, comm=comm)
    except DistbpError as failure:
        error = str(failure)
    errors = everywhere(error)
    assert all(message in one for one in errors), errors


@pytest.mark.parametrize("comm", ["one node"], indirect=True)
def test_a_wrong_option_of_one_rank_is_an_error_on_all(comm):
    with pytest.raises(ConfigError, match="--epochs -1: expected at least 1"):
        fit(X, Y, epochs=-1 if comm.rank == comm.size - 1 else 2, comm=comm)


@pytest.mark.parametrize("comm", ["one node"], indirect=True)
def test_a_run_in_memory_rolls_back(comm, everywhere):
    """To the last checkpoint, which each rank keeps; the result is that of one rank."""
    config = Config(
        hidden=(), batch_size=10, epochs=1, learning_rate=1e3, on_nan="rollback", quiet=True
    )
    alone = train(config, X, X[:, 0], comm=Topology())
    assert alone.history[0]["learning_rate"] < 1e3
    result = train(config, X, X[:, 0], comm=comm)
    assert everywhere(result.digest) == [alone.digest] * comm.size


@pytest.mark.parametrize("comm", ["one node"], indirect=True)
def test_many_fits_leave_nothing_behind(comm, everywhere):
    """Neither open files nor shared memory, nor a thread that would hold some."""
    counts, threads = [], threading.active_count()
    for _ in range(5):
        train(CONFIG, X, Y, comm=comm)
        assert threading.active_count() == threads
        gc.collect()
        mapped = Path("/proc/self/maps").read_text().count("distbp-")
        counts.append((len(os.listdir("/proc/self/fd")), mapped))
    of_ranks = everywhere(counts)
    assert all(max(one) == one[0] for one in of_ranks), of_ranks
