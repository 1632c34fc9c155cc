"""Models of Keras: `.keras` and `.h5` files, or the weights alone, without running anything.

    .keras         zip: config.json, model.weights.h5 (layers/dense/vars/0, 1, …)
    .h5            HDF5: attribute model_config, model_weights/NAME/…/kernel and bias
    .weights.h5    HDF5: layers/dense/vars/0, 1; there is no configuration, so that activations
                   and output are options, as for a state_dict

Datasets are read through the allow-list of `storage.hdf5_checks`, and the configuration, which
is text of variable length, without libhdf5. `keras_config` knows what it means.
"""

import io
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from distbp.interop import untrusted
from distbp.interop.conversion import convert
from distbp.interop.dense_model import (
    DenseLayer,
    DenseModel,
    make_layer,
    order_layers,
    with_activations,
)
from distbp.interop.interop_options import ImportModelOptions
from distbp.interop.keras_config import KerasLayer, parse_config
from distbp.storage import checksum, hdf5_checks, hdf5_chunks, hdf5_strings
from distbp.storage.checkpoint import Checkpoint

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MAX_CHILDREN = 10_000
_MAX_DEPTH = 6
_SMALL_BYTES, _MAX_RATIO = 1 << 26, 20  # of all arrays to the file, once it is large
_EPSILON = 1e-7  # of Keras: the least deviation of a Normalization
_NEW, _OLD = "layers", "model_weights"  # the group of the layers


def read_keras(path: Path, options: ImportModelOptions) -> Checkpoint:
    """Return the model in a .keras file.

    Raises
    ------
    DataError
        It is damaged, or has a layer that distbp does not know.
    ConfigError
        The options do not fit the model, or one is needed.
    """
    with untrusted.wrap_model_errors(path, "a .keras file"):
        with untrusted.open_archive(path) as archive:
            config = untrusted.read_member(archive, _CONFIG, untrusted.MAX_JSON_BYTES)
            weights = untrusted.read_member(archive, _WEIGHTS)
        layers = parse_config(untrusted.parse_json(config, _CONFIG))
        with hdf5_checks.open_untrusted(io.BytesIO(weights)) as file:
            model = _model_of(layers, _NewWeights(file))
        return convert(model, path, options)


def read_keras_hdf5(path: Path, options: ImportModelOptions) -> Checkpoint:
    """Return the model in an HDF5 file of Keras: a whole one, or its weights.

    Raises
    ------
    DataError, ConfigError
        As for `read_keras`.
    """
    with untrusted.wrap_model_errors(path, "an HDF5 file of Keras"), _open_hdf5(path) as opened:
        file, descriptor = opened
        config = hdf5_strings.read_long_attribute(file, descriptor, "model_config")
        if config is not None:
            layers = parse_config(untrusted.parse_json(config, "model_config"))
            return convert(_model_of(layers, _OldWeights(file, _OLD)), path, options)
        if hdf5_checks.has_object(file, _NEW):
            found = _layers_by_name(file, _NEW, _NewWeights(file))
        else:  # weights of Keras 2, which may be in the group of a whole model
            group = _OLD if hdf5_checks.has_object(file, _OLD) else "/"
            found = _layers_by_name(file, group, _OldWeights(file, group))
        ordered = order_layers(found, options.layers)
        return convert(DenseModel(ordered, "file of Keras weights"), path, options)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[tuple[h5py.File, int]]:
    with hdf5_checks.open_regular_file(path) as raw:
        if raw.read(len(checksum.MAGIC)) == checksum.MAGIC:
            raise ValueError("it is a file of distbp itself, which needs no import")
        with hdf5_checks.open_untrusted(raw) as file:
            yield file, raw.fileno()


class _Weights(ABC):
    """The variables of the layers in a file.

    Parameters
    ----------
    file : h5py.File
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        # A file may have links to one array under many names, or an array that is compressed.
        self._rest = max(_SMALL_BYTES, _MAX_RATIO * file.id.get_filesize())

    @abstractmethod
    def of(self, layer: KerasLayer) -> list[np.ndarray]:
        """Return the variables of the next layer, in their order."""

    @abstractmethod
    def named(self, name: str) -> list[np.ndarray]:
        """Return the variables of a group: kernel and bias, or mean, variance and count."""

    def read(self, path: str) -> np.ndarray:
        """Return an array of numbers."""
        found = hdf5_chunks.open_array(self._file, path)
        self._rest -= math.prod(found.shape) * found.dtype.itemsize
        if self._rest < 0:
            raise ValueError("its arrays are far larger than the file")
        return np.asarray(found[()] if isinstance(found, h5py.Dataset) else found[:])


class _NewWeights(_Weights):
    """The variables of layers as Keras 3 stores them: `layers/dense_1/vars/0`.

    The groups are named by the classes, each with a counter, whatever the names of the layers.
    """

    def __init__(self, file: h5py.File) -> None:
        super().__init__(file)
        self._counts: Counter[str] = Counter()

    def of(self, layer: KerasLayer) -> list[np.ndarray]:
        base = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", layer.kind).lower()
        number = self._counts[base]
        self._counts[base] += 1
        return self.named(f"{base}_{number}" if number else base)

    def named(self, name: str) -> list[np.ndarray]:
        arrays: list[np.ndarray] = []
        while hdf5_checks.has_object(self._file, f"{_NEW}/{name}/vars/{len(arrays)}"):
            arrays.append(self.read(f"{_NEW}/{name}/vars/{len(arrays)}"))
            if len(arrays) > _MAX_DEPTH:
                raise ValueError(f"the layer {untrusted.shorten(name)} has too many variables")
        return arrays


class _OldWeights(_Weights):
    """The variables of layers by their names: `model_weights/dense_1/…/kernel:0`."""

    _ORDER = ("kernel", "bias", "mean", "variance", "count")

    def __init__(self, file: h5py.File, group: str) -> None:
        super().__init__(file)
        self._group = group

    def of(self, layer: KerasLayer) -> list[np.ndarray]:
        return self.named(layer.name)

    def named(self, name: str) -> list[np.ndarray]:
        found: dict[str, np.ndarray] = {}
        # The names of layers may have slashes, which are groups in groups.
        self._collect(f"{self._group}/{name}", found, 0)
        return [found[part] for part in self._ORDER if part in found]

    def _collect(self, path: str, found: dict[str, np.ndarray], depth: int) -> None:
        group = hdf5_checks.find_object(self._file, path)
        if not isinstance(group, h5py.Group) or depth > _MAX_DEPTH:
            raise ValueError(f"there is no group {untrusted.shorten(path)}")
        for name in list(hdf5_checks.list_children(group, _MAX_CHILDREN)):
            child = f"{path}/{name}"
            if isinstance(hdf5_checks.find_object(self._file, child), h5py.Group):
                self._collect(child, found, depth + 1)
                continue
            part = name.removesuffix(":0")
            if part not in self._ORDER or part in found:
                raise ValueError(
                    f"{untrusted.shorten(child)} is not a variable of a Dense or Normalization"
                )
            found[part] = self.read(child)


def _model_of(layers: list[KerasLayer], weights: _Weights) -> DenseModel:
    """Return the model of a chain of layers of Keras."""
    model = DenseModel([], "file of Keras")
    activations: list[str | None] = []
    for layer in layers:
        if layer.kind == "Normalization":
            if model.layers or model.shift is not None:
                raise ValueError(
                    f"the layer {untrusted.shorten(layer.name)} is a Normalization that is not "
                    "the first layer"
                )
            model.shift, model.scale = _normalization(layer, weights.of(layer))
        elif layer.kind == "Dense":
            model.layers.append(_dense(layer.name, weights.of(layer), layer.has_bias))
            activations.append(layer.activation)
        elif not model.layers or activations[-1] not in ("linear", layer.activation):
            raise ValueError(
                f"the activation {untrusted.shorten(layer.name)} does not follow a Dense without "
                "one"
            )
        else:
            activations[-1] = layer.activation
    model.layers = with_activations(model.layers, activations)
    return model


def _dense(name: str, arrays: list[np.ndarray], has_bias: bool) -> DenseLayer:
    if len(arrays) != 1 + has_bias:
        raise ValueError(
            f"the layer {untrusted.shorten(name)} has {len(arrays)} variables; a Dense has "
            f"{1 + has_bias}"
        )
    return make_layer(name, arrays[0].T, arrays[1] if has_bias else None)


def _normalization(layer: KerasLayer, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return shift and scale of a Normalization."""
    if len(arrays) < 2 or arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
        raise ValueError(
            f"the layer {untrusted.shorten(layer.name)} is a Normalization without mean and "
            "variance of each column"
        )
    mean, variance = (one.astype(np.float64) for one in arrays[:2])
    for one in (mean, variance):
        untrusted.check_numbers(layer.name, one)
    if (variance < 0).any():
        raise ValueError(f"the layer {untrusted.shorten(layer.name)} has a negative variance")
    return mean, 1.0 / np.maximum(np.sqrt(variance), _EPSILON)


def _layers_by_name(file: h5py.File, group: str, weights: _Weights) -> list[DenseLayer]:
    """Return the dense layers of a file of weights, in no order."""
    found = hdf5_checks.find_object(file, group)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{group} is not a group of layers")
    layers = []
    for name in list(hdf5_checks.list_children(found, _MAX_CHILDREN)):
        if name == "top_level_model_weights":
            continue
        arrays = weights.named(name)
        if not arrays:  # dropout and the like
            continue
        if arrays[0].ndim != 2 or len(arrays) > 2:
            raise ValueError(
                f"the layer {untrusted.shorten(name)} is no Dense: its first array has the shape "
                f"{arrays[0].shape}. Save the whole model as .keras, which says what it is"
            )
        layers.append(_dense(name, arrays, len(arrays) == 2))
    return layers
