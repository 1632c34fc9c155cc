"""The layout of θ: all weights and biases in one flat vector, layer by layer.

Gradients and optimizer state have the same layout. One vector is summed, updated, sent and
stored without packing or copying; `layer_views` shows it as the book's w and b.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Layers = list[np.ndarray]


# Sums over θ are made over blocks of this many numbers first, then over blocks in order: so
# their bits do not depend on how θ is divided between ranks, who own whole blocks.
THETA_BLOCK = 4096


def theta_size(sizes: Sequence[int]) -> int:
    """Return the number of weights and biases, P."""
    return sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))


def layer_views(vector: np.ndarray, sizes: Sequence[int]) -> tuple[Layers, Layers]:
    """Return (biases, weights), lists by layer of views of a (P,) vector.

    Shapes are (n_l,) and (n_l, n_{l-1}); a layer's weights come before its biases.
    """
    biases, weights, start = [], [], 0
    for n_in, n_out in pairwise(sizes):
        middle = start + n_out * n_in
        weights.append(vector[start:middle].reshape(n_out, n_in))
        biases.append(vector[middle : middle + n_out])
        start = middle + n_out
    return biases, weights


def layer_runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the interval [start, stop) of θ of each layer, weights and biases, in order."""
    stops = [theta_size(sizes[: l + 1]) for l in range(len(sizes))]
    return list(pairwise(stops))


def weight_runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the intervals [start, stop) of θ that are weights, in order."""
    runs, start = [], 0
    for n_in, n_out in pairwise(sizes):
        runs.append((start, start + n_out * n_in))
        start += n_out * (n_in + 1)
    return runs


def digest(theta: np.ndarray) -> str:
    """Return the SHA-256 of θ's bytes, little-endian, as 64 hexadecimal digits."""
    little = theta.astype(theta.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.data).hexdigest()
