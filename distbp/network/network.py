"""A fully connected network and its gradient by backpropagation.

Rows are examples. `weights[l]` has shape (n_l, n_{l-1}), so the book's w_jk is
w[j, k], and `biases[l]` has shape (n_l,); layer 0 is the input and has neither.
All of them are views of one flat vector, `theta`, layer by layer, weights then
biases. `backprop` fills a gradient of the same layout (rows are examples, so each
line is the transpose of the book's):

    BP1  δ^L = ∇_a C ⊙ σ′(z^L)                  (m, n_L)
    BP2  δ^{l-1} = (δ^l w^l) ⊙ σ′(z^{l-1})      (m, n_{l-1})
    BP3  ∂C/∂b^l_j = Σ δ^l_j                    (n_l,)
    BP4  ∂C/∂w^l_jk = Σ a^{l-1}_k δ^l_j         (n_l, n_{l-1})

The sums run over the m rows: the division by the size of the whole batch, of which
other processes may have the rest, is left to the update. Source: M. Nielsen, Neural
Networks and Deep Learning, chapter 2, equations BP1-BP4. Nothing here knows of other
processes, files or time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network import rng
from distbp.network.activations import HIDDEN, Activation, find_activation
from distbp.network.costs import Cost, RegressionCost, find_cost, outputs_of
from distbp.network.matmul import row_runs
from distbp.network.parameters import Layers, layer_views, theta_size

INITS = ("scaled", "large")
DTYPES = ("float32", "float64")


@dataclass
class Workspace:
    """The buffers of a pass over m rows, layer by layer.

    Attributes
    ----------
    a, z : lists of (m, n_l) arrays
        A hidden layer's z and a are the same array if σ′ is a function of a.
    fed : list of (m, n_l) arrays
        The input of the next layer: a itself, or a · keep with dropout.
    delta : list of (m, n_l) arrays
        δ of each layer.
    spare : list of (m, n_l) arrays
        Intermediate results.
    runs : list of lists of slices
        The rows whose z is computed by one product (see `matmul`).
    keep : list of (m, n_l) arrays, optional
        Dropout's factors of the hidden layers.
    """

    a: Layers
    z: Layers
    fed: Layers
    delta: Layers
    spare: Layers
    runs: list[list[slice]]
    keep: Layers | None = None


class Network:
    """A network of dense layers.

    Parameters
    ----------
    sizes : sequence of int
        Neurons of each layer, input first: (784, 100, 10).
    activation : one of `activations.HIDDEN`, such as 'relu'
        Of the hidden layers. Or a class of your own: see `own_parts`.
    cost : one of `costs.COSTS`, such as 'log-likelihood', or a class
    output : {'softmax', 'sigmoid', 'linear'}, optional
        Activation of the output layer; by default the first that goes with the cost.
    init : {'scaled', 'large'}
        'scaled': weights N(0, gain/n_in) with the activation's gain, which is 2 into relu
        (He et al.), and biases 0. 'large': all N(0, 1), as in the book's chapter 1.
    seed : int
    dtype : {'float32', 'float64'}
    theta : (P,) array, optional
        Parameters to use, without a copy, instead of drawing initial ones.

    Attributes
    ----------
    theta : (P,) array
    weights, biases : lists of views of `theta`
    cost : Cost

    Raises
    ------
    ConfigError
        Invalid sizes or names, or an output that does not go with the cost.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | type[Activation] = "relu",
        cost: str | type[Cost] = "log-likelihood",
        output: str | None = None,
        init: str = "scaled",
        seed: int = 0,
        dtype: str = "float32",
        theta: np.ndarray | None = None,
    ) -> None:
        self.activation, self.cost_name = map(own_parts.name_of, (activation, cost))
        check_network_arguments(sizes, self.activation, self.cost_name, output, init, dtype, seed)
        self.sizes = tuple(int(n) for n in sizes)
        self.dtype = np.dtype(dtype)
        self.output = output or outputs_of(self.cost_name)[0]
        self.sigma = find_activation(self.activation)()
        self.cost = find_cost(self.cost_name)(find_activation(self.output)())
        self.init, self.seed = init, seed
        self.bind(np.empty(theta_size(self.sizes), self.dtype) if theta is None else theta)
        if theta is None:
            self.reset()

    def bind(self, theta: np.ndarray) -> None:
        """Use `theta` (P,) from now on, without a copy."""
        self.theta = theta
        self.biases, self.weights = layer_views(theta, self.sizes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickle, without the views of θ, which are made anew."""
        return {name: one for name, one in vars(self).items() if name not in ("biases", "weights")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.bind(self.theta)

    def use_target_units(self, units: np.ndarray) -> None:
        """Measure the cost in the user's units, of which `units` (n_L,) make 1 of an output."""
        if not isinstance(self.cost, RegressionCost):
            raise ConfigError(
                f"cost {self.cost_name!r}: only the costs of a regression have units."
            )
        self.cost.use_units(units, self.dtype)

    def reset(self) -> None:
        """Draw the initial weights and biases again from the seed."""
        last = len(self.weights) - 1
        for l, (b, w) in enumerate(zip(self.biases, self.weights, strict=True)):
            draws = rng.normal(self.seed, l, w.size + b.size)
            w[...] = draws[: w.size].reshape(w.shape)
            b[...] = draws[w.size :]
            if self.init == "scaled":
                w *= np.sqrt((self.sigma.gain if l < last else 1.0) / w.shape[1])
                b[...] = 0.0

    def workspace(self, m: int) -> Workspace:
        """Return the buffers for passes over m rows."""
        hidden = [np.empty((m, n), self.dtype) for n in self.sizes[1:-1]]
        shape = (m, self.sizes[-1])
        a = [*hidden, np.empty(shape, self.dtype)]
        z = [np.empty_like(layer) for layer in hidden] if self.sigma.needs_z else hidden
        return Workspace(
            a=a,
            z=[*z, np.empty(shape, self.dtype)],
            fed=a,
            delta=[np.empty_like(layer) for layer in a],
            spare=[np.empty_like(layer) for layer in a],
            runs=[row_runs(m, n_in, n_out, self.dtype) for n_in, n_out in pairwise(self.sizes)],
        )

    def feedforward(self, x: np.ndarray, work: Workspace | None = None) -> np.ndarray:
        """Return the output layer's activations a^L.

        Parameters
        ----------
        x : (m, n_0) array
        work : Workspace for m rows, optional
            Receives all layers; the result is then its `a[-1]`.

        Returns
        -------
        (m, n_L) array
        """
        x = self._rows(x, self.sizes[0], "x")
        return self._feedforward(x, work or self.workspace(len(x)))

    def _feedforward(self, a: np.ndarray, work: Workspace) -> np.ndarray:
        last = len(self.weights) - 1
        for l in range(last):
            z = self._weighted_input(l, a, work)  # (m, n_l)
            a = self.sigma.fill(z, work.a[l], work.spare[l])
            if work.keep:
                a = np.multiply(a, work.keep[l], out=work.fed[l])
        z = self._weighted_input(last, a, work)  # (m, n_L)
        return self.cost.output.fill(z, work.a[last], work.spare[last])

    def _weighted_input(self, l: int, a: np.ndarray, work: Workspace) -> np.ndarray:
        """Return z = a wᵀ + b of a layer, (m, n_l)."""
        z = work.z[l]
        for rows in work.runs[l]:
            np.matmul(a[rows], self.weights[l].T, out=z[rows])
        np.copyto(work.spare[l], self.biases[l])  # broadcasting b makes NumPy allocate
        return np.add(z, work.spare[l], out=z)

    def backprop(
        self,
        x: np.ndarray,
        y: np.ndarray,
        out: tuple[Layers, Layers] | None = None,
        work: Workspace | None = None,
        weights: np.ndarray | None = None,
    ) -> tuple[Layers, Layers]:
        """Return the gradient of the cost, summed over the rows of x.

        Parameters
        ----------
        x : (m, n_0) array
        y : (m, n_L) array
        out : (nabla_b, nabla_w), optional
            Lists by layer of arrays to fill, such as `layer_views` returns.
        work : Workspace for m rows, optional
        weights : (m, 1) or (m, n_L) array, optional
            Of the rows: δ^L is multiplied by them.

        Returns
        -------
        nabla_b, nabla_w : lists of arrays, shaped like `biases` and `weights`
        """
        nabla = out or layer_views(np.empty_like(self.theta), self.sizes)
        x = self._rows(x, self.sizes[0], "x")
        work = work or self.workspace(len(x))
        self.start_backprop(x, y, work, weights)
        for l in reversed(range(len(self.weights))):
            self.backprop_layer(l, x, nabla, work)
        return nabla

    def start_backprop(
        self, x: np.ndarray, y: np.ndarray, work: Workspace, weights: np.ndarray | None = None
    ) -> None:
        """Compute all activations and δ^L, for `backprop_layer` to continue; see `backprop`."""
        x, y = self._rows(x, self.sizes[0], "x"), self._rows(y, self.sizes[-1], "y")
        if len(x) != len(y):
            raise ConfigError(f"y has {len(y)} rows; expected {len(x)}, as many as x.")
        a_out = self._feedforward(x, work)
        delta = self.cost.delta(a_out, y, work.delta[-1], work.spare[-1])  # BP1
        if weights is not None:
            np.multiply(delta, weights, out=delta)

    def backprop_layer(
        self, l: int, x: np.ndarray, nabla: tuple[Layers, Layers], work: Workspace
    ) -> None:
        """Fill the gradient of layer `l` (from 0), after that of the layer above it."""
        nabla_b, nabla_w = nabla
        if l + 1 < len(self.weights):
            delta = np.matmul(work.delta[l + 1], self.weights[l + 1], out=work.delta[l])  # BP2 …
            prime = self.sigma.prime(work.a[l], work.spare[l], work.z[l])
            np.multiply(delta, prime, out=delta)  # … ⊙ σ′
            if work.keep:
                np.multiply(delta, work.keep[l], out=delta)
        delta = work.delta[l]
        np.add.reduce(delta, axis=0, out=nabla_b[l])  # BP3
        np.matmul(delta.T, work.fed[l - 1] if l else x, out=nabla_w[l])  # BP4

    def _rows(self, array: np.ndarray, width: int, name: str) -> np.ndarray:
        """Return `array` in the network's dtype, or raise ConfigError unless it is (m, width)."""
        array = np.asarray(array, self.dtype)
        if array.ndim != 2 or array.shape[1] != width:
            raise ConfigError(f"{name} has shape {array.shape}; expected (rows, {width}).")
        return array


def check_network_arguments(
    sizes: Sequence[int],
    activation: str,
    cost: str,
    output: str | None,
    init: str,
    dtype: str,
    seed: int,
) -> None:
    """Raise ConfigError unless these are arguments of a network."""
    if len(sizes) < 2 or any(n != int(n) or n < 1 for n in sizes):
        raise ConfigError(
            f"sizes {tuple(sizes)!r}: expected two or more layers of 1 or more units."
        )
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed!r}: expected an integer from 0 to 2^63 − 1.")
    for name, value, known in (("init", init, INITS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise ConfigError(f"{name} {value!r} is unknown; use one of {', '.join(known)}.")
    if activation not in HIDDEN and not own_parts.is_own(activation):
        raise ConfigError(f"activation {activation!r} is unknown; use one of {', '.join(HIDDEN)}.")
    find_activation(activation)
    find_cost(cost)
    if output is not None and output not in outputs_of(cost):
        raise ConfigError(
            f"cost {cost!r} does not go with a {output} output; it goes with "
            f"{' or '.join(outputs_of(cost))}."
        )
