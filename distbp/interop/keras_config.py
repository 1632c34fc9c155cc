"""The layers that the configuration of a Keras model describes, in their order.

The configuration is JSON and says which classes of layers there are and how they are connected.
Nothing of it is looked up or run: classes that distbp does not know are refused by their names.
"""

from dataclasses import dataclass
from typing import Any

from distbp.interop.dense_model import EXACT_GELU
from distbp.interop.untrusted import shorten

_KNOWN = ("Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Normalization")
# Layers that do nothing when a model predicts, or only say what the rows look like.
_IGNORED = ("InputLayer", "Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout",
            "ActivityRegularization")  # fmt: skip
# By the names of Keras, whose gelu is not distbp's approximation.
_ACTIVATIONS = {
    "gelu": EXACT_GELU,
    "linear": "linear", "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh",
    "softmax": "softmax", "elu": "elu", "silu": "silu", "swish": "silu", "softplus": "softplus",
}  # fmt: skip
_MAX_LAYERS = 10_000


@dataclass(frozen=True)
class KerasLayer:
    """A layer of the configuration.

    Attributes
    ----------
    kind : str
        Its class.
    name : str
    activation : str, optional
        In distbp's words, of a Dense or an activation.
    has_bias : bool
    """

    kind: str
    name: str
    activation: str | None = None
    has_bias: bool = True


def parse_config(found: Any) -> list[KerasLayer]:
    """Return the layers of a Sequential or Functional model in the order of the computation.

    Raises
    ------
    ValueError
        It is another kind of model, not a chain, or has a layer that distbp does not know.
    """
    kind, config = _class_and_config(found, "the model")
    if kind not in ("Sequential", "Functional", "Model"):
        raise ValueError(f"the model is a {shorten(kind)}; expected Sequential or Functional")
    entries = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_LAYERS:
        raise ValueError("its configuration has no valid list of layers")
    if kind != "Sequential":
        entries = _in_order(entries)
    return [one for one in map(_parse_layer, entries) if one.kind not in _IGNORED]


def _class_and_config(found: Any, what: str) -> tuple[str, Any]:
    if not isinstance(found, dict) or not isinstance(found.get("class_name"), str):
        raise ValueError(f"its configuration does not say what {what} is")
    registered = found.get("registered_name")
    if registered not in (None, found["class_name"]):
        raise ValueError(f"{what} is of the user's own class {shorten(str(registered))}")
    return found["class_name"], found.get("config")


def _parse_layer(entry: Any) -> KerasLayer:
    """Return a layer; ValueError if distbp has no such layer."""
    kind, config = _class_and_config(entry, "a layer")
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"a layer {shorten(kind)} has no name")
    if kind not in (*_KNOWN, *_IGNORED):
        raise ValueError(
            f"the layer {shorten(name)} is a {shorten(kind)}; distbp supports "
            f"{', '.join((*_KNOWN, *_IGNORED[:2]))}"
        )
    if kind == "Normalization":
        if config.get("axis") not in (-1, [-1], 1, [1]) or config.get("invert"):
            raise ValueError(f"the layer {shorten(name)} normalizes other axes than the last")
        return KerasLayer(kind, name)
    if kind in _IGNORED:
        return KerasLayer(kind, name)
    if kind == "Dense":
        if config.get("lora_rank") or config.get("quantization_config"):
            raise ValueError(f"the layer {shorten(name)} has LoRA weights, or is quantized")
        has_bias = config.get("use_bias", True)
        return KerasLayer(kind, name, _activation(config.get("activation"), name), bool(has_bias))
    return KerasLayer(kind, name, _layer_activation(kind, config, name))


def _activation(found: Any, name: str) -> str:
    """Return an activation in distbp's words; one that distbp does not know as it is."""
    if isinstance(found, dict):  # an object of Keras, with its options
        config = found.get("config")
        found = config if isinstance(config, str) else found.get("class_name")
    if found is None:
        return "linear"
    if not isinstance(found, str) or found not in _ACTIVATIONS:
        raise ValueError(
            f"the layer {shorten(name)} has the activation {shorten(str(found))}; distbp supports "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[found]


def _layer_activation(kind: str, config: dict[str, Any], name: str) -> str:
    """Return what a layer that is only an activation computes."""
    if kind == "Activation":
        return _activation(config.get("activation"), name)
    slope = config.get("negative_slope", config.get("alpha", 0.3))
    options = {
        "ReLU": (
            config.get("max_value") is None
            and not config.get("threshold")
            and not config.get("negative_slope"),
            "relu",
        ),
        "LeakyReLU": (isinstance(slope, float) and abs(slope - 0.01) < 1e-7, "leaky-relu"),
        "ELU": (config.get("alpha", 1.0) == 1.0, "elu"),
        "Softmax": (config.get("axis", -1) in (-1, 1), "softmax"),
    }
    is_known, found = options[kind]
    if not is_known:
        raise ValueError(
            f"the layer {shorten(name)} is a {kind} with other options than those of distbp's "
            f"{found}"
        )
    return found


def _in_order(entries: list[Any]) -> list[Any]:
    """Return the layers of a Functional model from the input on; they must form a chain."""
    by_name: dict[str, Any] = {}
    next_of: dict[str, str] = {}
    first = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in by_name:
            raise ValueError("its layers have no names, or two have the same")
        by_name[name] = entry
        before = set(_sources(entry.get("inbound_nodes"), 0))
        if not before:
            first.append(name)
        elif len(before) > 1 or (source := before.pop()) in next_of:
            raise ValueError(
                f"the layer {shorten(name)} is part of a branch; distbp has layers one after the "
                "other"
            )
        else:
            next_of[source] = name
    if len(first) != 1:
        raise ValueError(f"it has {len(first)} inputs; expected one")
    ordered, name = [], first[0]
    while True:
        ordered.append(by_name.pop(name, None))
        if ordered[-1] is None:
            raise ValueError(f"the layer {shorten(name)} is missing, or part of a cycle")
        if name not in next_of:
            break
        name = next_of[name]
    if by_name:
        raise ValueError(f"the layer {shorten(next(iter(by_name)))} is not part of the chain")
    return ordered


def _sources(found: Any, depth: int) -> list[str]:
    """Return the names of the layers that feed a layer, as Keras 3 or 2 stores them."""
    if depth > 12:
        raise ValueError("its layers are connected in an unknown way")
    if isinstance(found, dict):
        history = found.get("keras_history")
        if isinstance(history, list) and history and isinstance(history[0], str):
            return [history[0]]
        return [name for one in found.values() for name in _sources(one, depth + 1)]
    if not isinstance(found, list):
        return []
    # Keras 2: [[["dense", 0, 0, {}]]]
    if len(found) >= 3 and isinstance(found[0], str) and type(found[1]) is type(found[2]) is int:
        return [found[0]]
    return [name for one in found for name in _sources(one, depth + 1)]
