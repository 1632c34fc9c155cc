"""Models in .npz and .safetensors files: read again with the same bits, and by others."""

import json

import models
import numpy as np
import pytest
import safetensors.numpy
import table_models

from distbp import Config, export, import_model, load_model, predict, train
from distbp.errors import ConfigError, DataError
from distbp.interop.conversion import _PROGRESS
from distbp.interop.model_import import read_model
from distbp.network.parameters import digest
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import read_checkpoint, write_checkpoint
from distbp.training.state import Progress, read_progress

FORMATS = ("npz", "safetensors", "onnx")


def test_the_progress_of_a_model_without_a_run():
    """It is that before the first step, and valid."""
    assert Progress.at_start().to_dict() == _PROGRESS
    assert read_progress(_PROGRESS, [], "here") is not None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cost", "output", "task"), models.OUTPUTS)
def test_round_trip(tmp_path, form, cost, output, task, dtype):
    """Digest, outputs, classes and scaling are those of the model that was exported."""
    checkpoint = models.untrained(task, "tanh", cost, output, dtype, shape=[2, 3])
    write_checkpoint(tmp_path / "a.h5", checkpoint)
    export(tmp_path / "a.h5", tmp_path / f"a.{form}")
    found = read_model(tmp_path / f"a.{form}", tmp_path / "b.h5")
    assert digest(found.network.theta) == digest(checkpoint.network.theta)
    again = read_checkpoint(tmp_path / "b.h5")
    for name in ("task", "classes", "shape", "network"):
        assert again.about[name] == checkpoint.about[name]
    assert again.about["imported"]["file"] == f"a.{form}"
    x = models.rows(6).reshape(-1, 2, 3)
    expected = predict(tmp_path / "a.h5", x)
    assert (predict(tmp_path / "b.h5", x) == expected).all()


@pytest.mark.parametrize("form", FORMATS)
def test_round_trip_of_a_model_of_a_table(tmp_path, form):
    """Columns, categories, imputation and the logarithm of the targets come back, too."""
    frame = table_models.people(60)
    data = table_models.write_data(tmp_path / "data.h5", frame, "regression")
    table_models.train_model(data, tmp_path / "run")
    export(tmp_path / "run", tmp_path / f"a.{form}")
    read_model(tmp_path / f"a.{form}", tmp_path / "b.h5")
    expected = predict(tmp_path / "run", frame)
    assert (predict(tmp_path / "b.h5", frame) == expected).all()
    assert str(tmp_path).encode() not in (tmp_path / f"a.{form}").read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_equal_models_are_equal_files(tmp_path, form):
    for name in "ab":
        export(models.untrained(), tmp_path / f"{name}.{form}")
    assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()


def test_npz_for_others(tmp_path):
    """Arrays by their names in a checkpoint, and JSON."""
    checkpoint = models.untrained()
    export(checkpoint, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert (file["layers/2/w"] == checkpoint.network.weights[1]).all()
        assert (file["scaling/scale"] == checkpoint.scaling.scale).all()
        about = json.loads(str(file["about"]))
    assert about["classes"] == checkpoint.about["classes"]
    assert about["digest"] == digest(checkpoint.network.theta)


def test_npz_of_others(tmp_path):
    """Saved again by NumPy, compressed and in the order of Fortran."""
    checkpoint = models.untrained()
    export(checkpoint, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = {name: np.asfortranarray(file[name]) for name in file.files}
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    found = read_model(tmp_path / "b.npz")
    assert digest(found.network.theta) == digest(checkpoint.network.theta)


def test_safetensors_for_others(tmp_path):
    """The reference implementation reads them, by the names of a torch.nn.Sequential."""
    network = models.untrained().network
    export(models.untrained(), tmp_path / "a.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert set(found) == {f"{l}.{part}" for l in (0, 2, 4) for part in ("weight", "bias")}
    for l, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        assert (found[f"{2 * l}.weight"] == w).all()
        assert (found[f"{2 * l}.bias"] == b).all()


def test_names_of_layers(tmp_path):
    names = ("net.in", "net.mid", "net.out")
    export(models.untrained(), tmp_path / "a.safetensors", layers=names)
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert {name.rpartition(".")[0] for name in found} == set(names)
    read_model(tmp_path / "a.safetensors")
    for wrong in (names[:2], ("a", "a", "b")):
        with pytest.raises(ConfigError, match="the model has 3 layers"):
            export(models.untrained(), tmp_path / "a.safetensors", layers=wrong)


def test_a_model_in_memory(tmp_path):
    """What is imported is a `Model`, and a `Model` can be exported."""
    export(models.untrained(classes=["3", "5", "7"]), tmp_path / "a.npz")
    model = import_model(tmp_path / "a.npz", tmp_path / "a.h5")
    x = models.rows(6)
    expected = predict(tmp_path / "a.h5", x)
    assert model.predict(x).tolist() == [["3", "5", "7"][i] for i in expected.argmax(axis=1)]
    export(model, tmp_path / "b.npz")
    assert import_model(tmp_path / "b.npz").digest == model.digest


def test_averaged_weights_are_exported(tmp_path):
    """With --ema, the model is the average, as `predict` uses it."""
    import samples

    data = samples.digits(tmp_path / "digits.h5")
    options = {"hidden": (9,), "epochs": 1, "batch_size": 50, "quiet": True}
    train(Config(data=data, out=tmp_path / "run", ema=0.9, **options), comm=Topology())
    export(tmp_path / "run", tmp_path / "a.onnx")
    found = import_model(tmp_path / "a.onnx", tmp_path / "a.h5")
    x = models.rows(48)
    assert (predict(tmp_path / "a.h5", x) == predict(tmp_path / "run", x)).all()
    assert found.digest != load_model(tmp_path / "run").digest


# State dicts


def state_dict(sizes, names, dtype=np.float32, seed=0):
    """Return weights and biases by name."""
    random = np.random.default_rng(seed)
    found = {}
    for name, n_in, n_out in zip(names, sizes, sizes[1:], strict=False):
        found[f"{name}.weight"] = random.normal(size=(n_out, n_in)).astype(dtype)
        found[f"{name}.bias"] = random.normal(size=n_out).astype(dtype)
    return found


def forward(state, names, x, activation=np.tanh):
    """Return what a module with this state computes, without the output's activation."""
    for i, name in enumerate(names):
        x = x @ state[f"{name}.weight"].T.astype(np.float64) + state[f"{name}.bias"]
        x = activation(x) if i + 1 < len(names) else x
    return x


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a state_dict, imports it, and returns path and model."""

    def make(state, **options):
        safetensors.numpy.save_file(state, tmp_path / "net.safetensors")
        found = read_model(tmp_path / "net.safetensors", tmp_path / "net.h5", **options)
        return tmp_path / "net.h5", found

    return make


NAMES = {
    "a Sequential": ["0", "2", "10"],
    "in a module": ["net.0", "net.2", "net.4"],
    "numbered layers": ["layers.9.linear", "layers.10.linear", "layers.11.linear"],
    "by their sizes": ["input", "hidden", "classifier"],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_order_of_layers(saved, names):
    """That of the numbers, not of the alphabet; else the one in which sizes fit."""
    state = state_dict((4, 7, 5, 2), names)
    path, _ = saved(state, activation="tanh", output="linear")
    x = models.rows(4)
    assert predict(path, x) == pytest.approx(forward(state, names, x), rel=1e-4, abs=1e-4)


def test_an_order_that_is_not_clear(saved):
    """Square layers fit in any order: they have to be named."""
    names = ["first", "second", "third"]
    state = state_dict((4, 4, 4, 4), names)
    with pytest.raises(ConfigError, match=r"do not say in which order .* --layers LIST"):
        saved(state, activation="tanh", output="linear")
    for order in (names, names[::-1]):
        path, _ = saved(state, activation="tanh", output="linear", layers=order)
        x = models.rows(4)
        assert predict(path, x) == pytest.approx(forward(state, order, x), rel=1e-4, abs=1e-4)
    with pytest.raises(ConfigError, match="Name all of them, in order"):
        saved(state, activation="tanh", output="linear", layers=("first", "second"))


def test_logits_become_probabilities(saved):
    """--output softmax for a module that is trained with CrossEntropyLoss."""
    state = state_dict((4, 7, 3), ["0", "2"])
    path, found = saved(state, activation="tanh", output="softmax", classes=("a", "b", "c"))
    z = np.exp(forward(state, ["0", "2"], models.rows(4)))
    assert predict(path, models.rows(4)) == pytest.approx(
        z / z.sum(axis=1, keepdims=True), abs=1e-5
    )
    assert (found.about["task"], found.about["classes"]) == ("classification", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("width", "options", "task", "output", "cost"),
    [
        (3, {"output": "softmax"}, "classification", "softmax", "log-likelihood"),
        (3, {"output": "sigmoid"}, "multilabel", "sigmoid", "cross-entropy"),
        (3, {"output": "linear"}, "regression", "linear", "quadratic"),
        (3, {"cost": "log-likelihood"}, "classification", "softmax", "log-likelihood"),
        (3, {"cost": "quadratic"}, "regression", "linear", "quadratic"),
        (3, {"cost": "cross-entropy"}, "multilabel", "sigmoid", "cross-entropy"),
        (3, {"output": "sigmoid", "task": "classification"}, "classification", "sigmoid",
         "cross-entropy"),
        (3, {"output": "sigmoid", "cost": "quadratic"}, "multilabel", "sigmoid", "quadratic"),
        (1, {"output": "sigmoid"}, "classification", "softmax", "log-likelihood"),
        (1, {"output": "sigmoid", "task": "multilabel"}, "multilabel", "sigmoid", "cross-entropy"),
    ],
)  # fmt: skip
def test_outputs_and_tasks(saved, width, options, task, output, cost):
    _, found = saved(state_dict((4, 5, width), ["0", "2"]), activation="relu", **options)
    network = found.network
    assert (found.about["task"], network.output, network.cost_name) == (task, output, cost)


def test_one_sigmoid_is_the_second_of_two_classes(saved):
    state = state_dict((4, 5, 1), ["0", "2"])
    path, found = saved(state, activation="tanh", output="sigmoid")
    p = 1 / (1 + np.exp(-forward(state, ["0", "2"], models.rows(4))))
    assert predict(path, models.rows(4)) == pytest.approx(np.hstack([1 - p, p]), abs=1e-6)
    assert found.about["classes"] == ["0", "1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "does not say what its output layer is"),
        ({"output": "softmax"}, "Name that of the hidden layers: --activation"),
        ({"output": "softmax", "activation": "tanh", "cost": "quadratic"}, "does not go with"),
        ({"output": "linear", "activation": "tanh", "classes": ("a", "b", "c")}, "no classes"),
        ({"output": "softmax", "activation": "tanh", "classes": ("a", "b")}, "has 3 outputs"),
        ({"output": "softmax", "activation": "tanh", "classes": ("a", "b", "b")}, "3 outputs"),
        (
            {"output": "softmax", "activation": "tanh", "task": "regression"},
            "does not go with a softmax output",
        ),
        ({"output": "softmax", "activation": "swish"}, "--activation 'swish' is unknown"),
        ({"outputs": "softmax"}, "unexpected keyword argument"),
    ],
)
def test_options_that_are_missing_or_do_not_fit(saved, options, words):
    with pytest.raises(ConfigError, match=words):
        saved(state_dict((4, 5, 3), ["0", "2"]), **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"1.running_mean": np.zeros(5, "f4")}, "'1.running_mean' is not part of a linear layer"),
        (
            {"1.weight": np.zeros(5, "f4")},
            r"'1.weight' has the shape \(5,\); distbp supports torch",
        ),
        ({"c.weight": np.zeros((5, 1, 3, 3), "f4")}, "distbp supports torch.nn.Linear"),
        ({"9.bias": np.zeros(5, "f4")}, "'9.bias' is not part of a linear layer"),
        ({"0.bias": np.zeros(4, "f4")}, "layer '0' has 5 units, but biases of the shape"),
        (
            {"2.weight": np.zeros((3, 6), "f4")},
            "layer '2' takes 6 numbers, but '0' before it has 5",
        ),
        ({"2.weight": np.zeros((3, 5), "i8")}, "has the type I64"),
        ({"2.weight": np.full((3, 5), np.nan, "f4")}, "'2' has a value that is not a finite"),
        ({"2.weight": np.zeros((0, 5), "f4")}, "have the shape"),
    ],
)
def test_tensors_that_are_no_linear_layers(saved, change, words):
    """One sentence that names the layer, and what distbp supports."""
    with pytest.raises(DataError, match=words):
        saved(state_dict((4, 5, 3), ["0", "2"]) | change, activation="relu", output="softmax")


@pytest.mark.parametrize(
    ("dtype", "network"), [("f2", "float32"), ("f4", "float32"), ("f8", "float64")]
)
def test_types_of_weights(saved, dtype, network):
    state = state_dict((4, 5, 3), ["0", "2"], dtype)
    _, found = saved(state, activation="relu", output="softmax")
    assert found.network.dtype == network
    assert (found.network.weights[0] == state["0.weight"]).all()


def test_a_state_dict_without_biases(saved):
    state = state_dict((4, 5, 3), ["0", "2"])
    del state["0.bias"]
    _, found = saved(state, activation="relu", output="softmax")
    assert not found.network.biases[0].any()


# PyTorch


def test_bfloat16_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    module = torch.nn.Linear(4, 3, dtype=torch.bfloat16)
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    found = read_model(tmp_path / "net.safetensors", output="softmax")
    assert (found.network.weights[0] == module.weight.detach().float().numpy()).all()


def test_there_and_back_again(tmp_path):
    """A module's weights are taken in, trained on, and given back; the outputs are the same."""
    torch = pytest.importorskip("torch")
    import samples
    from safetensors.torch import load_file, save_file

    from distbp.data.dataset import DataSet

    data = DataSet(samples.digits(tmp_path / "digits.h5"))
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(data.n_in, 20), torch.nn.ReLU(), torch.nn.Linear(20, data.n_out)
    )
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    options = {"activation": "relu", "output": "softmax", "data": data.path}
    read_model(tmp_path / "net.safetensors", tmp_path / "net.h5", **options)
    rows = np.frombuffer(data.splits["test"].x, np.uint8).reshape(-1, data.n_in)
    scaled = torch.tensor(rows / np.float32(255), dtype=torch.float32)

    def check(model):
        with torch.no_grad():
            found = torch.softmax(module(scaled), dim=1).numpy()
        assert predict(model, rows) == pytest.approx(found, abs=1e-6)

    check(tmp_path / "net.h5")
    config = Config(
        data=data.path, out=tmp_path / "run", hidden=(20,), epochs=2, quiet=True,
        init_from=tmp_path / "net.h5",
    )  # fmt: skip
    result = train(config, comm=Topology())
    export(tmp_path / "run", tmp_path / "trained.safetensors")
    module.load_state_dict(load_file(tmp_path / "trained.safetensors"))
    check(tmp_path / "run")
    assert result is not None


# With a data set


def test_names_and_scaling_of_a_data_set(tmp_path):
    """`data` makes a model one of the data set: evaluate takes both together."""
    import samples

    from distbp.training.inputs import open_model_and_data

    path = samples.digits(tmp_path / "digits.h5")
    state = state_dict((48, 9, 5), ["0", "2"])
    safetensors.numpy.save_file(state, tmp_path / "net.safetensors")
    options = {"activation": "relu", "output": "softmax"}
    read_model(tmp_path / "net.safetensors", tmp_path / "net.h5", **options, data=str(path))
    checkpoint, data = open_model_and_data(str(tmp_path / "net.h5"), str(path), Topology())
    assert checkpoint.about["classes"] == data.classes
    assert checkpoint.about["shape"] == [8, 6]
    assert (checkpoint.scaling.scale == data.scaling.scale).all()
    with pytest.raises(ConfigError, match="has the classes 'class 0'"):
        read_model(tmp_path / "net.safetensors", **options, data=str(path), classes=tuple("abcde"))
    other = samples.numbers(tmp_path / "numbers.h5")
    with pytest.raises(ConfigError, match="has rows of 11 numbers and needs 3 outputs"):
        read_model(
            tmp_path / "net.safetensors", data=str(other), activation="relu", output="linear"
        )


# What is refused by its name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.pt", "is a pickle.*safetensors.torch.save_file"),
        ("net.pth", "is a pickle.*safetensors.torch.save_file"),
        ("clf.pkl", "is a pickle.*from_sklearn"),
        ("clf.joblib", "is a pickle.*from_sklearn"),
    ],
)
def test_pickles_are_not_opened(tmp_path, name, words):
    """Not even if they are there."""
    with pytest.raises(DataError, match=words):
        read_model(tmp_path / name)


def test_names_that_mean_no_format(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.onnx, \.safetensors"):
        read_model(tmp_path / "net.tflite")


def test_other_files_are_not_overwritten(tmp_path):
    export(models.untrained(), tmp_path / "a.npz")
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(ConfigError, match="nothing in it says that distbp"):
        read_model(tmp_path / "a.npz", tmp_path / "out.h5")
    with pytest.raises(ConfigError, match="would overwrite the model itself"):
        read_model(tmp_path / "a.npz", tmp_path / "a.npz")
    assert (tmp_path / "out.h5").read_text() == "mine"
