"""A bit that changes by itself is noticed at the next check, named, and mended."""

from dataclasses import replace

import numpy as np
import pytest
import samples

from distbp.network.update import Update
from distbp.parallel.comm import Comm
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
    """Return a function that has a bit changed just after a step."""

    def install(step, array, index, bit=0):
        commit, done = Update.commit, []

        def commit_and_flip(update):
            commit(update)
            if update.steps == step and not done:
                done.append(step)
                update._versions[update._now][array].view(np.uint32)[index] ^= np.uint32(1 << bit)

        monkeypatch.setattr(Update, "commit", commit_and_flip)

    return install


def test_a_check_changes_nothing(config, tmp_path):
    """The step that is made again is the same step."""
    without = train(replace(config, out=str(tmp_path / "without"), check_every=0), comm=Comm())
    assert train(config, comm=Comm()).digest == without.digest


@pytest.mark.parametrize(("array", "index", "layer"), [(0, 3, 1), (0, -1, 3), (1, -9, 3)])
@pytest.mark.parametrize("bit", [0, 22, 30])
def test_a_bit_is_found_and_mended(
    config, tmp_path, flip, handlers, capsys, array, index, layer, bit
):
    """In θ and in the optimizer's state, the last bit or one that matters: layer and step."""
    whole = train(replace(config, out=str(tmp_path / "whole")), comm=Comm())
    flip(10, array, index, bit)
    assert train(config, comm=Comm()).digest == whole.digest
    err = capsys.readouterr().err
    assert f"by epoch 2, step 2: layer {layer} in the memory of rank 0 on" in err
    assert err.count("Bits have changed") == 1


def test_without_a_check_it_stays(config, tmp_path, flip):
    """Or the test above would show nothing."""
    whole = train(replace(config, out=str(tmp_path / "whole")), comm=Comm())
    flip(10, 0, 3, 22)
    assert train(replace(config, check_every=0), comm=Comm()).digest != whole.digest
