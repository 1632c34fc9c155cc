"""A user's own parts: loading those that the command line names, and checks before a run starts.

Derivatives are compared with central finite differences in float64, at random points that are
the same in every run; kinks are avoided by leaving out points where both sides differ. A wrong
derivative does not end a run: it only learns badly, which is why it is looked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network import rng
from distbp.network.activations import find_activation
from distbp.network.costs import find_cost
from distbp.network.optimizers import find_optimizer
from distbp.network.schedules import find_schedule
from distbp.storage.checkpoint import Checkpoint
from distbp.training.config import Config
from distbp.training.metrics import METRICS

# The parts that the bits of a result depend on.
_MATHEMATICS = ("activation", "cost", "optimizer", "schedule")
_STEP = 1e-6
_TOLERANCE = 1e-5  # relative to the larger of the derivative and 1
_POINTS = 64
_ROWS, _OUTPUTS = 8, 3
_SEED = 1


def load_parts(given: Mapping[str, Any]) -> None:
    """Import the modules of a user's own parts that options of the command line name.

    Raises
    ------
    ConfigError
        A module cannot be imported, or has no such class.
    """
    names = [given.get(one.name) for one in fields(Config) if one.metadata["has_own_parts"]]
    names += given.get("callbacks", ())
    # A name such as f1:setosa is a metric for one class.
    names += [name for name in given.get("metrics", ()) if _is_own_metric(name)]
    monitor = (given.get("monitor") or "").removeprefix("validation_")
    names += [monitor] if _is_own_metric(monitor) else []
    for name in names:
        if name and own_parts.is_own(name):
            own_parts.load(name)


def _is_own_metric(name: str) -> bool:
    if not own_parts.is_own(name):
        return False
    base = name.partition(":")[0]
    return base.isidentifier() and not any(
        base == one or base.startswith(f"{one}_") for one in METRICS
    )


def check_parts(config: Config, output: str, task: str) -> dict[str, str]:
    """Check the user's own parts; return the SHA-256 of the source of each by its name.

    Parameters
    ----------
    config : Config
        With nothing left open.
    output : str
        Activation of the output layer.
    task : {"classification", "multilabel", "regression"}

    Raises
    ------
    ConfigError
        A part cannot be found, or does not do what it has to.
    """
    checks: dict[str, Callable[[], None]] = {
        config.activation: lambda: _check_activation(config.activation),
        config.cost or "": lambda: _check_cost(config, output, task),
        config.optimizer: lambda: _check_optimizer(config.optimizer, config.momentum),
        config.schedule: lambda: _check_schedule(config.schedule, config.epochs),
    }
    names = [name for name in checks if own_parts.is_own(name)]
    for name in names:
        with np.errstate(all="ignore"):
            checks[name]()
    names += [name for name in (*config.metrics, *config.callbacks) if own_parts.is_known(name)]
    return {name: own_parts.source_digest(name) for name in names}


def _normal(stream: int, *shape: int) -> np.ndarray:
    """Return random numbers N(0, 1), float64, the same in every run."""
    return rng.normal(_SEED, stream, int(np.prod(shape))).astype(np.float64).reshape(shape)


def _compare(
    what: str, points: np.ndarray, found: np.ndarray, values: Callable[[float], np.ndarray]
) -> None:
    """Raise ConfigError unless `found` are the derivatives where there is one.

    `values` returns the function at all points, moved by its argument.
    """
    plus, minus, middle = values(_STEP), values(-_STEP), values(0.0)
    right, left = (plus - middle) / _STEP, (middle - minus) / _STEP
    expected = (plus - minus) / (2 * _STEP)
    scale = np.maximum(np.abs(expected), 1.0)
    is_smooth = np.abs(right - left) <= 1e-2 * scale
    is_wrong = is_smooth & ~(np.abs(found - expected) <= _TOLERANCE * scale)
    if is_wrong.any():
        i = np.unravel_index(int(is_wrong.argmax()), is_wrong.shape)
        raise ConfigError(
            f"{what} is {found[i]:.6g} at {points[i]:.6g}, where finite differences give "
            f"{expected[i]:.6g}. Correct it."
        )


def _check_activation(name: str) -> None:
    """Compare σ′ with differences of σ."""
    sigma, z = find_activation(name)(), 2.0 * _normal(0, _POINTS, 1)

    def values(step: float) -> np.ndarray:
        return sigma.fill(z + step, np.empty_like(z), np.empty_like(z))

    kept, out = z.copy(), np.empty_like(z)
    a = sigma.fill(kept, out, np.empty_like(z))
    if a is not out:  # BP2 takes it from there
        raise ConfigError(
            f"{name}: fill returned something else than its argument out. Write σ(z) to out, as in "
            f"return np.tanh(z, out=out)."
        )
    prime = sigma.prime(a, np.empty_like(z), kept if sigma.needs_z else a)
    _compare(f"The derivative of {name}, as its prime returns it,", z, prime, values)


def _check_cost(config: Config, output: str, task: str) -> None:
    """Compare δ with differences of the cost by z, element by element."""
    name, activation = config.cost or "", find_activation(output)()
    cost, z = find_cost(name)(activation), _normal(1, _ROWS, _OUTPUTS)
    y = _normal(2, _ROWS, _OUTPUTS)
    if task != "regression":
        y = (y > 0).astype(np.float64)
    if task == "classification":
        y = np.eye(_OUTPUTS)[np.arange(_ROWS) % _OUTPUTS]
        y = (1.0 - config.label_smoothing) * y + config.label_smoothing / _OUTPUTS

    def value(z: np.ndarray) -> float:
        z = z.copy()
        a = activation.fill(z, np.empty_like(z), np.empty_like(z))
        return cost.fn(z, a, y, np.empty_like(z))

    def shifted(step: float) -> np.ndarray:
        values = np.empty_like(z)
        for i in np.ndindex(*z.shape):
            moved = z.copy()
            moved[i] += step
            values[i] = value(moved)
        return values

    a = activation.fill(z.copy(), np.empty_like(z), np.empty_like(z))
    delta = cost.delta(a, y, np.empty_like(z), np.empty_like(z))
    what = f"The derivative of {name} by z, as its delta returns it,"
    _compare(what, z, delta, shifted)
    rows = sum(cost.fn(*(one[i : i + 1].copy() for one in (z, a, y))) for i in range(_ROWS))
    if not np.isclose(rows, cost.fn(z.copy(), a, y, np.empty_like(z)), rtol=1e-9):
        raise ConfigError(
            f"The value of {name} is not a sum over the rows: it differs from that of its rows one "
            f"by one. Let fn return the sum."
        )


def _check_optimizer(name: str, momentum: float) -> None:
    """Make two steps on a vector, and on its halves: the rule has to be elementwise."""
    kind = find_optimizer(name)
    if not all(isinstance(one, str) and one.isidentifier() for one in kind.state_names):
        raise ConfigError(
            f"{name}: state_names is {kind.state_names!r}; expected a tuple of names for the "
            f"arrays in a checkpoint, such as ('velocity',)."
        )

    def run(part: slice) -> list[np.ndarray]:
        arrays = [_normal(3, _POINTS)[part], *(np.zeros(_POINTS)[part] for _ in kind.state_names)]
        for t in (1, 2):
            new = [np.empty_like(array) for array in arrays]
            g = _normal(3 + t, _POINTS)[part].copy()
            before = [array.tobytes() for array in arrays]
            kind(momentum).apply(arrays, new, g, np.empty_like(g), 0.01, t)
            # A step is undone by taking old again.
            if [array.tobytes() for array in arrays] != before:
                raise ConfigError(f"{name}: apply changes old. Let it write to new alone.")
            arrays = new
        return arrays

    whole, half = run(np.s_[:]), _POINTS // 2
    parts = zip(run(np.s_[:half]), run(np.s_[half:]), strict=True)
    if not all(np.isfinite(array).all() for array in whole):
        raise ConfigError(
            f"{name}: apply leaves numbers in θ or its state that are not finite. Let it write all "
            f"of new."
        )
    for array, (first, second) in zip(whole, parts, strict=True):
        if not np.array_equal(array, np.concatenate([first, second])):
            raise ConfigError(
                f"{name}: apply gives other numbers for a part of θ than for all of it. Its rule "
                f"has to work element by element, and to keep all of its state in `new`."
            )


def _check_schedule(name: str, epochs: int) -> None:
    """Ask for the factor at the start, in the middle and at the end."""
    schedule = find_schedule(name)()
    for epoch in (0.0, epochs / 2, float(epochs)):
        factor = schedule.factor(epoch, epochs, [1.0] * int(epoch))
        if not isinstance(factor, float | int) or not np.isfinite(factor) or factor < 0:
            raise ConfigError(
                f"{name}: its factor at epoch {epoch:g} of {epochs} is {factor!r}; expected a "
                f"finite number of at least 0."
            )


def check_sources(sources: Mapping[str, str], checkpoint: Checkpoint) -> None:
    """Raise ConfigError if a part of a run that is resumed has another source than before."""
    before = checkpoint.about.get("own_parts", {})
    for name in {checkpoint.about["config"].get(kind) for kind in _MATHEMATICS} & before.keys():
        if sources.get(name, "") != before[name]:
            raise ConfigError(
                f"The source of {name} has changed since the run was started: the result would be "
                f"that of neither. Restore it, or start a new run with --init-from."
            )
