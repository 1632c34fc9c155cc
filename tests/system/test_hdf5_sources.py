"""HDF5 files as people have them, from import to evaluation, on the command line."""

import json

import h5py
import numpy as np
import pytest
from ranks import distbp

N = 300
KINDS = ["ash", "birch", "oak"]


@pytest.fixture
def source(tmp_path):
    """Return a file with the same data stored in many ways."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, N)
    x = (random.normal(size=(N, 6)) + 2 * kinds[:, np.newaxis]).astype(">f2")
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file.create_dataset("data/x", data=x, compression="lzf", shuffle=True)
        file["data/bits"] = x > 2
        file["columns"] = x.T
        file["linked"] = h5py.SoftLink("/data/x")
        file.create_dataset("text", data=[KINDS[kind] for kind in kinds], chunks=(50,))
        members = {name: 10 * number for number, name in enumerate(KINDS)}
        file.create_dataset("members", data=10 * kinds, dtype=h5py.enum_dtype(members, "i2"))
        file["tags"] = (x[:, :3] > 2).astype("u1")
    return tmp_path / "source.h5"


@pytest.mark.parametrize("x", ["data/x", "data/bits", "linked", "columns"])
@pytest.mark.parametrize("y", ["text", "members"])
def test_classes_with_names(source, x, y):
    """They are those of the file; an accuracy far above chance says that rows are in order."""
    folder = source.parent
    words = ["import", source, "data.h5", "--x", x, "--y", y, "--test-fraction", 0.2]
    distbp(*words, *["--transpose"] * (x == "columns"), folder=folder)
    assert "ash, birch, oak" in distbp("info", "data.h5", folder=folder).out
    distbp("train", "data.h5", "--out", "run", "--epochs", 10, "--batch-size", 20, folder=folder)
    ended = distbp("evaluate", "run", "data.h5", "--split", "test", "--json", folder=folder)
    assert json.loads(ended.out)["accuracy"] > 0.6


def test_several_labels_a_row(source):
    """The task is said on import; --task decides otherwise."""
    folder = source.parent
    words = ["import", source, "data.h5", "--x", "data/x", "--y", "tags", "--test-fraction", 0.2]
    ended = distbp(*words, folder=folder)
    assert "a multilabel classification" in ended.out + ended.err
    distbp("train", "data.h5", "--out", "run", "--epochs", 10, "--batch-size", 20, folder=folder)
    ended = distbp("evaluate", "run", "data.h5", "--split", "test", "--json", folder=folder)
    assert json.loads(ended.out)["accuracy"] > 0.7
    distbp(*words, "--task", "regression", folder=folder)
    assert "regression" in distbp("info", "data.h5", folder=folder).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "has columns (6, 300), members (300,), tags (300, 3), text (300,), data/bits (300, 6)",
        ),
        (["--x", "none", "--y", "text"], "none is missing; "),
        (["--x", "columns", "--y", "text"], "--transpose"),
        (["--x", "text", "--y", "text"], "text holds text, not plain numbers"),
    ],
)
def test_refusals_say_what_to_do(source, words, message):
    """In one line, with names and shapes."""
    ended = distbp("import", source, "data.h5", *words, folder=source.parent, status=None)
    assert message in ended.err
    assert ended.err.count("\n") == 1
