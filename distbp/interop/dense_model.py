"""A chain of dense layers as another program has stored it, before it becomes a network.

Readers of all formats make a `DenseModel`. `order_layers` finds the order of layers that are
only known by their names. What distbp makes of a model is known to `conversion`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from distbp.errors import ConfigError
from distbp.interop.untrusted import check_numbers, listed, natural_key, shorten

_MAX_UNORDERED = 12  # layers whose order is searched for by their sizes
MAX_LAYERS = 1_000
# x Φ(x); distbp's gelu is its approximation by tanh.
EXACT_GELU = "exact gelu"


@dataclass(frozen=True)
class DenseLayer:
    """One layer: a = σ(w x + b).

    Attributes
    ----------
    name : str
        As in the file, for messages.
    w : (n_out, n_in) array
    b : (n_out,) array
    activation : str, optional
        In distbp's words where it has one; None if the file does not say.
    """

    name: str
    w: np.ndarray
    b: np.ndarray
    activation: str | None = None

    @property
    def n_in(self) -> int:
        return int(self.w.shape[1])

    @property
    def n_out(self) -> int:
        return int(self.w.shape[0])


@dataclass
class DenseModel:
    """Dense layers in order, and what the file says of inputs and outputs.

    Attributes
    ----------
    layers : list of DenseLayer
    source : str
        The format, such as "ONNX".
    shift, scale : (n_0,) float64 arrays, optional
        The first layer's input is (x - shift) * scale.
    classes : list of str, optional
    label_type : str, optional
        Type of the classes where they are numbers, as `distbp.Model` has it: "int", say.
    is_pair : bool
        Whether the only output is the probability of the second of two classes.
    """

    layers: list[DenseLayer]
    source: str
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    classes: list[str] | None = None
    is_pair: bool = False
    label_type: str | None = None


def make_layer(
    name: str, w: np.ndarray, b: np.ndarray | None, activation: str | None = None
) -> DenseLayer:
    """Return a layer after checking its arrays; without `b` its biases are 0.

    Raises
    ------
    ValueError
        The shapes contradict each other, or a number is not finite.
    """
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"the weights of layer {shorten(name)} have the shape {w.shape}")
    if b is None:
        b = np.zeros(len(w), w.dtype)
    if b.shape != (len(w),):
        raise ValueError(
            f"layer {shorten(name)} has {len(w):,} units, but biases of the shape {b.shape}"
        )
    if w.dtype.kind != "f" or b.dtype.kind != "f":
        raise ValueError(f"layer {shorten(name)} does not hold floating-point numbers")
    check_numbers(name, w)
    check_numbers(name, b)
    return DenseLayer(name, w, b, activation)


def check_chain(layers: Sequence[DenseLayer]) -> None:
    """Raise ValueError unless there are layers, and each takes what the one before gives."""
    if not layers:
        raise ValueError("it has no dense layer")
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"it has {len(layers):,} layers; expected at most {MAX_LAYERS:,}")
    for before, after in pairwise(layers):
        if after.n_in != before.n_out:
            raise ValueError(
                f"layer {shorten(after.name)} takes {after.n_in:,} numbers, but "
                f"{shorten(before.name)} before it has {before.n_out:,} units"
            )


def order_layers(
    layers: Sequence[DenseLayer], wanted: Sequence[str] | None = None
) -> list[DenseLayer]:
    """Return layers that are known by their names in their order.

    It is that of `wanted`; else that of the numbers in names that differ in nothing else; else
    the only one in which the sizes fit.

    Raises
    ------
    ConfigError
        `wanted` names others, or the order is not clear.
    """
    by_name = {layer.name: layer for layer in layers}
    if wanted:
        if sorted(wanted) != sorted(by_name):
            raise ConfigError(
                f"--layers {','.join(wanted)}: the file has the layers {listed(list(by_name))}. "
                "Name all of them, in order."
            )
        return [by_name[name] for name in wanted]
    ordered = [by_name[name] for name in sorted(by_name, key=natural_key)]
    if len({_without_numbers(name) for name in by_name}) <= 1:
        return ordered
    chains = _chains(ordered) if len(ordered) <= _MAX_UNORDERED else []
    if len(chains) != 1:
        raise ConfigError(
            f"The names {listed([layer.name for layer in ordered])} do not say in which order "
            "the layers are. Name them in order: --layers LIST."
        )
    return chains[0]


def _without_numbers(name: str) -> str:
    """Return a name without its numbers; `dense` and `dense_1` are then alike."""
    return "".join(one for one in name if not one.isdigit()).rstrip("_")


def _chains(layers: Sequence[DenseLayer]) -> list[list[DenseLayer]]:
    """Return orders of all layers in which the sizes fit: none, one, or two of several."""
    found: list[list[DenseLayer]] = []
    steps = [0]

    def extend(chain: list[DenseLayer], rest: list[DenseLayer]) -> None:
        steps[0] += 1
        if len(found) > 1 or steps[0] > 100_000:
            return
        if not rest:
            found.append(chain)
        for i, one in enumerate(rest):
            if not chain or chain[-1].n_out == one.n_in:
                extend([*chain, one], rest[:i] + rest[i + 1 :])

    extend([], list(layers))
    return found


def with_activations(layers: Sequence[DenseLayer], names: Sequence[str | None]) -> list[DenseLayer]:
    """Return the layers with these activations."""
    return [replace(one, activation=name) for one, name in zip(layers, names, strict=True)]
