"""A flipped bit is detected at the next check, located, and corrected."""

from dataclasses import replace

import numpy as np
import pytest
import samples

from distbp.network.parameter_store import ParameterStore
from distbp.parallel.topology import Topology
from distbp.training.config import Config
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
    """Return a function that has a bit flipped just after a step is committed."""

    def install(step, array, index, bit=0):
        commit, done = ParameterStore.commit, []

        def commit_and_flip(store):
            commit(store)
            if store.steps == step and not done:
                done.append(step)
                store.versions[store.current][array].view(np.uint32)[index] ^= np.uint32(1 << bit)

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


def test_without_a_check_the_flip_stays(config, tmp_path, flip):
    """The test above can fail: the flip changes the result."""
    undisturbed = train(replace(config, out=str(tmp_path / "undisturbed")), comm=Topology())
    flip(10, 0, 3, 22)
    assert train(replace(config, check_every=0), comm=Topology()).digest != undisturbed.digest
