"""Small models that were not trained, for tests of exports and imports."""

from typing import Any

import numpy as np

from distbp.interop.conversion import make_checkpoint
from distbp.network.network import Network
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.scaling import Scaling, TargetScaling

# Each output with a cost that goes with it, and the tasks that it is for.
OUTPUTS = [
    ("log-likelihood", "softmax", "classification"),
    ("cross-entropy", "sigmoid", "classification"),
    ("cross-entropy", "sigmoid", "multilabel"),
    ("quadratic", "linear", "regression"),
]


def untrained(
    task: str = "classification",
    activation: str = "relu",
    cost: str = "log-likelihood",
    output: str | None = None,
    dtype: str = "float32",
    sizes: tuple[int, ...] = (6, 9, 8, 3),
    classes: list[str] | None = None,
    **about: Any,
) -> Checkpoint:
    """Return a model with random weights, scaling, and scaled targets for a regression."""
    random = np.random.default_rng(5)
    network = Network(sizes, activation, cost, output, seed=3, dtype=dtype)
    for b in network.biases:
        b[...] = random.normal(size=b.shape)
    names = [] if task == "regression" else classes or [f"c{i}" for i in range(sizes[-1])]
    scaling = Scaling(random.normal(3, 1, sizes[0]), random.uniform(0.3, 2, sizes[0]))
    target = None
    if task == "regression":
        target = TargetScaling(
            random.normal(200_000, 1, sizes[-1]), random.uniform(0.1, 9, sizes[-1])
        )
    about = {"shape": [sizes[0]]} | about
    return make_checkpoint(
        network, task, names, scaling, target, {"file": "models.py", "format": "test"}, **about
    )


def rows(n_in: int, count: int = 41, dtype: str = "float32") -> np.ndarray:
    """Return rows for a model."""
    return np.random.default_rng(6).normal(3, 2, (count, n_in)).astype(dtype)
