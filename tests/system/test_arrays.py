"""A user's own program that trains on arrays: alone, and on the ranks that mpiexec starts."""

import sys

import pytest
from ranks import Job, mpiexec

PROGRAM = """
import os, sys
import numpy as np
import distbp

random = np.random.default_rng(0)
x = random.normal(size=(300, 6))
y = np.where(x[:, 0] > 0, "up", "down")
rank, size = 0, 1
if "alone" not in sys.argv:
    from mpi4py import MPI
    rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
options = {"hidden": (9,), "epochs": 2, "batch_size": 64, "shards": 4}
if "first" in sys.argv:
    own = (x, y) if rank == 0 else (None, None)
    model = distbp.fit(*own, distribute=True, **options)
else:
    model = distbp.fit(x, y, **options)
try:
    distbp.fit(x[rank:], y[rank:], **options)
    refusal = ""
except distbp.DistbpError as error:
    refusal = str(error)
if rank == 0:
    has_mpi = "mpi4py.MPI" in sys.modules
    print(size, model.predict(x[:1])[0], has_mpi, refusal.split(".")[0], model.digest, sep="|")
"""


@pytest.fixture
def program(tmp_path):
    """Return a function that runs the program with a word, and returns what it prints."""
    (tmp_path / "fit.py").write_text(PROGRAM)

    def run(word, *launcher):
        ended = Job([*launcher, sys.executable, "fit.py", word], tmp_path).wait()
        assert ended.status == 0, str(ended)
        assert ended.err == "", str(ended)
        assert [path.name for path in tmp_path.iterdir()] == ["fit.py"]
        return ended.out.strip().split("|")

    return run


def test_a_program_on_any_number_of_ranks(program):
    """The same bits; no file, no output of its own; arrays that differ are refused on all ranks.

    Without a launcher MPI is not even loaded.
    """
    alone = program("alone")
    assert (alone[0], alone[2], alone[3]) == ("1", "False", "")
    assert alone[1] in ("up", "down")
    several = program("all", mpiexec(), "-n", "2")
    assert several[0] == "2"
    assert several[3] == "The arrays of rank 1 are not those of rank 0"
    assert several[4] == alone[4]
    assert program("first", mpiexec(), "-n", "2")[4] == alone[4]
