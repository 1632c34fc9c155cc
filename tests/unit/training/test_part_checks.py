"""What is checked of users' own parts before a run: the example's pass, mistakes do not."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network.activations import Activation, Tanh
from distbp.network.costs import QuadraticCost
from distbp.network.optimizers import Sgd
from distbp.network.schedules import Schedule
from distbp.training.callbacks import check_requests
from distbp.training.config import Config
from distbp.training.metrics import METRICS
from distbp.training.part_checks import check_parts, check_sources, load_parts

EXAMPLE = Path(__file__).resolve().parents[3] / "scripts" / "examples" / "my_parts.py"


class WrongPrime(Tanh):
    def prime(self, a, out, z):
        return np.subtract(1.0, a, out=out)


class NewArray(Tanh):
    def fill(self, z, out, spare=None):
        return np.tanh(z)


class WrongDelta(QuadraticCost):
    def delta(self, a, y, out=None, spare=None):
        return np.subtract(y, a, out=out)


class MeanCost(QuadraticCost):
    def fn(self, z, a, y, spare=None):
        return super().fn(z, a, y, spare) / len(y)

    def delta(self, a, y, out=None, spare=None):
        return super().delta(a, y, out, spare) / len(y)


class Coupled(Sgd):
    def apply(self, old, new, g, spare, learning_rate, t):
        new[0][...] = old[0] - learning_rate * g / np.linalg.norm(g)


class InPlace(Sgd):
    def apply(self, old, new, g, spare, learning_rate, t):
        old[0] -= learning_rate * g
        new[0][...] = old[0]


class Forgetful(Sgd):
    state_names = ("velocity",)

    def apply(self, old, new, g, spare, learning_rate, t):
        new[1].fill(np.nan)
        new[0][...] = old[0]


class Nameless(Sgd):
    state_names = ("my state",)


class Negative(Schedule):
    def factor(self, epoch, epochs, scores):
        return 1.0 - epoch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": WrongPrime}, r"The derivative of .*WrongPrime, .* where finite differen"),
        ({"activation": NewArray}, r"NewArray: fill returned something else than its argument out"),
        ({"activation": Activation}, r"Activation' lacks fill and prime"),
        ({"cost": WrongDelta}, r"The derivative of .*WrongDelta by z"),
        ({"cost": MeanCost}, r"The value of .*MeanCost is not a sum over the rows"),
        ({"optimizer": Coupled}, r"Coupled: apply gives other numbers for a part of θ"),
        ({"optimizer": InPlace}, r"InPlace: apply changes old"),
        ({"optimizer": Forgetful}, r"Forgetful: apply leaves numbers in θ or its state"),
        ({"optimizer": Nameless}, r"Nameless: state_names is \('my state',\)"),
        ({"schedule": Negative}, r"Negative: its factor at epoch 15 of 30 is -14\.0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value.values())).__name__,
)
def test_mistakes_are_found(options, message):
    config = Config(**{"cost": "quadratic"} | options)
    with pytest.raises(ConfigError, match=message):
        check_parts(config, "linear", "regression")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("my_parts", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_parts_of_the_example_are_right(example):
    config = Config(
        activation=example.Mish, cost=example.FocalCost, optimizer=example.Lion,
        schedule=example.Sqrt, metrics=[example.TopTwo, "f1:a"], callbacks=[example.StopAtAccuracy],
    )  # fmt: skip
    assert set(check_parts(config, "softmax", "classification")) == {
        f"my_parts:{name}"
        for name in ("Mish", "FocalCost", "Lion", "Sqrt", "TopTwo", "StopAtAccuracy")
    }
    METRICS.pop("my_parts:TopTwo", None)


def test_a_cost_is_checked_with_the_targets_of_the_run(example):
    """Smoothed ones have no right class, which the δ of the example is made for."""
    config = Config(cost=example.FocalCost, label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"The derivative of my_parts:FocalCost by z"):
        check_parts(config, "softmax", "classification")


def test_a_changed_source_is_not_resumed():
    name = own_parts.register(Coupled)
    about = {"config": {"optimizer": name}, "own_parts": {name: "0"}}
    with pytest.raises(ConfigError, match=r"The source of .*Coupled has changed since"):
        check_sources({name: "1"}, SimpleNamespace(about=about))
    check_sources({name: "0"}, SimpleNamespace(about=about))
    check_sources({}, SimpleNamespace(about={"config": {"optimizer": "sgd"}}))


def test_only_own_parts_are_loaded(monkeypatch):
    """`f1:setosa` is a metric of one class, not of a module called f1."""
    loaded = []
    monkeypatch.setattr(own_parts, "load", loaded.append)
    load_parts(
        {
            "activation": "a:A", "cost": "quadratic", "callbacks": ("b:B",), "out": "x:y",
            "metrics": ("f1", "f1:setosa", "top-3-accuracy", "c:C", "f1_macro:x"),
            "monitor": "validation_d:D",
        }
    )  # fmt: skip
    assert sorted(loaded) == ["a:A", "b:B", "c:C", "d:D"]


def test_requests_of_callbacks():
    check_requests([(print, None), (print, "stop"), (print, "save")])
    with pytest.raises(ConfigError, match="returned True; expected None, 'save' or 'stop'"):
        check_requests([(print, True)])
    with pytest.raises(ConfigError, match=r"returned array\(\[0\., 0\.\]\); expected None"):
        check_requests([(print, np.zeros(2))])
