"""Backpropagation of a shard: `Network.backprop` as kernels, on the arrays of a `Work`.

`forward` computes the weighted inputs and activations of all layers, `output_layer` the cost and
δ^L (BP1), and `backward`, called for each layer l from L to 1, the layer's gradient (BP3, BP4)
and δ^{l−1} (BP2). As in the book, layer l is fed by layer l − 1, and layer 0 is x. m rows is what
all of them need to know of a shard.
"""

from functools import cache
from typing import NamedTuple

from distbp.compiled.activations import make_activation
from distbp.compiled.costs import make_output_layer
from distbp.compiled.intrinsics import add, kernel, part
from distbp.compiled.products import make_products
from distbp.compiled.vector_math import Real, Scalar
from distbp.network.activations import find_activation


class Passes(NamedTuple):
    """The kernels of a shard; `gemm` is the address that `find_gemm` returns.

    Attributes
    ----------
    forward : kernel of (gemm, sizes, runs, theta, work, m)
        sizes (L + 1,), runs (L,) int64: the latter from `run_lengths`.
    output_layer : kernel of (sizes, units, work, m)
        Returns (cost, correct); units (n_L,) float64.
    backward : kernel of (gemm, l, sizes, theta, gradient, total, adds, work, m)
        gradient and total have the layout of theta. They are the same, unless `adds`: then the
        gradient is added to the total, and `gradient` holds numbers in between.
    layer_forward : kernel of (gemm, l, sizes, runs, theta, work, m)
        The part of `forward` for layer l, those below it being computed.
    layer_gradient : kernel of (gemm, l, sizes, gradient, total, adds, work, m)
        BP3 and BP4, the first half of `backward`.
    propagate : kernel of (gemm, l, sizes, theta, work, m)
        BP2 for the layer below, which there is: the second half.
    """

    forward: Scalar
    output_layer: Scalar
    backward: Scalar
    layer_forward: Scalar
    layer_gradient: Scalar
    propagate: Scalar


@cache
def make_passes(
    real: Real,
    activation: str,
    output: str,
    cost: str,
    task: str,
    has_units: bool = False,
    has_weights: bool = False,
    has_dropout: bool = False,
    lane_bytes: int = 32,
) -> Passes:
    """Return the kernels of a network; see `costs.make_output_layer` for the options.

    `lane_bytes` is `product_choice.lane_bytes`.
    """
    forward, layer_forward = _make_forward(real, activation, has_dropout, lane_bytes)
    backward, *layer_passes = _make_backward(real, activation, has_dropout, lane_bytes)
    output_layer = _make_output_layer(real, output, cost, task, has_units, has_weights)
    return Passes(forward, output_layer, backward, layer_forward, *layer_passes)


@kernel
def _units_before(sizes, l):
    """Return how many units the layers 1 … l − 1 have."""
    count = 0
    for k in range(1, l):
        count += sizes[k]
    return count


@kernel
def _theta_before(sizes, l):
    """Return how many parameters the layers 1 … l − 1 have."""
    count = 0
    for k in range(1, l):
        count += sizes[k] * (sizes[k - 1] + 1)
    return count


@cache
def _make_forward(
    real: Real, activation: str, has_dropout: bool, lane_bytes: int
) -> tuple[Scalar, Scalar]:
    sigma = make_activation(activation, real).sigma
    weighted_input = make_products(real, lane_bytes).weighted_input
    needs_z = find_activation(activation).needs_z

    @kernel
    def layer_forward(gemm, l, sizes, runs, theta, work, m):
        n_in, n = sizes[l - 1], sizes[l]
        start, at = _units_before(sizes, l) * m, _theta_before(sizes, l)
        before = start - m * n_in  # of layer l − 1
        fed = part(work.fed if has_dropout else work.a, before, m * n_in) if l > 1 else work.x
        w, b = part(theta, at, n * n_in), part(theta, at + n * n_in, n)
        z, a = part(work.z, start, m * n), part(work.a, start, m * n)
        if l == sizes.size - 1:
            weighted_input(gemm, fed, w, b, z, m, n_in, n, runs[l - 1])
            return
        if needs_z:
            weighted_input(gemm, fed, w, b, z, m, n_in, n, runs[l - 1])
            for i in range(m * n):
                a[i] = sigma(z[i])
        else:
            weighted_input(gemm, fed, w, b, a, m, n_in, n, runs[l - 1])
            for i in range(m * n):
                a[i] = sigma(a[i])
        if has_dropout:
            kept, keep = part(work.fed, start, m * n), part(work.keep, start, m * n)
            for i in range(m * n):
                kept[i] = a[i] * keep[i]

    @kernel
    def forward(gemm, sizes, runs, theta, work, m):
        for l in range(1, sizes.size):
            layer_forward(gemm, l, sizes, runs, theta, work, m)

    return forward, layer_forward


@cache
def _make_output_layer(
    real: Real, output: str, cost: str, task: str, has_units: bool, has_weights: bool
) -> Scalar:
    finish = make_output_layer(output, cost, real, task, has_units, has_weights)

    @kernel
    def output_layer(sizes, units, work, m):
        n, size = sizes[sizes.size - 1], _units_before(sizes, sizes.size - 1) * m
        z, a = part(work.z, size, m * n), part(work.a, size, m * n)
        delta = part(work.delta, size, m * n)
        return finish(units, work.y, work.labels, work.weights, z, a, delta, m, n)

    return output_layer


@cache
def _make_backward(
    real: Real, activation: str, has_dropout: bool, lane_bytes: int
) -> tuple[Scalar, Scalar, Scalar]:
    prime = make_activation(activation, real).prime
    _, weight_gradient, propagate_product = make_products(real, lane_bytes)
    zero, needs_z = real(0), find_activation(activation).needs_z

    @kernel
    def layer_gradient(gemm, l, sizes, gradient, total, adds, work, m):
        n_in, n = sizes[l - 1], sizes[l]
        at, start = _theta_before(sizes, l), _units_before(sizes, l) * m
        before = start - m * n_in  # of layer l − 1
        delta = part(work.delta, start, m * n)
        a_in = part(work.fed if has_dropout else work.a, before, m * n_in) if l > 1 else work.x
        nabla_w, nabla_b = part(total, at, n * n_in), part(gradient, at + n * n_in, n)
        for j in range(n):
            nabla_b[j] = zero
        for i in range(m):
            row = part(delta, i * n, n)
            for j in range(n):
                nabla_b[j] += row[j]  # BP3
        if adds:
            add(part(total, at + n * n_in, n), nabla_b, part(total, at + n * n_in, n), n)
        weight_gradient(gemm, delta, a_in, nabla_w, m, n_in, n, adds)  # BP4

    @kernel
    def propagate(gemm, l, sizes, theta, work, m):
        n_in, n = sizes[l - 1], sizes[l]
        at, start = _theta_before(sizes, l), _units_before(sizes, l) * m
        before = start - m * n_in
        delta, below = part(work.delta, start, m * n), part(work.delta, before, m * n_in)
        a = part(work.a, before, m * n_in)
        propagate_product(gemm, delta, part(theta, at, n * n_in), below, m, n_in, n)  # BP2 …
        z = part(work.z, before, m * n_in) if needs_z else a
        for i in range(m * n_in):
            below[i] *= prime(a[i], z[i])  # … ⊙ σ′
        if has_dropout:
            keep = part(work.keep, before, m * n_in)
            for i in range(m * n_in):
                below[i] *= keep[i]

    @kernel
    def backward(gemm, l, sizes, theta, gradient, total, adds, work, m):
        layer_gradient(gemm, l, sizes, gradient, total, adds, work, m)
        if l > 1:
            propagate(gemm, l, sizes, theta, work, m)

    return backward, layer_gradient, propagate
