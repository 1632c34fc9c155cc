"""What the parameters of the estimators may be, and the `Config` that they mean.

The names are scikit-learn's where they mean the same, and an error is a ValueError under that
name. `alpha` becomes `l2` here: scikit-learn's cost of a batch of m rows has the penalty
α/(2m)·Σw², distbp's λ/(2n)·Σw² with the n rows of the training set, so that λ = α·n/m. With
weights, scikit-learn divides by their sum instead of m, and so λ is divided by their mean.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from distbp.errors import ConfigError
from distbp.network.activations import HIDDEN
from distbp.network.costs import COSTS
from distbp.network.network import DTYPES
from distbp.network.optimizers import OPTIMIZERS
from distbp.training.config import Config

_MAX_ITER = 100_000  # most epochs of a run
_AUTO_BATCH = 200  # rows of a batch, as scikit-learn chooses them
_ACTIVATIONS = {"logistic": "sigmoid"}  # scikit-learn's names
_LOSSES = {"squared_error": "quadratic", "huber": "huber", "absolute_error": "mae"}
# `sgd` stands for three rules, by momentum and nesterovs_momentum.
SOLVERS = ("sgd", *(name for name in OPTIMIZERS if name not in ("sgd", "momentum", "nesterov")))
LEARNING_RATES = ("constant", "invscaling", "adaptive", "cosine")

_Rule = tuple[Callable[[Any], bool], str]


def is_integer(value: Any) -> bool:
    """Return whether a value is a whole number, and not a boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _one_of(*names: str | None) -> _Rule:
    return (
        lambda value: (value is None or isinstance(value, str)) and value in names,
        f"one of {', '.join(map(repr, names))}",
    )


def _integer(least: int) -> _Rule:
    return lambda value: is_integer(value) and value >= least, f"a whole number of at least {least}"


def _number(least: float, below: float = math.inf, is_open: bool = False) -> _Rule:
    text = f"a number {'above' if is_open else 'of at least'} {least:g}"
    text += f" and below {below:g}" * (below < math.inf)
    return (
        lambda value: (
            _is_number(value) and (least < value if is_open else least <= value) and value < below
        ),
        text,
    )


_BOOLEAN: _Rule = (lambda value: isinstance(value, bool | np.bool_), "True or False")


def _is_sizes(value: Any) -> bool:
    if is_integer(value):
        return bool(value > 0)
    return np.iterable(value) and all(is_integer(size) and size > 0 for size in value)


_RULES: dict[str, _Rule] = {
    "hidden_layer_sizes": (_is_sizes, "whole numbers above 0, such as (100,), or () for none"),
    "activation": _one_of("logistic", *(name for name in HIDDEN if name != "sigmoid")),
    "solver": _one_of(*SOLVERS),
    "loss": _one_of(*(name for name, cost in _LOSSES.items() if cost in COSTS)),
    "alpha": _number(0),
    "batch_size": (
        lambda value: (isinstance(value, str) and value == "auto")
        or (is_integer(value) and value > 0),
        "'auto' or a whole number above 0",
    ),
    "learning_rate": _one_of(*LEARNING_RATES),
    "learning_rate_init": _number(0, is_open=True),
    "power_t": _number(0),
    "max_iter": _integer(1),
    "shuffle": _BOOLEAN,
    "tol": _number(0),
    "warm_start": _BOOLEAN,
    "momentum": _number(0, 1),
    "nesterovs_momentum": _BOOLEAN,
    "early_stopping": _BOOLEAN,
    "validation_fraction": _number(0, 1, is_open=True),
    "beta_1": _number(0, 1),
    "beta_2": _number(0, 1),
    "epsilon": _number(0, is_open=True),
    "n_iter_no_change": _integer(1),
    "dropout": _number(0, 1),
    "dtype": _one_of(*DTYPES, None),
    "scaling": _one_of("none", "standardize"),
    "target_scaling": _one_of("none", "standardize"),
    "use_mpi": _BOOLEAN,
    "options": (
        lambda value: value is None or isinstance(value, Mapping), "None or a dict of options",
    ),
}  # fmt: skip
# Options that parameters stand for, and those that estimators cannot have.
_NO_OPTIONS = {
    "ema", "init_from", "profile",
    "data", "out", "validation", "quiet", "hidden", "activation", "cost", "optimizer",
    "learning_rate", "momentum", "l2", "batch_size", "epochs", "patience", "seed", "dropout",
    "dtype", "class_weight", "schedule",
}  # fmt: skip


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError unless all parameters of an estimator are allowed."""
    for name, value in parameters.items():
        is_allowed, expected = _RULES.get(name, (None, ""))
        if is_allowed is not None and not is_allowed(value):
            if name == "solver" and value == "lbfgs":
                expected += "; 'lbfgs' is not for data-parallel training"
            if name == "activation" and value == "identity":
                expected += "; for a linear model, use hidden_layer_sizes=()"
            raise ValueError(f"{name}={value!r}: expected {expected}.")
    options = parameters.get("options") or {}
    known = {one.name for one in fields(Config)} - _NO_OPTIONS
    for name in options:
        if name not in known:
            raise ValueError(
                f"options={{{name!r}: …}}: expected options of distbp.Config that no parameter "
                f"stands for, such as {', '.join(sorted(known))}."
            )


def layer_sizes(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Return the sizes of the hidden layers."""
    if is_integer(hidden_layer_sizes):
        return (int(hidden_layer_sizes),)
    return tuple(int(size) for size in hidden_layer_sizes)


def rows_of_batch(batch_size: Any, rows: int) -> int:
    """Return the rows of a batch for a training set of so many rows."""
    return min(_AUTO_BATCH if batch_size == "auto" else int(batch_size), rows)


def cost_of(loss: str) -> str:
    """Return distbp's name of a loss."""
    return _LOSSES[loss]


def activation_of(activation: str) -> str:
    """Return distbp's name of an activation."""
    return _ACTIVATIONS.get(activation, activation)


def _optimizer(parameters: Mapping[str, Any]) -> str:
    solver = str(parameters["solver"])
    if solver != "sgd" or parameters["momentum"] == 0:
        return solver
    return "nesterov" if parameters["nesterovs_momentum"] else "momentum"


def make_config(
    parameters: Mapping[str, Any], rows: int, mean_weight: float, dtype: str, seed: int
) -> Config:
    """Return the configuration that parameters mean for a training set.

    Parameters
    ----------
    parameters : mapping
        Of an estimator, checked.
    rows : int
        Of the training set.
    mean_weight : float
        Of the rows.
    dtype : {'float32', 'float64'}
    seed : int

    Raises
    ------
    ValueError
        One of the `options` is not allowed.
    """
    batch_size = rows_of_batch(parameters["batch_size"], rows)
    class_weight = parameters.get("class_weight")
    try:
        return Config(
            hidden=layer_sizes(parameters["hidden_layer_sizes"]),
            activation=activation_of(parameters["activation"]),
            optimizer=_optimizer(parameters),
            learning_rate=float(parameters["learning_rate_init"]),
            momentum=float(parameters["momentum"]),
            schedule="cosine" if parameters["learning_rate"] == "cosine" else "constant",
            l2=float(parameters["alpha"]) * rows / batch_size / mean_weight,
            dropout=float(parameters["dropout"]),
            class_weight="balanced" if class_weight == "balanced" else "none",
            batch_size=batch_size,
            epochs=min(int(parameters["max_iter"]), _MAX_ITER),
            dtype=dtype,
            seed=seed,
            quiet=True,
            **parameters["options"] or {},
        )
    except (ConfigError, TypeError) as error:
        raise ValueError(f"options={parameters['options']!r}: {error}") from error
