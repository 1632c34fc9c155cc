"""Runs that stop early, or recover: signals, time limits and NaN. Resuming is exact."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import samples

from distbp.errors import DistbpError, StoppedError
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import read_checkpoint, write_checkpoint
from distbp.storage.run_directory import find_checkpoint
from distbp.training import stop_request
from distbp.training.config import Config
from distbp.training.gradient import BatchGradient
from distbp.training.loop import train
from distbp.training.stop_request import _SIGNALS, _SLURM_END_VARIABLE, _SLURM_MARGIN_S, StopRequest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(samples.digits(tmp_path_factory.mktemp("data") / "digits.h5"))


@pytest.fixture
def config(tmp_path, data):
    out = str(tmp_path / "run")
    return Config(data=data, out=out, hidden=(9,), batch_size=70, epochs=3, quiet=True)


def resumed(config, **changes):
    before = Config(**read_checkpoint(find_checkpoint(config.out)).about["config"])
    return train(before.resumed(changes), resume=True, comm=Topology())


def timeless(path):
    records = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "samples_per_s")} for r in records]


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that installs a call, of (gradient, slot), after a shard's gradient."""

    def install(epoch, step, call):
        backprop = BatchGradient._backprop

        def with_call(gradient, slot, numbers, position):
            backprop(gradient, slot, numbers, position)
            if position[:2] == (epoch, step):
                call(gradient, slot)

        monkeypatch.setattr(BatchGradient, "_backprop", with_call)

    return install


# Signals and time limits.


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_signal_stops_a_run_that_resumes_exactly(config, tmp_path, at_step, number):
    """In the middle of an epoch: saved after that step; resuming gives the same bits."""
    whole = train(replace(config, out=str(tmp_path / "whole")), comm=Topology())
    once = iter([lambda: os.kill(os.getpid(), number)])
    at_step(1, 3, lambda *_: next(once, lambda: None)())
    place = "in epoch 2 after step 5 of 8"
    with pytest.raises(StoppedError, match=f"{number.name} {place}") as stop:
        train(config, comm=Topology())
    assert stop.value.status == 75
    assert f"--resume {config.out}" in str(stop.value)
    assert read_checkpoint(find_checkpoint(config.out)).about["progress"]["step"] == 5
    assert resumed(config).digest == whole.digest
    assert timeless(config.out) == timeless(whole.path)


def test_signal_handlers_are_restored(config):
    """A program that uses the library has its own."""
    before = [signal.getsignal(number) for number in _SIGNALS]
    train(config, comm=Topology())
    assert [signal.getsignal(number) for number in _SIGNALS] == before


def test_a_second_ctrl_c_interrupts_at_once(config, at_step):
    """The first one requests a stop, as any signal does; the second raises KeyboardInterrupt."""
    at_step(1, 3, lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        train(config, comm=Topology())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored(config, at_step):
    """A background run (`&`) is not stopped by Ctrl-C in its terminal."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        at_step(1, 3, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert len(train(config, comm=Topology()).history) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_in_a_thread(config):
    """Without signal handlers, which only the main thread can install, all else works."""
    results = []
    thread = threading.Thread(target=lambda: results.append(train(config, comm=Topology())))
    thread.start()
    thread.join(60)
    assert len(results[0].history) == 3


def test_a_run_stops_at_its_time_limit(config):
    """After at least one step, so that a run that is resumed repeatedly completes."""
    with pytest.raises(StoppedError, match="its --time-limit in epoch 1 after step 1 of 8"):
        train(replace(config, time_limit="0s"), comm=Topology())
    assert len(resumed(config, time_limit="1h").history) == 3


def test_the_end_of_a_slurm_job_is_a_limit(monkeypatch):
    """Less a minute to save; a job past its end does not stop after each step."""
    now, clock = 1_700_000_000, SimpleNamespace(time=lambda: now, monotonic=lambda: 50.0)
    monkeypatch.setattr(stop_request, "time", clock)
    over = StopRequest(environment={_SLURM_END_VARIABLE: str(now + int(_SLURM_MARGIN_S) + 1)})
    clock.monotonic = lambda: 50.9
    assert not over.is_pending()
    clock.monotonic = lambda: 51.1
    assert over.is_pending()
    assert "SLURM" in over.reason
    assert not StopRequest(environment={_SLURM_END_VARIABLE: str(now - 9)}).is_pending()
    assert not StopRequest(environment={}).is_pending()


def test_a_position_after_large_costs(config, tmp_path):
    """A sum of costs may exceed the largest count of steps, and the run resumes all the same."""
    path = samples.numbers(tmp_path / "large.h5")
    with h5py.File(path, "r+") as file:
        file["train/y"][...] *= 1e12
    large = replace(config, data=str(path), cost=None, optimizer="adam", time_limit="0s")
    with pytest.raises(StoppedError):
        train(large, comm=Topology())
    assert read_checkpoint(find_checkpoint(config.out)).about["progress"]["cost"] > 2**63
    assert len(resumed(config, time_limit="1h").history) == 3


def test_a_run_stops_while_it_skips_steps(config, at_step):
    """A run whose steps have no effect can be stopped too."""

    def spoil(gradient, slot):
        poison(gradient, slot)
        os.kill(os.getpid(), signal.SIGTERM)

    for step in range(2, 8):
        at_step(0, step, spoil)
    with pytest.raises(StoppedError, match="in epoch 1 after step 4 of 8"):
        train(replace(config, on_nan="skip"), comm=Topology())


# NaN and infinity.


def poison(gradient, slot):
    gradient.reduction.slots[slot][7] = np.nan


@pytest.mark.parametrize("combine", ["node", "allreduce"])
def test_a_nan_stops_a_run_at_its_step(config, at_step, combine):
    """The message says where; the last checkpoint is from an earlier step, and finite."""
    at_step(1, 3, poison)
    config = replace(config, checkpoint_every="1steps", combine=combine)
    with pytest.raises(DistbpError) as stop:
        train(config, comm=Topology())
    assert "epoch 2, step 4 of 8: rank 0: the gradient of layer 1, rows" in str(stop.value)
    saved = read_checkpoint(find_checkpoint(config.out))
    assert (saved.about["progress"]["epoch"], saved.about["progress"]["step"]) == (1, 3)
    assert np.isfinite(saved.network.theta).all()


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_nan_in_the_data_is_found_by_its_row(config, tmp_path, name):
    """The first layer with a NaN, and the row: what a user needs to repair the file."""
    path = samples.numbers(tmp_path / "bad.h5")
    with h5py.File(path, "r+") as file:
        file[f"train/{name}"][17] = np.nan
    with pytest.raises(DistbpError, match=r"step \d+ of") as stop:
        train(replace(config, data=str(path), cost=None), comm=Topology())
    where = "layer 1, row 17," if name == "x" else "the gradient of layer 1, rows"
    assert where in str(stop.value)


def test_a_step_can_be_skipped(config, at_step, handlers, capsys):
    """It changes nothing, is reported, and counts in no average."""
    at_step(0, 2, poison)
    result = train(replace(config, on_nan="skip"), comm=Topology())
    assert "epoch 1, step 3 of 8" in capsys.readouterr().err
    assert result.history[0]["step"] == 7
    assert np.isfinite([record["train_cost"] for record in result.history]).all()
    assert 0 < result.history[0]["train_accuracy"] < 1


def test_a_run_can_be_rolled_back(config, at_step, handlers, capsys):
    """To the last checkpoint, with half the learning rate, also after it is resumed."""
    once = iter([poison] * 3)  # both shards of the step, and the search for the place
    at_step(1, 3, lambda *words: next(once, lambda *_: None)(*words))
    result = train(replace(config, on_nan="rollback", checkpoint_every="5steps"), comm=Topology())
    assert "epoch 2, step 2; the learning rate is multiplied by 0.5" in capsys.readouterr().err
    assert [record["learning_rate"] for record in result.history] == [0.1, 0.05, 0.05]
    assert resumed(config, epochs=4).history[-1]["learning_rate"] == 0.05


@pytest.mark.parametrize("interval", [0.0, 1000.0])
@pytest.mark.parametrize("every", ["auto", "1epoch"])
def test_a_roll_back_does_not_depend_on_the_clock(config, at_step, monkeypatch, interval, every):
    """It leads to the last epoch, whether that was written or deferred."""
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", interval)
    once = iter([poison] * 3)
    at_step(2, 3, lambda *words: next(once, lambda *_: None)(*words))
    result = train(replace(config, on_nan="rollback", checkpoint_every=every), comm=Topology())
    assert [record["learning_rate"] for record in result.history] == [0.1, 0.1, 0.05]
    assert [record["step"] for record in result.history] == [8, 16, 24]


def test_a_run_can_be_rolled_back_to_its_start(config, at_step):
    """Where too high a learning rate shows first."""
    once = iter([poison] * 3)
    at_step(0, 0, lambda *words: next(once, lambda *_: None)(*words))
    result = train(replace(config, on_nan="rollback"), comm=Topology())
    assert [record["learning_rate"] for record in result.history] == [0.05] * 3


def test_a_step_to_parameters_that_are_not_finite(config):
    """From a gradient that is; the textbook's sum refuses it as the exact one does."""
    for combine in ("node", "allreduce"):
        bad = {"combine": combine, "hidden": (), "batch_size": 1000, "epochs": 1}
        out = f"{config.out}-{combine}"
        with pytest.raises(DistbpError, match="in the sum, or in the new parameters"):
            train(replace(config, **bad, out=out, learning_rate=1e41), comm=Topology())


def test_parameters_that_are_not_finite_are_not_saved(config):
    """Whatever has changed them after the last step: here a callback."""

    def change(record, network):
        network.theta[0] = np.inf

    rare = replace(config, epochs=1, checkpoint_every="2epochs")
    with pytest.raises(DistbpError, match="after the last step, which is not saved"):
        train(rare, comm=Topology(), callbacks=[change])


def test_a_run_is_not_rolled_back_for_ever(config, at_step):
    """A NaN at every learning rate is not due to the learning rate."""
    at_step(1, 3, poison)
    with pytest.raises(DistbpError, match=r"epoch 2, step 4 of 8"):
        train(replace(config, on_nan="rollback"), comm=Topology())


def test_a_transient_nan_is_recomputed(config, tmp_path, at_step, handlers, capsys):
    """A NaN that is not reproduced changes nothing."""
    whole = train(replace(config, out=str(tmp_path / "whole")), comm=Topology())
    once = iter([poison])
    at_step(1, 3, lambda *words: next(once, lambda *_: None)(*words))
    assert train(config, comm=Topology()).digest == whole.digest
    assert "All ranks recompute the step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("config", {"epochs": "many"}), ("config", {"colour": 1}), ("config", {"hidden": 5}),
        ("config", {"data": 7}), ("progress", {"epoch": -1}), ("progress", {"step": 1.5}),
        ("progress", {"cost": "much"}), ("progress", {"colour": 1}), ("progress", {"epoch": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_with_nonsense(config, part, change):
    """Its checksum is valid, its content is not: one sentence."""
    train(replace(config, epochs=1), comm=Topology())
    checkpoint = read_checkpoint(find_checkpoint(config.out))
    checkpoint.about[part] |= change
    write_checkpoint(Path(config.out) / "last.h5", checkpoint)
    with pytest.raises(DistbpError):
        train(replace(config, epochs=2), resume=True, comm=Topology())
