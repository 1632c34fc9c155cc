"""Weights in sources and data sets: what is read, and what is refused."""

import h5py
import numpy as np
import pytest
import samples

from distbp.cli.describe import describe
from distbp.data.dataset import DataSet
from distbp.data.importing import import_data
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 1, 0])
WEIGHTS = np.array([1, 0, 2.5, 1, 3, 0.5])
NAMES = {"h5": {"x": "x", "y": "y", "weight": "w"}, "npz": {"weight": "w"}}


def write_source(path, weights):
    """Write X, Y and weights to an HDF5, .npz or CSV file."""
    if path.suffix == ".npz":
        np.savez(path, x=X, y=Y, w=weights)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["x"], file["y"], file["w"] = X, Y, weights
    else:
        lines = [f"{a},{w},{b},{y}" for (a, b), w, y in zip(X, weights, Y, strict=True)]
        path.write_text("\n".join(["a,w,b,kind", *lines]) + "\n")
    return path


def run(source, **options):
    """Import a source with weights named w; return the data set."""
    out = source.with_name("out.h5")
    names = NAMES.get(source.suffix[1:], {"weight": "w"})
    import_data(source, out, ImportOptions(**names | options))
    return DataSet(out)


@pytest.fixture(params=["s.csv", "s.h5", "s.npz"])
def source(request, tmp_path):
    return write_source(tmp_path / request.param, WEIGHTS)


def test_weights_of_every_kind_of_source(source):
    """They are no feature, and `info` shows them."""
    data = run(source)
    np.testing.assert_array_equal(data.split("train").weights, WEIGHTS)
    assert (data.n_in, data.about["arrays"]["train/weight"]) == (2, ["<f8", 6])
    assert "  weights " in describe(data.path)
    assert "of the training rows, from 0 to 3" in describe(data.path)


def test_the_digest_covers_weights(source):
    """Without weights it is that of before, and the format is readable by older versions."""
    first = run(source).about["digest"]
    write_source(source, WEIGHTS + 1)
    assert run(source).about["digest"] != first
    if source.suffix != ".csv":
        plain = run(source, weight=None)
        assert plain.split("train").weights is None
        assert "  weights " not in describe(plain.path)
        with h5py.File(source.with_name("out.h5")) as file:
            assert file.attrs["version"] == 1


def test_weights_of_training_rows_alone(source):
    """Those of other rows are not needed."""
    data = run(source, test_fraction=0.34, seed=3)
    train, test = data.split("train"), data.split("test")
    assert (len(train), test.weights) == (4, None)
    x = train.x.view(np.float64)
    np.testing.assert_array_equal(train.weights, WEIGHTS[(x[:, 0] / 2).astype(int)])


BAD = {
    "negative": (np.array([1, 1, 1, -0.5, 1, 1]), "the weight is -0.5; expected"),
    "infinite": (np.array([1, 1, np.inf, 1, 1, 1]), "inf"),
    "zeros": (np.zeros(6), "the weights of all training rows are 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_weights_that_are_refused(source, name):
    weights, message = BAD[name]
    write_source(source, weights)
    with pytest.raises(DataError, match=message):
        run(source)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("s.npz", WEIGHTS[:5], r"s\.npz: w is float64 \(5,\); expected a number for each of the 6"),
        ("s.h5", np.ones((6, 2)), r"s\.h5: w is float64 \(6, 2\); expected a number for each"),
        ("s.npz", np.array([*"abcdef"]), "expected a number for each"),
        ("s.npz", np.array([1, 1, np.nan, 1, 1, 1]), "w, row 2: the weight is nan"),
        ("s.csv", [1, 1, "", 1, 1, 1], "the value for --weight is missing"),
        ("s.csv", [1, 1, "a", 1, 1, 1], "'1' is not a number, as a weight has to be|is not a num"),
    ],
)
def test_arrays_that_are_no_weights(tmp_path, name, weights, message):
    with pytest.raises(DataError, match=message):
        run(write_source(tmp_path / name, weights))


def test_names_that_are_refused(source, tmp_path):
    """A name that is not there, a label, and a format without names."""
    with pytest.raises((ConfigError, DataError), match="nothing"):
        run(source, weight="nothing")
    if source.suffix == ".csv":
        with pytest.raises(ConfigError, match="cannot be a label and be used by"):
            run(source, label="w")
    (tmp_path / "idx").mkdir()
    with pytest.raises(ConfigError, match="`--weight` does not apply to a folder"):
        import_data(tmp_path / "idx", tmp_path / "o.h5", ImportOptions(weight="w"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(502), r"'train/weight' is float64 \(502,\); expected 503 numbers of float64"),
        (np.ones(503, np.float32), r"is float32 \(503,\); expected 503 numbers"),
        (np.zeros(503), "the weights of all training rows are 0"),
        (np.where(np.arange(503) == 7, np.nan, 1.0), "train/weight, row 7: the weight is nan"),
        (np.where(np.arange(503) == 7, -1.0, 1.0), "train/weight, row 7: the weight is -1"),
    ],
)
def test_data_sets_with_other_weights(tmp_path, weights, message):
    """Files that distbp has not written so."""
    samples.digits(tmp_path / "d.h5", weights=weights)
    with pytest.raises(DataError, match=message):
        DataSet(tmp_path / "d.h5")
