"""A shard's gradient by kernels, for tests that compare it with `Network.backprop`."""

from itertools import pairwise

import numpy as np

from distbp.compiled import blas, product_choice
from distbp.compiled.arrays import allocate_work
from distbp.compiled.backprop import make_passes

from .calls import python_function

# The output layers and tasks of each cost.
PAIRS = {
    ("quadratic", "sigmoid"): "multilabel",
    ("quadratic", "linear"): "regression",
    ("cross-entropy", "sigmoid"): "classification",
    ("log-likelihood", "softmax"): "classification",
    ("huber", "linear"): "regression",
    ("mae", "linear"): "regression",
}


def targets(task, rows, n, rng):
    """Return y (rows, n), and the labels of classes."""
    if task == "regression":
        return 2 * rng.standard_normal((rows, n)), np.zeros(rows, np.int64)
    if task == "multilabel":
        return rng.integers(0, 2, (rows, n)).astype(float), np.zeros(rows, np.int64)
    labels = rng.integers(0, n, rows)
    return np.eye(n)[labels], labels


def gradient(network, x, y, labels, task, weights=None, units=None, keep=None, runs=None):
    """Return the gradient (P,), cost and number of correct answers of a shard."""
    real, sizes = network.dtype.type, np.array(network.sizes)
    passes = make_passes(
        real, network.activation, network.output, network.cost_name, task, units is not None,
        weights is not None, keep is not None, product_choice.lane_bytes(),
    )  # fmt: skip
    forward, output_layer, backward, *_ = map(python_function, passes)
    m = len(x)
    work = allocate_work(network.sizes, m, network.dtype, keep is not None)
    work.x[:], work.y[:], work.labels[:] = x.ravel(), y.ravel(), labels
    if weights is not None:
        work.weights[:] = weights
    if keep is not None:
        work.keep[:] = keep
    if runs is None:
        runs = product_choice.run_lengths(network.sizes, m, network.dtype)
    gemm, found = blas.find_gemm(network.dtype), np.full(network.theta.size, np.nan, real)
    forward(gemm, sizes, np.asarray(runs), network.theta, work, m)
    units = np.ones(sizes[-1]) if units is None else units
    cost, correct = output_layer(sizes, units, work, m)
    for l in range(len(sizes) - 1, 0, -1):
        backward(gemm, l, sizes, network.theta, found, found, 0, work, m)
    return found, cost, correct


def layer_parts(vector, sizes):
    """Return the weights' and the biases' parts of a vector, layer by layer."""
    parts, start = [], 0
    for n_in, n in pairwise(sizes):
        parts += [vector[start : start + n * n_in], vector[start + n * n_in :][:n]]
        start += n * (n_in + 1)
    return parts
