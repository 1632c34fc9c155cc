"""Files that Keras 3 and Keras 2 have written, and configurations that distbp refuses."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from distbp import predict
from distbp.errors import ConfigError, DataError
from distbp.interop.keras_config import parse_config
from distbp.interop.model_import import read_model
from distbp.storage import hdf5_strings

FOLDER = Path(__file__).parents[2] / "keras_models"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
X = np.array(EXPECTED["x"], np.float32)
WITHOUT_CONFIGURATION = {"activation": "silu", "output": "linear"}
FILES = {
    "sequential.keras": {}, "sequential.h5": {}, "functional.keras": {}, "functional.h5": {},
    "regression.keras": {}, "regression.weights.h5": WITHOUT_CONFIGURATION, "pair.keras": {},
    "keras-2-sequential.h5": {}, "keras-2-functional.h5": {},
    "keras-2-regression.h5": WITHOUT_CONFIGURATION,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_keras(tmp_path, name):
    """distbp predicts what Keras has predicted: Normalization, Dropout and activations included."""
    found = read_model(FOLDER / name, tmp_path / "model.h5", **FILES[name])
    expected = np.array(EXPECTED[name.split(".")[0]])
    if name == "pair.keras":
        expected = np.hstack([1 - expected, expected])
    assert predict(tmp_path / "model.h5", X) == pytest.approx(expected, abs=1e-6)
    assert found.about["imported"]["file"] == name


def test_every_sample_is_tested():
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "make", "expected.json"}


def test_weights_alone_need_options():
    with pytest.raises(ConfigError, match="file of Keras weights does not say"):
        read_model(FOLDER / "regression.weights.h5", output="linear")


def rewritten(path, change):
    """Write sequential.keras with a changed configuration."""
    with zipfile.ZipFile(FOLDER / "sequential.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config["config"]["layers"], config)
                content = json.dumps(config).encode()
            new.writestr(name, content)
    return path


def layer(kind, **config):
    return {"class_name": kind, "config": {"name": "mine", **config}}


def with_activation(name):
    """Return a change of the first Dense."""
    return lambda layers, _: layers[2]["config"].update(activation=name)


CHANGES = {
    "a convolution": (
        lambda layers, _: layers.insert(2, layer("Conv2D", filters=3)),
        "the layer 'mine' is a 'Conv2D'; distbp supports Dense",
    ),
    "code": (
        lambda layers, _: layers.insert(2, layer("Lambda", function={"code": "4wEAAA=="})),
        "the layer 'mine' is a 'Lambda'; distbp supports Dense",
    ),
    "a class of the user": (
        lambda layers, _: layers[2].update(registered_name="My>Dense"),
        "is of the user's own class 'My>Dense'",
    ),
    "another activation": (with_activation("selu"), "'dense' has the activation 'selu'; distbp"),
    "an exact gelu": (with_activation("gelu"), "has the activation exact gelu"),
    "a softmax within": (with_activation("softmax"), "layer 'dense' has the activation softmax"),
    "no activation": (with_activation("linear"), "layer 'dense' has no activation"),
    "two activations": (with_activation("tanh"), "has relu, those before it have tanh"),
    "an activation first": (
        lambda layers, _: layers.insert(0, layer("ReLU")),
        "the activation 'mine' does not follow a Dense",
    ),
    "a relu with a limit": (
        lambda layers, _: layers[5]["config"].update(max_value=6.0),
        "is a ReLU with other options",
    ),
    "a late normalization": (
        lambda layers, _: layers.append(layers.pop(1)),
        "'normalization' is a Normalization that is not the first layer",
    ),
    "another axis": (
        lambda layers, _: layers[1]["config"].update(axis=[0]),
        "'normalization' normalizes other axes",
    ),
    "a quantized layer": (
        lambda layers, _: layers[2]["config"].update(quantization_config={"mode": "int8"}),
        "'dense' has LoRA weights, or is quantized",
    ),
    "a layer without weights": (
        lambda layers, _: layers.append(layer("Dense", units=2, activation="linear")),
        "the layer 'mine' has 0 variables; a Dense has 2",
    ),
    "a bias less": (
        lambda layers, _: layers[2]["config"].update(use_bias=False),
        "'dense' has 2 variables; a Dense has 1",
    ),
    "another model": (
        lambda _, config: config.update(class_name="MyModel"),
        "the model is a 'MyModel'; expected Sequential or Functional",
    ),
    "no layers": (lambda layers, _: layers.clear(), "it has no dense layer"),
    "no name": (lambda layers, _: layers[2]["config"].pop("name"), "a layer 'Dense' has no name"),
    "layers that are no list": (
        lambda _, config: config["config"].update(layers=7),
        "has no valid list of layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_a_chain_of_known_layers(tmp_path, change):
    """One sentence that names the layer."""
    change, words = CHANGES[change]
    with pytest.raises(DataError, match=words):
        read_model(rewritten(tmp_path / "model.keras", change))


def test_an_exact_gelu_may_be_approximated(tmp_path):
    def change(layers, _):
        with_activation("gelu")(layers, _)
        layers[5] = layer("Activation", activation="gelu")

    path = rewritten(tmp_path / "model.keras", change)
    assert read_model(path, activation="gelu").network.activation == "gelu"
    with pytest.raises(ConfigError, match="--activation tanh: layer 'dense' has exact gelu"):
        read_model(path, activation="tanh")


def functional(*layers):
    """Return a configuration of layers (name, names of those before it)."""
    entries = [
        {
            "class_name": "Dense", "name": name, "config": {"name": name, "activation": "relu"},
            "inbound_nodes": [[[one, 0, 0, {}] for one in before]] if before else [],
        }
        for name, before in layers
    ]  # fmt: skip
    return {"class_name": "Functional", "config": {"layers": entries}}


def test_layers_of_a_functional_model_are_sorted():
    found = parse_config(functional(("c", ["b"]), ("a", []), ("b", ["a"])))
    assert [one.name for one in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([("a", []), ("b", ["a"]), ("c", ["a"])], "is part of a branch"),
        ([("a", []), ("b", ["a"]), ("c", ["a", "b"])], "is part of a branch"),
        ([("a", []), ("b", [])], "it has 2 inputs"),
        ([("a", ["b"]), ("b", ["a"])], "it has 0 inputs"),
        ([("a", []), ("b", ["c"]), ("c", ["b"])], "is not part of the chain"),
        ([("a", []), ("a", ["a"])], "two have the same"),
    ],
)
def test_functional_models_that_are_no_chain(layers, words):
    with pytest.raises(ValueError, match=words):
        parse_config(functional(*layers))


@pytest.mark.parametrize("shape", [(), None], ids=["of variable length", "of fixed length"])
def test_attributes_of_any_length(tmp_path, shape):
    """Text of 200 kB is read without libhdf5, beside other attributes."""
    text = "ä" * 100_000 if shape == () else "ä" * 20_000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["number"] = 7
        file.attrs["array"] = np.zeros(3)
        file.attrs["text"] = text if shape == () else np.bytes_(text.encode())
        file.attrs["empty"] = ""
    with h5py.File(tmp_path / "a.h5") as file, (tmp_path / "a.h5").open("rb") as raw:
        assert hdf5_strings.read_long_attribute(file, raw.fileno(), "text") == text
        assert hdf5_strings.read_long_attribute(file, raw.fileno(), "empty") == ""
        assert hdf5_strings.read_long_attribute(file, raw.fileno(), "none") is None
        for name in ("number", "array"):
            with pytest.raises(ValueError, match=f"{name}: it is not one text"):
                hdf5_strings.read_long_attribute(file, raw.fileno(), name)
