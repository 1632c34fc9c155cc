"""Models out and in, as a user would do it: export, onnxruntime, import-model, train on."""

import json

import h5py
import numpy as np
import onnxruntime
import safetensors.numpy
from ranks import ROOT, distbp

PENGUINS = ROOT / "scripts" / "penguins.csv"


def test_a_model_of_a_table_in_a_service(tmp_path):
    """Named columns go into onnxruntime; what comes out is what `distbp predict` writes."""
    options = ("--label", "species", "--missing", "mean")
    distbp("import", PENGUINS, "p.h5", *options, folder=tmp_path)
    distbp("train", "p.h5", "--out", "run", "--epochs", 3, "--quiet", folder=tmp_path)
    said = distbp("export", "run", "model.onnx", folder=tmp_path).out
    assert said.startswith("model.onnx: ")
    distbp("predict", "run", PENGUINS, "--out", "p.csv", folder=tmp_path)
    lines = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    head, *rows = (line.split(",") for line in PENGUINS.read_text().splitlines())
    inputs = {}
    for one in session.get_inputs():
        cells = [row[head.index(one.name)] for row in rows]
        if one.type == "tensor(string)":
            values = np.array([cell.replace("NA", "") for cell in cells], object)
        else:
            values = np.array([float(cell) if cell not in ("", "NA") else np.nan for cell in cells])
        inputs[one.name] = values[:, np.newaxis]
    labels, probabilities = session.run(["label", "probabilities"], inputs)
    assert labels.tolist() == [line[1] for line in lines[1:]]
    expected = np.array([line[2:] for line in lines[1:]], float)
    assert np.abs(probabilities - expected).max() < 1e-6


def test_weights_of_another_program_are_trained_on(tmp_path, data):
    """From a state_dict to a run, and back; the model that is read again has the same digest."""
    random = np.random.default_rng(0)
    state = {}
    for name, n_in, n_out in (("net.0", 48, 9), ("net.2", 9, 5)):
        state[f"{name}.weight"] = random.normal(0, 0.1, (n_out, n_in)).astype("f4")
        state[f"{name}.bias"] = np.zeros(n_out, "f4")
    safetensors.numpy.save_file(state, tmp_path / "net.safetensors")
    given = ("--activation", "relu", "--output", "softmax", "--data", data["digits"])
    words = ("import-model", "net.safetensors", "--out", "net.h5")
    said = distbp(*words, *given, folder=tmp_path).out
    assert said.startswith("net.h5: 48-9-5, relu … softmax, classification, 5 names\n")
    assert "imported  " in distbp("info", "net.h5", folder=tmp_path).out
    before = json.loads(distbp("evaluate", "net.h5", data["digits"], "--json", folder=tmp_path).out)
    train = ("train", data["digits"], "--out", "run", "--hidden", 9, "--init-from", "net.h5")
    distbp(*train, "--epochs", 9, "--optimizer", "adam", "--learning-rate", 0.02, folder=tmp_path)
    after = json.loads(distbp("evaluate", "run", data["digits"], "--json", folder=tmp_path).out)
    assert after["cost"] < before["cost"] - 0.5
    digest = distbp("digest", "run", folder=tmp_path).out
    words = ("export", "run", "out.safetensors", "--layers", "net.0,net.2")
    distbp(*words, folder=tmp_path)
    found = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    assert {name: array.shape for name, array in found.items()} == {
        name: array.shape for name, array in state.items()
    }
    distbp("import-model", "out.safetensors", "--out", "back.h5", folder=tmp_path)
    assert distbp("digest", "back.h5", folder=tmp_path).out == digest
    with h5py.File(tmp_path / "back.h5") as file:
        assert (file["layers/1/w"][...] == found["net.0.weight"]).all()
