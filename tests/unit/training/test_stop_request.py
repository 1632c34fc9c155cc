"""A run that stops early: by a signal, by the time, or because of a NaN. It goes on exactly."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import samples

from distbp.errors import DistbpError, StoppedError
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import read_checkpoint, write_checkpoint
from distbp.storage.run_directory import find_checkpoint
from distbp.training.config import Config
from distbp.training.gradient import BatchGradient
from distbp.training.loop import train
from distbp.training.stop_request import MARGIN, SIGNALS, SLURM_END, StopRequest


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
    """Return a function that has another called after a shard's gradient: (gradient, slot)."""

    def install(epoch, step, call):
        backprop = BatchGradient._backprop

        def with_call(gradient, slot, numbers, position):
            backprop(gradient, slot, numbers, position)
            if position[:2] == (epoch, step):
                call(gradient, slot)

        monkeypatch.setattr(BatchGradient, "_backprop", with_call)

    return install


# Signals and times.


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_a_run_that_goes_on_exactly(config, tmp_path, at_step, number):
    """In the middle of an epoch: saved after that step; the rest ends as if nothing had been."""
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


def test_handlers_are_put_back(config):
    """A library's user has his own."""
    before = [signal.getsignal(number) for number in SIGNALS]
    train(config, comm=Topology())
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_ctrl_c_does_not_wait(config, at_step):
    """The first one asks, as any signal does; the second one is Python's own again."""
    at_step(1, 3, lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        train(config, comm=Topology())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored(config, at_step):
    """A run behind `&` has nothing to do with the Ctrl-C of its terminal."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        at_step(1, 3, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert len(train(config, comm=Topology()).history) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_in_a_thread(config):
    """Where Python handles no signals, the rest works."""
    results = []
    thread = threading.Thread(target=lambda: results.append(train(config, comm=Topology())))
    thread.start()
    thread.join(60)
    assert len(results[0].history) == 3


def test_a_run_stops_when_its_time_is_over(config):
    """After at least one step, so that it comes to an end however often it is resumed."""
    with pytest.raises(StoppedError, match="its --time-limit in epoch 1 after step 1 of 8"):
        train(replace(config, time_limit="0s"), comm=Topology())
    assert len(resumed(config, time_limit="1h").history) == 3


def test_the_end_of_a_slurm_job_is_a_limit():
    """With a minute to save; a job that is over its time is not stopped at each step."""
    now = int(time.time())
    over = StopRequest(environment={SLURM_END: str(now + int(MARGIN) + 1)})
    assert not over.is_wanted()
    time.sleep(1.1)
    assert over.is_wanted()
    assert "SLURM" in over.reason
    assert not StopRequest(environment={SLURM_END: str(now - 9)}).is_wanted()
    assert not StopRequest(environment={}).is_wanted()


def test_a_position_after_large_costs(config, tmp_path):
    """A sum of costs may be larger than any count of steps, and the run goes on all the same."""
    path = samples.numbers(tmp_path / "large.h5")
    with h5py.File(path, "r+") as file:
        file["train/y"][...] *= 1e12
    large = replace(config, data=str(path), cost=None, optimizer="adam", time_limit="0s")
    with pytest.raises(StoppedError):
        train(large, comm=Topology())
    assert read_checkpoint(find_checkpoint(config.out)).about["progress"]["cost"] > 2**63
    assert len(resumed(config, time_limit="1h").history) == 3


def test_a_run_stops_while_it_skips_steps(config, at_step):
    """What no step changes can be stopped too."""

    def spoil(gradient, slot):
        poison(gradient, slot)
        os.kill(os.getpid(), signal.SIGTERM)

    for step in range(2, 8):
        at_step(0, step, spoil)
    with pytest.raises(StoppedError, match="in epoch 1 after step 4 of 8"):
        train(replace(config, on_nan="skip"), comm=Topology())


# Numbers that are none.


def poison(gradient, slot):
    gradient.reduction.slots[slot][7] = np.nan


@pytest.mark.parametrize("combine", ["node", "allreduce"])
def test_a_nan_stops_a_run_at_its_step(config, at_step, combine):
    """The message says where; what was saved is of an earlier step, and finite."""
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
    """The layer that sees it first, and the row: what a user needs to mend the file."""
    path = samples.numbers(tmp_path / "bad.h5")
    with h5py.File(path, "r+") as file:
        file[f"train/{name}"][17] = np.nan
    with pytest.raises(DistbpError, match=r"step \d+ of") as stop:
        train(replace(config, data=str(path), cost=None), comm=Topology())
    where = "layer 1, row 17," if name == "x" else "the gradient of layer 1, rows"
    assert where in str(stop.value)


def test_a_step_can_be_skipped(config, at_step, handlers, capsys):
    """It changes nothing, is told, and counts in no average."""
    at_step(0, 2, poison)
    result = train(replace(config, on_nan="skip"), comm=Topology())
    assert "epoch 1, step 3 of 8" in capsys.readouterr().err
    assert result.history[0]["step"] == 7
    assert np.isfinite([record["train_cost"] for record in result.history]).all()
    assert 0 < result.history[0]["train_accuracy"] < 1


def test_a_run_can_go_back(config, at_step, handlers, capsys):
    """To the last checkpoint, with half the learning rate, which a resume keeps."""
    once = iter([poison] * 3)  # both shards of the step, and the search for the place
    at_step(1, 3, lambda *words: next(once, lambda *_: None)(*words))
    result = train(replace(config, on_nan="rollback", checkpoint_every="5steps"), comm=Topology())
    assert "epoch 2, step 2; the learning rate has the factor 0.5" in capsys.readouterr().err
    assert [record["learning_rate"] for record in result.history] == [0.1, 0.05, 0.05]
    assert resumed(config, epochs=4).history[-1]["learning_rate"] == 0.05


def test_a_run_can_go_back_to_its_beginning(config, at_step):
    """Where a learning rate that is too high shows first."""
    once = iter([poison] * 3)
    at_step(0, 0, lambda *words: next(once, lambda *_: None)(*words))
    result = train(replace(config, on_nan="rollback"), comm=Topology())
    assert [record["learning_rate"] for record in result.history] == [0.05] * 3


def test_a_last_step_without_finite_numbers(config):
    """Where a step does not look at the new parameters, the run does before it calls them good."""
    bad = {"combine": "allreduce", "hidden": (), "batch_size": 1000, "epochs": 1}
    with pytest.raises(DistbpError, match="after the last step, which is not saved"):
        train(replace(config, **bad, learning_rate=1e41), comm=Topology())


def test_a_run_that_only_goes_back_is_given_up(config, at_step):
    """The same NaN at every learning rate is no matter of the learning rate."""
    at_step(1, 3, poison)
    with pytest.raises(DistbpError, match=r"epoch 2, step 4 of 8"):
        train(replace(config, on_nan="rollback"), comm=Topology())


def test_a_slip_is_computed_again(config, tmp_path, at_step, handlers, capsys):
    """A NaN that is not there at the second look changes nothing."""
    whole = train(replace(config, out=str(tmp_path / "whole")), comm=Topology())
    once = iter([poison])
    at_step(1, 3, lambda *words: next(once, lambda *_: None)(*words))
    assert train(config, comm=Topology()).digest == whole.digest
    assert "All ranks compute it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("config", {"epochs": "many"}), ("config", {"colour": 1}), ("config", {"hidden": 5}),
        ("config", {"data": 7}), ("progress", {"epoch": -1}), ("progress", {"step": 1.5}),
        ("progress", {"cost": "much"}), ("progress", {"colour": 1}), ("progress", {"epoch": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_that_says_nonsense(config, part, change):
    """Its checksum is valid, its content is not: one sentence."""
    train(replace(config, epochs=1), comm=Topology())
    checkpoint = read_checkpoint(find_checkpoint(config.out))
    checkpoint.about[part] |= change
    write_checkpoint(Path(config.out) / "last.h5", checkpoint)
    with pytest.raises(DistbpError):
        train(replace(config, epochs=2), resume=True, comm=Topology())
