"""The layout of θ: one flat vector with a view of each layer."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Layers = list[np.ndarray]


def theta_size(sizes: Sequence[int]) -> int:
    """Return the number of weights and biases."""
    return sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))


def layer_views(vector: np.ndarray, sizes: Sequence[int]) -> tuple[Layers, Layers]:
    """Return (biases, weights) as views of a flat vector, layer by layer."""
    biases, weights, start = [], [], 0
    for n_in, n_out in pairwise(sizes):
        middle = start + n_out * n_in
        weights.append(vector[start:middle].reshape(n_out, n_in))
        biases.append(vector[middle : middle + n_out])
        start = middle + n_out
    return biases, weights


# Whatever is summed over θ is summed over blocks of this size first, then in order.
THETA_BLOCK = 4096


def weight_runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the runs [start, stop) of θ that are weights, in order."""
    runs, start = [], 0
    for n_in, n_out in pairwise(sizes):
        runs.append((start, start + n_out * n_in))
        start += n_out * (n_in + 1)
    return runs


def digest(theta: np.ndarray) -> str:
    """Return the SHA-256 of θ, little-endian, as 64 hexadecimal digits."""
    little = theta.astype(theta.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.data).hexdigest()
