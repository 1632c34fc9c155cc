"""Whole runs, in this process: the bits do not depend on the number of ranks."""

import gc
import os
from dataclasses import replace
from functools import cache

import pytest
from mpi4py import MPI
from samples import RECIPES

from distbp import Config
from distbp.data import shuffle
from distbp.data.row_file import RowFile
from distbp.errors import ConfigError, DataError, DistbpError, StoppedError
from distbp.network.parameter_store import ParameterStore
from distbp.parallel.topology import Topology
from distbp.training.loop import Run, train
from distbp.training.model import Result
from distbp.training.setup import assemble
from distbp.training.stop_request import StopRequest

pytestmark = pytest.mark.mpi

TIMES = ("seconds", "samples_per_s")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """Return the sample data sets, written once."""
    import samples

    world = MPI.COMM_WORLD
    paths = samples.write_all(tmp_path_factory.mktemp("data")) if world.rank == 0 else None
    return world.bcast(paths)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_sets):
    """Return a function that trains without MPI, once for each recipe."""

    @cache
    def train_alone(name: str) -> Result:
        out = tmp_path_factory.mktemp("alone") / "run"
        return train(configured(name, data_sets, out), comm=Topology())

    return train_alone


def configured(name, data_sets, out) -> Config:
    recipe = RECIPES[name]
    return Config(data=str(data_sets[recipe.data]), out=str(out), quiet=True, **recipe.options)


def without_times(history):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in history]


@pytest.mark.parametrize(
    ("name", "comm"),
    [(name, "one node") for name in RECIPES]
    + [(name, "two nodes") for name in ("clipped, float64", "regression, packed, float64")],
    indirect=["comm"],
)
def test_a_run_has_the_bits_of_one_rank(comm, everywhere, mpi_tmp_path, data_sets, alone, name):
    """θ after the run, and every number of every epoch, with MPI and without."""
    expected = alone(name)
    result = train(configured(name, data_sets, mpi_tmp_path / "run"), comm=comm)
    assert everywhere(result.digest) == [expected.digest] * comm.size
    histories = everywhere(without_times(result.history))
    assert histories == [without_times(expected.history)] * comm.size
    assert len({record["digest"] for record in result.history}) == len(result.history)


@pytest.mark.parametrize(
    ("name", "comm"),
    [
        (name, "one node")
        for name in (
            "all defaults", "adam, penalties, cosine", "clipped, in steps", "clipped, float64",
            "weighted, held out", "scaled targets",
        )
    ]
    + [(name, "two nodes") for name in ("all defaults", "clipped, float64")],
    indirect=["comm"],
)  # fmt: skip
def test_compiled_steps_have_the_bits_of_one_rank(
    comm, everywhere, mpi_tmp_path, data_sets, tmp_path_factory, name
):
    """Sums in shared memory and by messages, whole steps in one call or one phase at a time."""
    config = replace(configured(name, data_sets, ""), engine="compiled")
    alone = replace(config, out=str(tmp_path_factory.mktemp("alone") / "run"))
    expected = train(alone, comm=Topology())
    for combine in ("node", "tree"):
        out = str(mpi_tmp_path / combine)
        result = train(replace(config, out=out, combine=combine), comm=comm)
        assert everywhere(result.digest) == [expected.digest] * comm.size
        histories = everywhere(without_times(result.history))
        assert histories == [without_times(expected.history)] * comm.size


@pytest.mark.parametrize("name", ["adam, penalties, cosine", "clipped, float64"])
@pytest.mark.parametrize("comm", ["one node"], indirect=True)
def test_compiled_steps_with_the_sum_of_mpi(comm, everywhere, mpi_tmp_path, data_sets, name):
    """θ is updated in place, the same on all ranks, and nearly as with the ordered sum."""
    config = replace(configured(name, data_sets, mpi_tmp_path / "a"), engine="compiled", epochs=1)
    ordered = train(config, comm=comm)
    found = train(replace(config, out=str(mpi_tmp_path / "b"), combine="allreduce"), comm=comm)
    assert len(set(everywhere(found.digest))) == 1
    costs = [one.history[0]["train_cost"] for one in (found, ordered)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-4)


@pytest.mark.parametrize("comm", ["one node"], indirect=True)
def test_many_runs_need_no_more_files_than_one(comm, everywhere, mpi_tmp_path, data_sets):
    """Who tries a hundred configurations in one process does not run out of them."""
    counts = []
    for number in range(3):
        train(configured("all defaults", data_sets, mpi_tmp_path / f"run{number}"), comm=comm)
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    # Exchanged before the assertion: a rank that fails would wait for those that do not. One of the
    # counts may include a file that a thread is about to close.
    of_ranks = everywhere(counts)
    assert all(min(later) <= first for first, *later in of_ranks), of_ranks


def test_patience_ends_a_run_early(alone):
    """The recipe for patience is one: it does not last for all of its epochs."""
    assert 1 < len(alone("patience").history) < RECIPES["patience"].options["epochs"]


def test_plateau_lowers_the_learning_rate(alone):
    """The recipe for plateau has one."""
    assert len({record["learning_rate"] for record in alone("plateau").history}) > 1


def test_replicas_that_drift_apart_before_the_first_checkpoint(
    comm, everywhere, mpi_tmp_path, data_sets, caplog
):
    """A number of each rank's θ in turn: the run begins again, and ends with the same bits."""
    config = Config(data=str(data_sets["digits"]), quiet=True, epochs=2, combine="tree")
    expected = train(replace(config, out=str(mpi_tmp_path / "undisturbed")), comm=comm).digest
    for rank in range(comm.size):
        run = Run(assemble(replace(config, out=str(mpi_tmp_path / f"run-{rank}")), comm))
        if comm.rank == rank:
            run.parts.network.theta[0] += 0.01
        digests = everywhere(run.train().digest)
        if comm.size == 1:
            assert digests != [expected]  # nothing to compare it with
        else:
            assert digests == [expected] * comm.size
            warned = everywhere(caplog.text)[0]
            assert f"rank {rank or 1} differ from those of rank 0" in warned
            assert "The run was rolled back to its beginning" in warned


@pytest.mark.parametrize("every", ["1steps", "auto"])
def test_a_drift_is_in_no_checkpoint(
    comm, everywhere, mpi_tmp_path, data_sets, alone, monkeypatch, every
):
    """A replica that drifts apart between two epochs' ends.

    The last checkpoint, of a step or a deferred one of an epoch, is from before: the run goes
    back to it, and ends with the bits of one that nothing has disturbed.
    """
    name = "more shards than rows in the last batch"
    config = configured(name, data_sets, mpi_tmp_path / "run")
    config = replace(config, checkpoint_every=every, combine="tree")
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", 1000.0)
    last_epoch = [record["step"] for record in alone(name).history][-2]
    at, commit, calls = (15 if every == "1steps" else last_epoch + 1), ParameterStore.commit, []

    def disturbed(self):
        commit(self)
        calls.append(None)
        if len(calls) == at and comm.rank == comm.size - 1 > 0:
            self.versions[self.current][0][0] += 0.5

    monkeypatch.setattr(ParameterStore, "commit", disturbed)
    result = train(config, comm=comm)
    assert everywhere(result.digest) == [alone(name).digest] * comm.size


def test_equal_trouble_is_raised_on_all_ranks(comm, everywhere, mpi_tmp_path, data_sets):
    """A directory that holds a run is refused by all, though only rank 0 looks."""
    config = Config(
        data=str(data_sets["digits"]), out=str(mpi_tmp_path / "run"), quiet=True, epochs=1
    )
    train(config, comm=comm)
    with pytest.raises(DistbpError) as caught:
        train(config, comm=comm)
    errors = everywhere(str(caught.value))
    assert errors == [errors[0]] * comm.size
    assert "already contains a run" in errors[0]


def test_resume_refuses_other_data(comm, everywhere, mpi_tmp_path, data_sets):
    """All ranks see that it is not the data set that the run was trained on."""
    config = Config(
        data=str(data_sets["digits"]), out=str(mpi_tmp_path / "run"), quiet=True, epochs=1
    )
    train(config, comm=comm)
    with pytest.raises(ConfigError) as caught:
        train(replace(config, data=str(data_sets["digits packed"])), resume=True, comm=comm)
    assert "is not the data set" in str(caught.value)
    assert len(set(everywhere(str(caught.value)))) == 1


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 1 KB, windows of 5 blocks: several windows in the sample data sets."""
    monkeypatch.setattr(shuffle, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(shuffle, "WINDOW_BLOCKS", 5)


STREAMED = (
    "wide, clipped, held out", "plateau", "clipped, float64", "regression, packed, float64",
)  # fmt: skip


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_run_has_the_bits_of_one_rank(
    comm, everywhere, mpi_tmp_path, data_sets, small_blocks, name
):
    """The order in two levels does not depend on the ranks, nor on who reads the blocks."""
    config = replace(configured(name, data_sets, mpi_tmp_path / "run"), shuffle="blocks")
    alone = replace(config, out=str(mpi_tmp_path / f"alone{MPI.COMM_WORLD.rank}"))
    expected = train(alone, comm=Topology())
    result = train(config, comm=comm)
    assert everywhere(result.digest) == [expected.digest] * comm.size
    assert (
        everywhere(without_times(result.history)) == [without_times(expected.history)] * comm.size
    )


def test_storage_does_not_matter_to_a_streamed_run(
    comm, everywhere, mpi_tmp_path, data_sets, small_blocks
):
    """A data set in compressed chunks of its rows gives the same bits as a contiguous one."""
    config = Config(data=str(data_sets["digits"]), quiet=True, epochs=2, shuffle="blocks")
    digests = [
        train(
            replace(config, data=str(data_sets[data]), out=str(mpi_tmp_path / data)), comm=comm
        ).digest
        for data in ("digits", "digits packed")
    ]
    full = train(replace(config, out=str(mpi_tmp_path / "full"), shuffle="full"), comm=comm)
    assert len(set(everywhere(digests[0]))) == 1
    assert digests[0] == digests[1] != full.digest


def test_a_streamed_run_is_resumed_within_an_epoch(
    comm, everywhere, mpi_tmp_path, data_sets, small_blocks, monkeypatch
):
    """It starts to read at the window of the next step, and ends with the same bits."""
    config = Config(
        data=str(data_sets["digits packed"]), quiet=True, epochs=2, shuffle="blocks",
        batch_size=20, out=str(mpi_tmp_path / "run"),
    )  # fmt: skip
    whole = train(replace(config, out=str(mpi_tmp_path / "whole")), comm=comm)
    calls = []

    def is_pending(self):
        calls.append(None)
        self.reason = "a test" if len(calls) > 33 else ""
        return bool(self.reason)

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "is_pending", is_pending)
        with pytest.raises(StoppedError):
            train(config, comm=comm)
    resumed = train(config, resume=True, comm=comm)
    assert everywhere(resumed.digest) == [whole.digest] * comm.size


def test_a_block_that_cannot_be_read_ends_all_ranks(
    comm, everywhere, mpi_tmp_path, data_sets, small_blocks, monkeypatch
):
    """The rank whose thread has failed tells the others, at the next window."""
    read, calls = RowFile.read, []

    def failing(self, start, out):
        calls.append(None)
        if len(calls) > 7:
            raise DataError("the disk is broken")
        read(self, start, out)

    monkeypatch.setattr(RowFile, "read", failing)
    config = Config(data=str(data_sets["digits"]), quiet=True, epochs=2, shuffle="blocks")
    with pytest.raises(DataError, match="the disk is broken"):
        train(replace(config, out=str(mpi_tmp_path / "run")), comm=comm)
    everywhere(None)
