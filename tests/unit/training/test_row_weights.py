"""Weights of rows and classes: what a run with them computes, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import samples

from distbp.data.dataset import DataSet
from distbp.errors import ConfigError, DataError
from distbp.parallel.topology import Topology
from distbp.storage.scaling import Scaling
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.row_weights import scaled_weights

COUNTS = np.array([1, 0, 2, 3, 1, 1, 0, 4, 1, 2] * 5)
PLAIN = Scaling(np.zeros(1), np.ones(1))


def make(path, y, counts=None, weights=None, n_classes=3):
    """Write 50 rows, some repeatedly, or weighted."""
    x = np.random.default_rng(1).normal(size=(50, 4))
    if counts is not None:
        x, y = x.repeat(counts, axis=0), y.repeat(counts, axis=0)
    return samples.write(path, {"train": (x, y)}, PLAIN, n_classes, weights=weights)


@pytest.fixture
def run(tmp_path):
    """Return a function that trains on a data set with some options."""
    count = iter(range(100))

    def train_on(path, **options):
        defaults = {"hidden": (5,), "epochs": 3, "quiet": True, "dtype": "float64", "l2": 0.0}
        config = Config(data=str(path), out=str(tmp_path / f"run{next(count)}"))
        return train(replace(config, **defaults | options), comm=Topology())

    return train_on


def costs(result):
    return [record["train_cost"] for record in result.history]


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_weighted_row_is_a_repeated_row(run, tmp_path, task, shuffle):
    """With all rows in a batch; costs are the weighted means, whatever the weights add up to."""
    generator = np.random.default_rng(2)
    is_regression = task == "regression"
    y = generator.normal(size=(50, 2)) if is_regression else generator.integers(0, 3, 50)
    n_classes = 0 if is_regression else 3
    repeated = run(make(tmp_path / "r.h5", y, COUNTS, n_classes=n_classes))
    path = make(tmp_path / "w.h5", y, weights=COUNTS * 1e300, n_classes=n_classes)
    weighted = run(path, shuffle=shuffle)
    np.testing.assert_allclose(weighted.network.theta, repeated.network.theta, rtol=1e-9)
    assert costs(weighted) == pytest.approx(costs(repeated), rel=1e-12)


def test_equal_weights_are_none(run, tmp_path):
    """The same bits, by the same computations."""
    y = np.arange(50) % 3
    plain = run(make(tmp_path / "p.h5", y))
    assert run(make(tmp_path / "w.h5", y, weights=np.full(50, 0.1))).digest == plain.digest
    # As for classes of equal size.
    even = make(tmp_path / "e.h5", np.arange(50) % 2, n_classes=2)
    assert run(even, class_weight="balanced").digest == run(even).digest


def test_balanced_classes(run, tmp_path):
    """Each class counts alike: n/(k·count) of its rows, which have weights of their own."""
    y = np.array([0] * 35 + [1] * 10 + [2] * 5)
    by_class = 50 / (3 * np.array([35, 10, 5]))
    balanced = run(make(tmp_path / "p.h5", y), class_weight="balanced", batch_size=20)
    by_hand = run(make(tmp_path / "h.h5", y, weights=by_class[y]), batch_size=20)
    np.testing.assert_allclose(balanced.network.theta, by_hand.network.theta, rtol=1e-9)
    repeated = run(make(tmp_path / "r.h5", y, COUNTS), class_weight="balanced")
    weighted = run(make(tmp_path / "w.h5", y, weights=COUNTS / 7), class_weight="balanced")
    np.testing.assert_allclose(weighted.network.theta, repeated.network.theta, rtol=1e-9)


def test_the_mean_is_1_over_the_rows_that_are_trained_on(tmp_path):
    """A class without rows there does not matter; rows that are held out have no weight."""
    y = np.array([0] * 35 + [1] * 10 + [2] * 5)
    data = DataSet(make(tmp_path / "d.h5", y))
    rows = data.split("train").subset(np.arange(5, 45))
    weights = scaled_weights(Topology(), data, rows, "balanced")
    assert weights[:5].tolist() + weights[45:].tolist() == [0.0] * 10
    assert weights[5:45].mean() == pytest.approx(1)
    assert weights[5:35].sum() == pytest.approx(weights[35:45].sum())


def test_no_weight_is_left(run, tmp_path):
    """As all rows with a weight were held out."""
    path = make(tmp_path / "d.h5", np.arange(50) % 3, weights=np.eye(50)[7])
    data = DataSet(path)
    rows = data.split("train").subset(np.arange(10, 50))
    with pytest.raises(DataError, match=r"d\.h5: train/weight: the weights of all training rows"):
        scaled_weights(Topology(), data, rows, "none")
    assert scaled_weights(Topology(), data, data.split("train"), "none")[7] == 50


@pytest.mark.parametrize("make_other", [samples.numbers, samples.labels])
def test_class_weights_are_for_classes(run, tmp_path, make_other):
    with pytest.raises(ConfigError, match=r"is for classification, but .* distbp import --weight"):
        run(make_other(tmp_path / "d.h5"), class_weight="balanced")


def test_weighted_runs_are_resumed(run, tmp_path):
    """With the same bits, and not with other weights."""
    y, path = np.arange(50) % 3, tmp_path / "d.h5"
    make(path, y, weights=COUNTS / 3)
    whole, part = run(path, epochs=4, batch_size=20), run(path, epochs=2, batch_size=20)
    config = Config(data=str(path), out=str(part.path), hidden=(5,), quiet=True, dtype="float64")
    config = replace(config, batch_size=20, epochs=4)
    assert train(config, resume=True, comm=Topology()).digest == whole.digest
    make(path, y, weights=COUNTS / 4)
    with pytest.raises(ConfigError, match="is not the data set that"):
        train(replace(config, epochs=5), resume=True, comm=Topology())
