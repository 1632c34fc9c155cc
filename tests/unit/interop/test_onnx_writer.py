"""What onnxruntime computes with an exported model is what distbp predicts."""

import json
import logging

import models
import numpy as np
import onnx
import onnxruntime
import pytest
import table_models

from distbp import export, predict
from distbp.errors import ConfigError
from distbp.interop.onnx_writer import class_numbers
from distbp.network.activations import HIDDEN
from distbp.network.parameters import digest
from distbp.storage.checkpoint import read_checkpoint, write_checkpoint
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.storage.scaling import Scaling

TOLERANCE = 1e-6  # relative to the largest output


def run_onnx(path, inputs):
    """Return the outputs by name, after onnx has checked the file."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options)
    found = session.run(None, inputs)
    return dict(zip([one.name for one in session.get_outputs()], found, strict=True))


def check_close(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.fixture
def exported(tmp_path):
    """Return a function that exports a model, and returns the path of ONNX and checkpoint."""

    def make(checkpoint, **options):
        write_checkpoint(tmp_path / "model.h5", checkpoint)
        export(tmp_path / "model.h5", tmp_path / "model.onnx", **options)
        return tmp_path / "model.onnx", tmp_path / "model.h5"

    return make


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cost", "output", "task"), models.OUTPUTS)
@pytest.mark.parametrize("activation", HIDDEN)
def test_outputs_are_those_of_distbp(exported, activation, cost, output, task, dtype):
    """For every activation and output; labels, probabilities, and values in the user's units."""
    path, model = exported(models.untrained(task, activation, cost, output, dtype))
    x = models.rows(6, dtype=dtype)
    found, expected = run_onnx(path, {"X": x}), predict(model, x)
    if task == "regression":
        assert set(found) == {"variable"}
        check_close(found["variable"], expected)
        return
    check_close(found["probabilities"], expected)
    if task == "multilabel":
        assert found["label"].dtype == np.int64
        assert (found["label"] == (expected > 0.5)).all()
    else:
        assert found["label"].tolist() == [f"c{i}" for i in expected.argmax(axis=1)]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_any_number_of_rows(exported, count):
    path, model = exported(models.untrained())
    x = models.rows(6, count)
    check_close(run_onnx(path, {"X": x})["probabilities"], predict(model, x))


@pytest.mark.parametrize(
    ("classes", "numbers"),
    [
        (["0", "1", "2"], [0, 1, 2]),
        (["-3", "7", "10"], [-3, 7, 10]),
        (["1", "02", "3"], None),
        (["1", "2.5", "3"], None),
        (["-0", "1", "2"], None),
        (["1", "2", "9" * 19], None),
        (["Köln", "", "a b"], None),
    ],
    ids=str,
)
def test_labels_are_whole_numbers_or_text(exported, classes, numbers):
    """int64 if all names are whole numbers, as they would be in scikit-learn."""
    assert class_numbers(classes) == numbers
    path, model = exported(models.untrained(classes=classes))
    x = models.rows(6)
    found = run_onnx(path, {"X": x})["label"]
    assert (found.dtype == np.int64) == (numbers is not None)
    expected = predict(model, x).argmax(axis=1)
    assert found.tolist() == [(numbers or classes)[i] for i in expected]


def test_rows_have_the_shape_that_was_imported(exported):
    path, model = exported(models.untrained(shape=[3, 2]))
    x = models.rows(6).reshape(-1, 3, 2)
    check_close(run_onnx(path, {"X": x})["probabilities"], predict(model, x))


def test_a_model_without_hidden_layers(exported):
    path, model = exported(models.untrained(sizes=(6, 3)))
    x = models.rows(6)
    check_close(run_onnx(path, {"X": x})["probabilities"], predict(model, x))


def test_rows_in_another_type(exported):
    """--input-dtype float64 for times, whose differences float32 cannot represent."""
    checkpoint = models.untrained()
    checkpoint.scaling = Scaling(np.full(6, 1.7e9), np.full(6, 0.01))
    path, model = exported(checkpoint, input_dtype="float64")
    x = 1.7e9 + 100 * models.rows(6, dtype="float64")
    check_close(run_onnx(path, {"X": x})["probabilities"], predict(model, x))


def test_a_column_that_float32_cannot_represent_is_warned_about(exported, caplog):
    checkpoint = models.untrained()
    with caplog.at_level(logging.WARNING):
        exported(checkpoint)
    assert not caplog.records
    checkpoint.scaling = Scaling(np.full(6, 1.7e9), np.full(6, 0.01))
    exported(checkpoint)
    assert "use --input-dtype float64" in caplog.text


def test_metadata(exported):
    """Names and digest can be read without distbp."""
    checkpoint = models.untrained(classes=["a", "b", "c"])
    path, _ = exported(checkpoint)
    model = onnx.load(path)
    found = {one.key: one.value for one in model.metadata_props}
    assert found["digest"] == digest(checkpoint.network.theta)
    assert json.loads(found["classes"]) == ["a", "b", "c"]
    assert json.loads(found["input_names"]) == ["X"]
    assert json.loads(found["distbp"])["format"] == "distbp-model"
    assert (model.producer_name, model.ir_version) == ("distbp", 8)


def test_equal_models_are_equal_files(tmp_path):
    for name in "ab":
        export(models.untrained(), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


# Models of tables


def onnx_columns(frame, features=table_models.FEATURES):
    """Return the inputs for the rows of a frame: (n, 1) numbers and text, "" if missing."""
    return {
        one.name: frame[[one.name]].to_numpy(float)
        if one.categories is None
        else frame[[one.name]].fillna("").to_numpy(object)
        for one in features
    }


@pytest.mark.parametrize("task", table_models.LABELS)
def test_columns_go_in(tmp_path, task):
    """Numbers and text with missing cells; categories, imputation and the log are inside."""
    frame = table_models.people(200)
    data = table_models.write_data(tmp_path / "data.h5", frame, task)
    table_models.train_model(data, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "model.onnx")
    found = run_onnx(tmp_path / "model.onnx", onnx_columns(frame))
    expected = predict(tmp_path / "run", frame)
    check_close(found["variable" if task == "regression" else "probabilities"], expected)
    texts = {one.key: one.value for one in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(texts["input_names"]) == ["age", "sex", "town", "income"]
    if task == "regression":
        assert json.loads(texts["target_names"]) == ["price"]


@pytest.fixture
def table_model():
    """Return a model of a table whose columns are called like outputs, or not at all."""
    features = (
        Feature("label"), Feature("", ("x", "y")), Feature("label_", ("a",), fill="a"),
        Feature("probabilities"),
    )  # fmt: skip
    table = Preprocessing(features, ("kind",))
    return models.untrained(preprocessing=table.to_json(), sizes=(5, 4, 2))


def test_columns_that_are_called_like_outputs(tmp_path, table_model):
    export(table_model, tmp_path / "model.onnx")
    names = [one.name for one in onnx.load(tmp_path / "model.onnx").graph.input]
    assert names == ["label__", "column_2", "label_", "probabilities_"]


@pytest.mark.parametrize("word", ["z", ""])
def test_unknown_categories(tmp_path, table_model, word):
    """An error of the runtime, or inputs of 0; a missing cell that nothing stands for, too."""
    number = np.ones((2, 1))
    inputs = {
        "label__": number, "column_2": np.array([["x"], [word]], object),
        "label_": np.array([["a"], [""]], object), "probabilities_": number,
    }  # fmt: skip
    export(table_model, tmp_path / "model.onnx")
    with pytest.raises(Exception, match="Unknown Category"):
        run_onnx(tmp_path / "model.onnx", inputs)
    export(table_model, tmp_path / "model.onnx", unknown="ignore")
    found = run_onnx(tmp_path / "model.onnx", inputs)["probabilities"]
    x = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 1, 1]], float)
    scaled = (x - table_model.scaling.shift) * table_model.scaling.scale
    check_close(found, table_model.network.feedforward(scaled))


# What cannot be exported


def test_an_activation_without_a_form_in_onnx(tmp_path, monkeypatch):
    """A part of the user's own; the other formats take the model."""
    from distbp.interop import onnx_graph

    monkeypatch.delitem(onnx_graph.ONNX_ACTIVATIONS, "relu")
    with pytest.raises(ConfigError, match=r"'relu' has no form in ONNX; .* \.safetensors"):
        export(models.untrained(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_large_for_a_file(tmp_path, monkeypatch):
    from distbp.interop import onnx_writer

    monkeypatch.setattr(onnx_writer, "_MAX_BYTES", 600)
    with pytest.raises(ConfigError, match=r"has 680 bytes .* \.safetensors"):
        export(models.untrained(), tmp_path / "model.onnx")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'distbp\[onnx\]'"):
        export(models.untrained(), tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["model.pt", "model", "model.h5"])
def test_a_name_that_means_no_format(tmp_path, name):
    with pytest.raises(ConfigError, match=r"ends in \.onnx or \.safetensors or \.npz"):
        export(models.untrained(), tmp_path / name)


def test_options_that_do_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="unexpected keyword argument 'opset'"):
        export(models.untrained(), tmp_path / "model.onnx", opset=9)
    with pytest.raises(ConfigError, match="--unknown 'drop' is unknown"):
        export(models.untrained(), tmp_path / "model.onnx", unknown="drop")


def test_a_model_in_memory_and_one_of_a_file_are_alike(tmp_path):
    """`export` takes a checkpoint, or whatever has one."""
    checkpoint = models.untrained()
    write_checkpoint(tmp_path / "model.h5", checkpoint)

    class Holder:
        pass

    holder = Holder()
    holder.checkpoint = read_checkpoint(tmp_path / "model.h5")
    for i, one in enumerate((checkpoint, holder, tmp_path / "model.h5")):
        export(one, tmp_path / f"{i}.npz")
    assert len({(tmp_path / f"{i}.npz").read_bytes() for i in range(3)}) == 1
