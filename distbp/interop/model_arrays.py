"""A model as named arrays and a description: what an export holds that distbp reads again.

The description is JSON: `about` of the checkpoint, what the file is, and the digest of the
parameters in the file, which is compared when it is read (of a model with `--ema` they are the
average, and the digest is not that of the run). The arrays have the names of a checkpoint:
`layers/1/w`, `layers/1/b`, …, `scaling/shift`, `scaling/scale` and, of a regression on scaled
targets, `target/shift` and `target/scale`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import ConfigError
from distbp.interop.conversion import make_checkpoint
from distbp.interop.untrusted import check_numbers, shorten
from distbp.network.network import Network, check_network_arguments
from distbp.network.parameters import digest, theta_size
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.preprocessing import read_preprocessing
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.version import __version__

MODEL_FORMAT = "distbp-model"
MODEL_VERSION = 1
_NETWORK_KEYS = {"sizes", "activation", "cost", "output", "dtype"}
_KEPT = (
    "network", "task", "classes", "shape", "label_type", "preprocessing", "data", "progress",
    "versions",
)  # fmt: skip
_PATHS = ("data", "out", "init_from")  # options that say where files are, which concerns nobody
_RESTORED = ("shape", "label_type", "preprocessing")


def describe_model(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the description of a model, to be stored as JSON."""
    about = {name: checkpoint.about[name] for name in _KEPT if name in checkpoint.about}
    config = {k: v for k, v in checkpoint.about["config"].items() if k not in _PATHS}
    return {
        "format": MODEL_FORMAT,
        "version": MODEL_VERSION,
        "distbp": __version__,
        "digest": digest(checkpoint.network.theta),
        **about,
        "config": config,
    }


def layer_arrays(network: Network) -> dict[str, np.ndarray]:
    """Return the weights and biases by their names in a checkpoint."""
    arrays: dict[str, np.ndarray] = {}
    for l, (w, b) in enumerate(zip(network.weights, network.biases, strict=True), 1):
        arrays |= {f"layers/{l}/w": w, f"layers/{l}/b": b}
    return arrays


def scaling_arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the scaling of inputs, and of targets, by its names in a checkpoint."""
    arrays = {"scaling/shift": checkpoint.scaling.shift, "scaling/scale": checkpoint.scaling.scale}
    if checkpoint.target is not None:
        arrays["target/shift"] = checkpoint.target.shift
        arrays["target/scale"] = checkpoint.target.scale
    return arrays


def checkpoint_of_arrays(
    found: Any, arrays: Mapping[str, np.ndarray], path: Path, source: str
) -> Checkpoint:
    """Return the model that `describe_model`, `layer_arrays` and `scaling_arrays` have described.

    Raises
    ------
    ValueError
        The description is not valid, or an array is missing, of another shape, or changed.
    """
    _check_description(found)
    arguments = found["network"]
    sizes = [int(n) for n in arguments["sizes"]]
    stored = sum(one.size for name, one in arrays.items() if name.startswith("layers/"))
    if stored != theta_size(sizes):
        raise ValueError(f"it holds {stored:,} parameters, which sizes {sizes[:99]} do not have")
    network = Network(**arguments, theta=np.empty(theta_size(sizes), arguments["dtype"]))
    for name, out in layer_arrays(network).items():
        _copy_exactly(arrays, name, out)
        check_numbers(name, out)
    if digest(network.theta) != found["digest"]:
        raise ValueError("its digest is not that of its weights: it is damaged, or was changed")
    scaling = Scaling(*_pair(arrays, "scaling", (1, sizes[0])))
    target = None
    if "target/shift" in arrays:
        target = TargetScaling(*_pair(arrays, "target", (sizes[-1],)))
        with np.errstate(all="ignore"):
            is_valid = (target.scale > 0) & np.isfinite(np.square(1.0 / target.scale))
        if not is_valid.all() or found["task"] != "regression" or network.output != "linear":
            raise ValueError("its target/scale is not valid")
    about = {name: found[name] for name in _RESTORED if name in found}
    read_preprocessing(about, sizes[0])  # raises an error unless it is valid
    imported = {"file": path.name, "format": source, "config": found.get("config")}
    return make_checkpoint(
        network, found["task"], found["classes"], scaling, target, imported, **about
    )


def _check_description(found: Any) -> None:
    """Raise ValueError unless the description has its entries, of the right types."""
    if not isinstance(found, dict) or found.get("format") != MODEL_FORMAT:
        raise ValueError(f"it has no description of a {MODEL_FORMAT}")
    if type(found.get("version")) is not int or found["version"] > MODEL_VERSION:
        raise ValueError("it was written by a newer distbp: use that")
    for name, kind in (("network", dict), ("task", str), ("classes", list), ("digest", str)):
        if not isinstance(found.get(name), kind):
            raise ValueError(f"its description has no {name!r} that is a {kind.__name__}")
    arguments = found["network"]
    if set(arguments) != _NETWORK_KEYS or not isinstance(arguments["sizes"], list):
        raise ValueError("its description has no valid 'network'")
    if any(type(n) is not int or not 0 < n < 1 << 40 for n in arguments["sizes"]):
        raise ValueError("its description has no valid sizes")
    try:
        check_network_arguments(**arguments, init="scaled", seed=0)
    except (ConfigError, TypeError) as failure:
        raise ValueError(f"its network is invalid: {failure}") from failure
    n_out, classes = arguments["sizes"][-1], found["classes"]
    if any(not isinstance(one, str) for one in classes):
        raise ValueError("its description has classes that are no text")
    if found["task"] not in ("classification", "multilabel", "regression") or len(classes) != (
        0 if found["task"] == "regression" else n_out
    ):
        raise ValueError(f"it is a {shorten(found['task'])} with {len(classes)} classes")
    if not isinstance(found.get("label_type", ""), str):
        raise ValueError("its description has no valid 'label_type'")
    shape = found.get("shape", [])
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError("its description has no valid shape")


def _copy_exactly(arrays: Mapping[str, np.ndarray], name: str, out: np.ndarray) -> None:
    """Copy an array that must have the shape and type of `out`."""
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    found = arrays[name]
    if found.shape != out.shape or found.dtype != out.dtype:
        raise ValueError(f"{name} is {found.dtype} {found.shape}; expected {out.dtype} {out.shape}")
    np.copyto(out, found)


def _pair(
    arrays: Mapping[str, np.ndarray], name: str, lengths: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return shift and scale, float64, of one of the lengths."""
    pair = []
    for part in ("shift", "scale"):
        found = arrays.get(f"{name}/{part}")
        if found is None or found.dtype != np.float64 or found.shape not in [(n,) for n in lengths]:
            raise ValueError(f"{name}/{part} is missing, or not float64 of a valid length")
        check_numbers(f"{name}/{part}", found)
        pair.append(found)
    return pair[0], pair[1]
