"""A `state_dict` of PyTorch in safetensors: weights by names such as `0.weight`, `net.2.bias`.

It has neither activations nor an order of the layers: see `order_layers` for the latter.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distbp.interop import untrusted
from distbp.interop.conversion import convert
from distbp.interop.dense_model import DenseModel, make_layer, order_layers
from distbp.interop.interop_options import ImportModelOptions
from distbp.interop.safetensors_file import checkpoint_of_tensors, read_tensors
from distbp.storage.checkpoint import Checkpoint

_WEIGHT, _BIAS = "weight", "bias"


def read_safetensors(path: Path, options: ImportModelOptions) -> Checkpoint:
    """Return the model in a .safetensors file: one of distbp, or a `state_dict`.

    Raises
    ------
    DataError
        It is damaged, or has other layers than linear ones.
    ConfigError
        The options do not fit the layers, or one is needed.
    """
    with untrusted.wrap_model_errors(path, "a .safetensors file"):
        tensors, found = read_tensors(path)
        if found is not None:
            return checkpoint_of_tensors(found, tensors, path)
        return convert(model_of_state_dict(tensors, options.layers), path, options)


def model_of_state_dict(
    tensors: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None
) -> DenseModel:
    """Return the layers of a `state_dict` in their order.

    Raises
    ------
    ValueError
        It has tensors that are not weight or bias of a linear layer.
    ConfigError
        The order is not clear, or `wanted` names other layers.
    """
    layers = []
    for name, w in tensors.items():
        prefix, _, part = name.rpartition(".")
        if part not in (_WEIGHT, _BIAS) or (
            part == _BIAS and _join(prefix, _WEIGHT) not in tensors
        ):
            raise ValueError(
                f"{untrusted.shorten(name)} is not part of a linear layer; distbp supports "
                "torch.nn.Linear, whose tensors end in weight and bias"
            )
        if part == _WEIGHT:
            if w.ndim != 2:
                raise ValueError(
                    f"{untrusted.shorten(name)} has the shape {w.shape}; distbp supports "
                    "torch.nn.Linear, whose weights have two dimensions"
                )
            layers.append(make_layer(prefix, w, tensors.get(_join(prefix, _BIAS))))
    return DenseModel(order_layers(layers, wanted), "state_dict")


def _join(prefix: str, part: str) -> str:
    return f"{prefix}.{part}" if prefix else part
