"""Callbacks on several ranks: called everywhere, and a request of one is one of all."""

import numpy as np
import pytest

from distbp.errors import ConfigError
from distbp.training.callbacks import Callback
from distbp.training.config import Config
from distbp.training.loop import train

pytestmark = pytest.mark.mpi

X = np.random.default_rng(5).normal(size=(60, 4))
Y = np.where(X[:, 0] > 0, "yes", "no")


def test_one_rank_stops_all(comm, everywhere):
    """After the epoch in which the last rank asks for it."""
    seen = []

    def call(record, network):
        seen.append(record["digest"])
        return "stop" if len(seen) == 2 and comm.rank == comm.size - 1 else None

    result = train(Config(epochs=5, quiet=True), X, Y, comm=comm, callbacks=[call])
    assert len(result.history) == 2
    assert everywhere(seen) == [[one["digest"] for one in result.history]] * comm.size


def test_a_wrong_request_is_an_error_on_all_ranks(comm):
    with pytest.raises(ConfigError, match="expected None, 'save' or 'stop'"):
        train(
            Config(epochs=1, quiet=True), X, Y, comm=comm,
            callbacks=[lambda *_: 7 if comm.rank == 0 else None],
        )  # fmt: skip


def test_one_rank_alone_may_have_a_callback(comm, everywhere):
    """The others do not leave it waiting for their requests."""
    callbacks = [lambda *_: "stop"] if comm.rank == comm.size - 1 else []
    result = train(Config(epochs=5, quiet=True), X, Y, comm=comm, callbacks=callbacks)
    assert everywhere(len(result.history)) == [1] * comm.size


def test_each_rank_is_told_its_number(comm, everywhere):
    """Before the first epoch, with the options of the run."""

    class Note(Callback):
        def start(self, config, rank):
            self.started = rank, config.epochs

        def __call__(self, record, network):
            seen.append(self.started)

    seen = []
    train(Config(epochs=1, quiet=True), X, Y, comm=comm, callbacks=[Note()])
    assert all(everywhere(seen == [(comm.rank, 1)]))


def test_a_start_that_fails_on_one_rank_is_an_error_on_all(comm):
    class Fail(Callback):
        def start(self, config, rank):
            if rank == comm.size - 1:
                raise ConfigError("There is no server.")

    with pytest.raises(ConfigError, match="There is no server"):
        train(Config(epochs=1, quiet=True), X, Y, comm=comm, callbacks=[Fail()])
