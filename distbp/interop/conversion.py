"""From the layers of another program to a checkpoint that distbp predicts and trains with.

A network of distbp has one activation for all hidden layers, and an output layer that goes with
its cost. What a file does not say is taken from `ImportModelOptions`, and never guessed where a
wrong guess would give other predictions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.interop.dense_model import EXACT_GELU, DenseModel, check_chain
from distbp.interop.interop_options import ImportModelOptions
from distbp.interop.untrusted import listed, shorten
from distbp.network.activations import HIDDEN
from distbp.network.costs import COSTS, OUTPUTS
from distbp.network.network import Network
from distbp.network.parameters import theta_size
from distbp.parallel import host
from distbp.storage.checkpoint import Checkpoint, describe_network
from distbp.storage.scaling import Scaling, TargetScaling

_OUTPUTS_OF_TASKS = {
    "classification": ("softmax", "sigmoid"),
    "multilabel": ("sigmoid",),
    "regression": ("linear",),
}
_DEFAULT_COSTS = {"softmax": "log-likelihood", "sigmoid": "cross-entropy", "linear": "quadratic"}
# A model that was not trained here has no run; these make its checkpoint complete.
_PROGRESS: dict[str, Any] = {
    "epoch": 0, "step": 0, "cost": 0.0, "correct": 0, "skipped": 0, "rate_factor": 1.0, "steps": 0
}  # fmt: skip


def make_checkpoint(
    network: Network,
    task: str,
    classes: Sequence[str],
    scaling: Scaling,
    target: TargetScaling | None,
    imported: dict[str, Any],
    **about: Any,
) -> Checkpoint:
    """Return a checkpoint of a model that has no run: its first position, without a history.

    Parameters
    ----------
    imported : dict
        The file that it comes from, and its format.
    about : dict
        Further entries of `about`, such as the shape of a row.
    """
    if target is not None:
        network.use_target_units(target.units)
    config = {
        "data": "", "out": "", "hidden": list(network.sizes[1:-1]), "cost": network.cost_name,
        "activation": network.activation, "optimizer": "sgd", "learning_rate": 0.1,
        "batch_size": 256, "shards": 1, "threads": 1, "dtype": network.dtype.name,
    }  # fmt: skip
    whole = {
        "network": describe_network(network),
        "task": task,
        "classes": list(classes),
        "data": {},
        "config": config,
        "progress": dict(_PROGRESS),
        "machine": host.numeric_platform() | {"threads": 1},
        "versions": host.software_versions(),
        "imported": imported,
    }
    return Checkpoint(network, {}, scaling, whole | about, target=target)


def convert(model: DenseModel, path: Path, options: ImportModelOptions) -> Checkpoint:
    """Return the checkpoint of a model from a file.

    Raises
    ------
    ValueError
        The layers do not fit each other, or distbp has no such network.
    ConfigError
        The options do not fit the model, or one is needed.
    """
    check_chain(model.layers)
    data = None if options.data is None else DataSet(options.data)
    task, output = _choose_output(model, options, data)
    weights, biases = [one.w for one in model.layers], [one.b for one in model.layers]
    if task == "classification" and len(weights[-1]) == 1:
        # σ(z) and 1 − σ(z) are the softmax of z and 0: two outputs, as for any classes.
        output = "softmax"
        weights[-1] = np.concatenate([np.zeros_like(weights[-1]), weights[-1]])
        biases[-1] = np.concatenate([np.zeros_like(biases[-1]), biases[-1]])
    sizes = (weights[0].shape[1], *map(len, weights))
    cost = _choose_cost(options.cost, output)
    # float16, bfloat16 and float32 are float32.
    is_wide = any(one.dtype == np.float64 for one in [*weights, *biases])
    dtype = "float64" if is_wide else "float32"
    theta = np.empty(theta_size(sizes), dtype)
    activation = _hidden_activation(model, options)
    network = Network(sizes, activation, cost, output, dtype=dtype, theta=theta)
    for l, (w, b) in enumerate(zip(weights, biases, strict=True)):
        np.copyto(network.weights[l], w, casting="same_kind")
        np.copyto(network.biases[l], b, casting="same_kind")
    classes = _choose_classes(model, options, data, task, sizes[-1])
    target: TargetScaling | None
    imported = {"file": path.name, "format": model.source}
    about: dict[str, Any] = {"shape": [sizes[0]]}
    label_type = _label_type(model, options, data)
    if label_type and task == "classification":
        about["label_type"] = label_type
    if data is None:
        scaling, target = _own_scaling(model), None
    else:
        _check_data(data, sizes, options.data or "")
        scaling, target = data.scaling, data.target
        about["shape"] = data.about["shape"]
        if data.preprocessing is not None:
            about["preprocessing"] = data.about["preprocessing"]
    return make_checkpoint(network, task, classes, scaling, target, imported, **about)


def _hidden_activation(model: DenseModel, options: ImportModelOptions) -> str:
    """Return the activation of the hidden layers."""
    wanted, names = options.activation, dict[str, str]()
    for layer in model.layers[:-1]:
        found = layer.activation
        if found == EXACT_GELU and wanted == "gelu":  # the user accepts the approximation
            found = wanted
        if found is None and wanted is None:
            raise ConfigError(
                f"A {model.source} does not say which activation function its layers have. Name "
                f"that of the hidden layers: --activation {' or '.join(HIDDEN)}."
            )
        if None not in (found, wanted) and found != wanted:
            raise ConfigError(
                f"--activation {wanted}: layer {shorten(layer.name)} has {found}. Leave the "
                "option out."
            )
        name = found or wanted or ""
        if name not in HIDDEN:
            what = "no activation" if name == "linear" else f"the activation {name}"
            hint = " (--activation gelu takes its approximation)" * (name == EXACT_GELU)
            raise ValueError(
                f"the hidden layer {shorten(layer.name)} has {what}{hint}; distbp has "
                f"{', '.join(HIDDEN)}"
            )
        names.setdefault(name, layer.name)
    if len(names) > 1:
        (one, _), (other, where) = list(names.items())[:2]
        raise ValueError(
            f"layer {shorten(where)} has {other}, those before it have {one}; distbp has one "
            "activation for all hidden layers"
        )
    return next(iter(names), wanted or "relu")


def _choose_output(
    model: DenseModel, options: ImportModelOptions, data: DataSet | None
) -> tuple[str, str]:
    """Return the task and the activation of the output layer."""
    last = model.layers[-1]
    task = options.task or (None if data is None else data.task)
    if model.is_pair:
        task = task or "classification"
    output = _known_output(model, options)
    # A model that returns logits has a linear output, and says nothing of what follows.
    if output == "linear" and task in ("classification", "multilabel"):
        output = "softmax" if task == "classification" and last.n_out > 1 else "sigmoid"
    if output not in _DEFAULT_COSTS:
        raise ValueError(
            f"the last layer, {shorten(last.name)}, has the activation {output!r}; distbp has "
            "softmax, sigmoid and linear outputs"
        )
    if task is None:
        task = {"softmax": "classification", "linear": "regression"}.get(output)
        task = task or ("classification" if last.n_out == 1 else "multilabel")
    if output not in _OUTPUTS_OF_TASKS[task]:
        raise ConfigError(
            f"The task {task} does not go with a {output} output; it goes with "
            f"{' or '.join(_OUTPUTS_OF_TASKS[task])}. Use another --task, --output or --cost."
        )
    if output == "softmax" and last.n_out < 2:
        raise ConfigError(
            f"A softmax of one output is always 1. If {shorten(last.name)} gives the probability "
            "of one of two classes, use --output sigmoid."
        )
    return task, output


def _known_output(model: DenseModel, options: ImportModelOptions) -> str:
    """Return the activation of the output layer by the options, or else by the file."""
    last = model.layers[-1]
    output = options.output or last.activation
    if options.output is None and options.cost is not None and output in (None, "linear"):
        names = OUTPUTS[options.cost]
        output = "linear" if "linear" in names else names[0]
    if output is None:
        raise ConfigError(
            f"A {model.source} does not say what its output layer is. Name it: --output softmax, "
            "sigmoid or linear (softmax also for a model that returns logits)."
        )
    if last.activation not in (None, "linear", output):
        raise ConfigError(
            f"--output {output}: the last layer, {shorten(last.name)}, has {last.activation!r}. "
            "Leave the option out."
        )
    return output


def _choose_cost(wanted: str | None, output: str) -> str:
    cost = wanted or _DEFAULT_COSTS[output]
    if output not in OUTPUTS[cost]:
        fitting = [name for name in COSTS if output in OUTPUTS[name]]
        raise ConfigError(
            f"--cost {cost} does not go with a {output} output. Use --cost {' or '.join(fitting)}."
        )
    return cost


def _choose_classes(
    model: DenseModel, options: ImportModelOptions, data: DataSet | None, task: str, n_out: int
) -> list[str]:
    """Return the names of classes or labels."""
    if task == "regression":
        if options.classes:
            raise ConfigError("--classes: a regression has no classes. Leave it out.")
        return []
    found = list(options.classes or ())
    if data is not None:
        if found not in ([], data.classes):
            raise ConfigError(
                f"--classes: {options.data} has the classes {listed(data.classes)}. Leave it out."
            )
        found = data.classes
    found = found or model.classes or [str(number) for number in range(n_out)]
    if len(found) != n_out or len(set(found)) != n_out:
        raise ConfigError(
            f"The model has {n_out} outputs, but there are the {len(found)} names "
            f"{listed(found)}. Name each class once, in order: --classes LIST."
        )
    return found


def _label_type(model: DenseModel, options: ImportModelOptions, data: DataSet | None) -> str | None:
    """Return the type of the classes if they are the model's own, or numbers from 0."""
    if options.classes or data is not None:
        return None
    return model.label_type if model.classes else "int"


def _check_data(data: DataSet, sizes: Sequence[int], name: str) -> None:
    """Raise ConfigError unless a data set has rows and outputs of these sizes."""
    if (data.n_in, data.n_out) != (sizes[0], sizes[-1]):
        raise ConfigError(
            f"--data {name}: it has rows of {data.n_in} numbers and needs {data.n_out} outputs; "
            f"the model takes {sizes[0]} and has {sizes[-1]}. Name the data set that it was "
            "trained on."
        )


def _own_scaling(model: DenseModel) -> Scaling:
    """Return the scaling of the input that is part of the model."""
    if model.shift is None or model.scale is None:
        return Scaling(np.zeros(1), np.ones(1))
    return Scaling(*(np.asarray(one, np.float64) for one in (model.shift, model.scale)))
