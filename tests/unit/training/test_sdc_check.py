"""A flipped bit is detected at the next check, located, and corrected."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import samples

from distbp.network.parameter_store import ParameterStore
from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.engine import Engine
from distbp.training.loop import train


@pytest.fixture
def config(tmp_path):
    data = str(samples.digits(tmp_path / "digits.h5"))
    return Config(
        data=data, out=str(tmp_path / "run"), hidden=(9, 7), batch_size=70, epochs=3, quiet=True,
        optimizer="momentum", check_every=5,
    )  # fmt: skip


@pytest.fixture
def flip(monkeypatch):
    """Return a function that has a bit flipped just after a step is committed.

    It may be committed again, when it is recomputed: `times` are those that flip, from 1.
    """

    def install(step, array, index, bit=0, times=(1,)):
        commit, count = ParameterStore.commit, 0

        def commit_and_flip(store):
            nonlocal count
            commit(store)
            if store.steps == step:
                count += 1
                if count in times:
                    numbers = store.versions[store.current][array].view(np.uint32)
                    numbers[index] ^= np.uint32(1 << (bit + count - 1))

        monkeypatch.setattr(ParameterStore, "commit", commit_and_flip)

    return install


def test_a_check_changes_nothing(config, tmp_path):
    """The recomputed step is the same step."""
    without = train(replace(config, out=str(tmp_path / "without"), check_every=0), comm=Topology())
    assert train(config, comm=Topology()).digest == without.digest


@pytest.mark.parametrize(("array", "index", "layer"), [(0, 3, 1), (0, -1, 3), (1, -9, 3)])
@pytest.mark.parametrize("bit", [0, 22, 30])
def test_a_flipped_bit_is_located_and_corrected(
    config, tmp_path, flip, handlers, capsys, array, index, layer, bit
):
    """In θ or optimizer state, whether the bit matters or not: the warning names layer and step."""
    undisturbed = train(replace(config, out=str(tmp_path / "undisturbed")), comm=Topology())
    flip(10, array, index, bit)
    assert train(config, comm=Topology()).digest == undisturbed.digest
    err = capsys.readouterr().err
    assert f"in epoch 2, step 2: layer {layer} in the memory of rank 0 on" in err
    assert err.count("Silent data corruption detected") == 1


def test_a_bit_that_flips_while_the_step_is_recomputed(config, tmp_path, flip, handlers, capsys):
    """Two of three computations agree: the first one was right."""
    undisturbed = train(replace(config, out=str(tmp_path / "undisturbed")), comm=Topology())
    flip(10, 0, 3, 22, times=(2,))
    assert train(config, comm=Topology()).digest == undisturbed.digest
    err = capsys.readouterr().err
    assert re.search(r"layer 1 in the memory of rank 0 on \S+ when the step was recomputed", err)
    assert "the result is now correct" in err


@pytest.mark.parametrize("times", [(1, 2), (1, 3)])
@pytest.mark.parametrize(("step", "origin"), [(5, "its beginning"), (10, "the last checkpoint")])
@pytest.mark.parametrize("more", [{}, {"optimizer": "adam", "ema": 0.9}], ids=["", "adam"])
def test_without_two_equal_results_the_run_is_rolled_back(
    config, tmp_path, flip, handlers, capsys, times, step, origin, more
):
    """Bits that flip in two of three computations: none of them is known to be right."""
    config = replace(config, **more)
    undisturbed = train(replace(config, out=str(tmp_path / "undisturbed")), comm=Topology())
    flip(step, 0, 3, 20, times)
    assert train(config, comm=Topology()).digest == undisturbed.digest
    err = capsys.readouterr().err
    assert "which differs each time" in err
    assert "the result is now correct" not in err
    assert f"rolled back to {origin}" in err


@pytest.mark.parametrize("failures", [1, 2])
def test_a_recomputed_step_that_is_not_finite(
    config, tmp_path, monkeypatch, handlers, capsys, failures
):
    """It has overwritten the first result: a third one is needed, or the checkpoint."""
    undisturbed = train(replace(config, out=str(tmp_path / "undisturbed")), comm=Topology())
    repeat, roll_back = Engine.repeat, ParameterStore.rollback
    results = [False] * failures + [True]  # from the end; of the second check, in epoch 2

    def repeat_or_fail(engine, *arguments):
        if not results or results.pop():
            return repeat(engine, *arguments)
        return SimpleNamespace(applied=False)

    def roll_back_and_overwrite(store):
        roll_back(store)
        for array in store.versions[1 - store.current]:
            array[:] = np.nan

    monkeypatch.setattr(Engine, "repeat", repeat_or_fail)
    monkeypatch.setattr(ParameterStore, "rollback", roll_back_and_overwrite)
    assert train(config, comm=Topology()).digest == undisturbed.digest
    err = capsys.readouterr().err
    assert ("the result is now correct" in err) == (failures == 1)


def test_without_a_check_the_flip_stays(config, tmp_path, flip):
    """The test above can fail: the flip changes the result."""
    undisturbed = train(replace(config, out=str(tmp_path / "undisturbed")), comm=Topology())
    flip(10, 0, 3, 22)
    assert train(replace(config, check_every=0), comm=Topology()).digest != undisturbed.digest
