"""Ensembles: means and spreads of models, and which models are one."""

import numpy as np
import pytest

import distbp
from distbp.errors import ConfigError
from distbp.network.network import Network
from distbp.training.ensemble import EnsembleNetwork, expand_models

OPTIONS = {"epochs": 3, "batch_size": 16, "quiet": True}


def classes(n=60):
    x = np.random.default_rng(0).normal(size=(n, 4))
    return x, np.array(["low", "mid", "high"])[np.digitize(x[:, 0], [-0.5, 0.5])]


def models(x, y, **options):
    """Return models that differ in seed and size."""
    kinds = ((0, (5,)), (1, (5,)), (2, (7, 3)))
    return [distbp.fit(x, y, seed=seed, hidden=h, **OPTIONS | options) for seed, h in kinds]


def test_the_mean_of_probabilities_and_its_spread():
    """As NumPy computes them from the outputs of the members."""
    x, y = classes()
    members = models(x, y)
    each = np.stack([one.predict_proba(x) for one in members]).astype(np.float64)
    mean, deviation = distbp.predict(members, x, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, each.std(axis=0), rtol=1e-5, atol=1e-7)
    assert mean.dtype == deviation.dtype == np.float32
    assert (distbp.predict(members, x) == mean).all()


def test_equal_models_have_no_spread():
    """And exactly the outputs, and the score, of one of them."""
    x, y = classes()
    model = models(x, y)[0]
    mean, deviation = distbp.predict([model] * 3, x, return_std=True)
    assert (mean == model.predict_proba(x)).all()
    assert (deviation == 0).all()
    score, expected = distbp.evaluate([model] * 3, x, y), model.evaluate(x, y)
    assert score["cost"] == pytest.approx(expected["cost"], rel=1e-6)
    assert score["accuracy"] == expected["accuracy"]
    assert score["classes"] == expected["classes"]


@pytest.mark.parametrize("cost", ["log-likelihood", "cross-entropy", "quadratic"])
def test_the_score_is_that_of_the_mean(cost):
    x, y = classes()
    members = models(x, y, cost=cost)
    a = np.mean([one.predict_proba(x).astype(np.float64) for one in members], axis=0)
    names = list(members[0].classes)
    labels = np.array([names.index(one) for one in y])
    t = np.eye(3)[labels]
    expected = {
        "log-likelihood": -np.log(a[t == 1]).mean(),
        "cross-entropy": -(t * np.log(a) + (1 - t) * np.log(1 - a)).sum(axis=1).mean(),
        "quadratic": (np.square(a - t).sum(axis=1) / 2).mean(),
    }
    score = distbp.evaluate(members, x, y)
    assert score["cost"] == pytest.approx(expected[cost], rel=1e-5)
    assert score["accuracy"] == (a.argmax(axis=1) == labels).mean()


def test_a_regression_is_averaged_in_its_units():
    x = np.random.default_rng(0).normal(size=(60, 4))
    y = 1000.0 + 100 * x[:, 0]
    members = models(x, y)
    each = np.stack([distbp.predict(one, x) for one in members])
    mean, deviation = distbp.predict(members, x, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, each.std(axis=0), rtol=1e-4)
    assert distbp.evaluate(members, x, y)["rmse"] == pytest.approx(
        np.sqrt(np.square(mean[:, 0] - y).mean()), rel=1e-6
    )


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "linear"])
def test_buffers_of_an_ensemble_are_shared(output):
    """Members of the same shape have one workspace; none is needed for a single pass."""
    cost = {"softmax": "log-likelihood", "sigmoid": "cross-entropy", "linear": "quadratic"}[output]
    members = [
        Network((4, hidden, 3), cost=cost, output=output, seed=seed)
        for seed, hidden in enumerate((5, 5, 6))
    ]
    network = EnsembleNetwork(members)
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    work = network.workspace(8)
    first, second, third = work.members
    assert first is second
    assert third is not first
    a = network.feedforward(x, work)
    assert (a == network.feedforward(x)).all()
    np.testing.assert_allclose(a, np.mean([one.feedforward(x) for one in members], 0), rtol=1e-5)
    z = work.z[-1]
    again = {"softmax": np.exp(z), "sigmoid": 1 / (1 + np.exp(-z)), "linear": z}[output]
    np.testing.assert_allclose(again, a, rtol=1e-4)


def test_models_that_are_no_ensemble():
    x, y = classes()
    first = distbp.fit(x, y, **OPTIONS)
    others = {
        "the number of inputs": distbp.fit(x[:, :3], y, **OPTIONS),
        "the task": distbp.fit(x, np.abs(x[:, 0]) + 0.5, **OPTIONS),
        "the classes, or their order": distbp.fit(x, np.char.upper(y), **OPTIONS),
        "the scaling of the inputs": distbp.fit(x * 2, y, **OPTIONS),
        "the cost": distbp.fit(x, y, cost="quadratic", **OPTIONS),
        "the dtype": distbp.fit(x, y, dtype="float64", **OPTIONS),
    }
    for what, other in others.items():
        with pytest.raises(
            ConfigError, match=f"cannot form an ensemble: they differ in {what}. Use"
        ):
            distbp.predict([first, other], x)
    with pytest.raises(ConfigError, match="a single one has no spread"):
        distbp.predict(first, x, return_std=True)
    with pytest.raises(ConfigError, match="no model in the list"):
        distbp.predict([], x)


def test_paths_of_ensembles(tmp_path):
    """The directory of a cross-validation, or of a sweep with one, stands for its folds."""
    x, y = classes()
    members = models(x, y)
    for k, one in enumerate(members, 1):
        folder = tmp_path / "sweep" / "trial-0001" / f"fold-{k}"
        folder.mkdir(parents=True)
        one.save(folder / "last.h5")
    expected = distbp.predict(members, x)
    for path in ("sweep", "sweep/trial-0001"):
        assert (distbp.predict(tmp_path / path, x) == expected).all()
    folds = [tmp_path / "sweep/trial-0001" / f"fold-{k}" for k in (1, 2, 3)]
    assert (distbp.predict(folds, x) == expected).all()
    assert expand_models(["a", tmp_path / "sweep"]) == ["a", *map(str, folds)]
    (tmp_path / "sweep" / "trial-0002").mkdir()
    with pytest.raises(ConfigError, match=r"is a sweep of 2 trials\. Name one of them, such as"):
        expand_models([tmp_path / "sweep"])
