"""Data sets as files: any storage gives the same rows, and invalid files are refused."""

import h5py
import numpy as np
import pytest
import samples

from distbp.cli.describe import describe
from distbp.data import dataset
from distbp.data.batches import BatchLoader
from distbp.data.dataset import DATA_FORMAT, DATA_VERSION, DataSet
from distbp.data.importing import import_data
from distbp.errors import ConfigError, DataError
from distbp.network.activations import ACTIVATIONS
from distbp.network.costs import COSTS
from distbp.storage import hdf5_file
from distbp.storage.scaling import Scaling, TargetScaling

ROWS = 600
ABOUT = {
    "task": "classification",
    "classes": ["a", "b"],
    "shape": [2],
    "scaling": "none",
    "source": {"files": ["by hand"], "sha256": "0"},
    "split": "as in the source",
    "digest": "0",
}


def arrays(dtype, task):
    generator = np.random.default_rng(5)
    x = generator.integers(0, 200, (ROWS, 3, 5)).astype(dtype)
    y = np.arange(ROWS) % 4 if task == "classification" else generator.normal(size=(ROWS, 2))
    return x, y


@pytest.fixture(params=["|u1", "<f4", ">f8", "<i2"])
def dtype(request):
    return request.param


@pytest.fixture(params=["classification", "regression"])
def imported(request, tmp_path, dtype):
    """An imported file, for both tasks, of bytes and of numbers."""
    x, y = arrays(dtype, request.param)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    import_data(tmp_path / "d.npz", tmp_path / "d.h5")
    return tmp_path / "d.h5"


def rewritten(path, pad=0, **storage):
    """Copy a data set with another storage, at an offset of `pad` more bytes."""
    other = path.with_name("other.h5")
    with (
        h5py.File(path) as file,
        hdf5_file.create_file(other, DATA_FORMAT, DATA_VERSION, DataError) as copy,
    ):
        if pad:
            hdf5_file.write_array(copy, "pad", np.zeros(pad, np.uint8))
        for name in ("about", "scaling/shift", "scaling/scale"):
            hdf5_file.write_array(copy, name, file[name][...])
        for name in ("train/x", "train/y"):
            chosen = {key: value for key, value in storage.items() if key != "chunks"}
            if "chunks" in storage:
                chosen["chunks"] = (storage["chunks"], *file[name].shape[1:])
            copy.create_dataset(name, data=file[name][...], **chosen)
    return other


def load(path, numbers, dtype=np.float32):
    data = DataSet(path)
    split = data.split("train")
    loader = BatchLoader(split, data.scaling, len(data.classes), len(numbers), np.dtype(dtype))
    return [array.copy() for array in loader.load(np.asarray(numbers))]


NUMBERS = [599, 0, 17, 17, 300]


def smoothed(path, smoothing, dtype=np.float64):
    """Return y and labels of rows of a data set of classes, in training."""
    data = DataSet(path)
    arguments = (data.split("train"), data.scaling, data.n_classes, 30, np.dtype(dtype))
    loader = BatchLoader(*arguments, label_smoothing=smoothing)
    return [array.copy() for array in loader.load(np.arange(30))[1:]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_label_smoothing(tmp_path, dtype):
    """Targets are (1 − ε) y + ε/k, and sum to 1; the labels are the same."""
    path = samples.digits(tmp_path / "d.h5")
    (plain, labels), (y, same) = smoothed(path, 0.0, dtype), smoothed(path, 0.2, dtype)
    np.testing.assert_array_equal(plain, np.eye(5)[labels])
    np.testing.assert_array_equal(same, labels)
    np.testing.assert_allclose(y, np.where(plain == 1, 0.84, 0.04), rtol=1e-6)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


def test_label_smoothing_is_that_of_pytorch(tmp_path):
    """Its cost with the smoothed targets is ours."""
    torch = pytest.importorskip("torch")
    y, labels = smoothed(samples.digits(tmp_path / "d.h5"), 0.3)
    z = np.random.default_rng(0).normal(size=y.shape)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.3, reduction="sum")
    expected = loss(torch.tensor(z), torch.tensor(labels)).item()
    cost = COSTS["log-likelihood"](ACTIVATIONS["softmax"]())
    a = cost.output.fill(z, np.empty_like(z))
    assert cost.fn(z, a, y) == pytest.approx(expected, rel=1e-13)


def test_rows_of_an_imported_file(imported):
    """A loader gives the rows of the source, scaled, in the requested order."""
    with np.load(imported.with_name("d.npz")) as archive:
        x, y = archive["x"][NUMBERS].reshape(5, 15), archive["y"][NUMBERS]
    scaling = DataSet(imported).scaling
    found_x, found_y, labels = load(imported, NUMBERS, np.float64)
    np.testing.assert_allclose(found_x, (x - scaling.shift) * scaling.scale, rtol=1e-14)
    if y.ndim == 1:
        np.testing.assert_array_equal(labels, y)
        y = np.eye(4)[y]
    np.testing.assert_array_equal(found_y, y)


def offset(path):
    with h5py.File(path) as file:
        return file["train/x"].id.get_offset()


def test_odd_file_offsets(imported):
    """Numbers at odd offsets of the file are mapped, too."""
    # More than libhdf5 collects into one block; one of the two gives an odd offset.
    other = next(
        path for pad in (3000, 3001) if offset(path := rewritten(imported, pad=pad)) % 2 == 1
    )
    for found, wanted in zip(load(other, NUMBERS), load(imported, NUMBERS), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "storage", [{"chunks": 7}, {"chunks": 100, "compression": "gzip", "shuffle": True}]
)
def test_chunked_files(imported, storage):
    """Chunked and compressed arrays give the same rows, in memory from `allocate`."""
    other = rewritten(imported, **storage)
    shapes = []

    def allocate(shape, dtype, fill):
        shapes.append(shape)
        array = np.empty(shape, dtype)
        fill(array)
        return array

    DataSet(other, allocate)
    assert [shape[0] for shape in shapes] == [ROWS, ROWS]
    for found, wanted in zip(load(other, NUMBERS), load(imported, NUMBERS), strict=True):
        np.testing.assert_array_equal(found, wanted)


# Invalid data sets


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a small data set without `import_data`, and changes it."""

    def write(change=lambda file: None, about=ABOUT):
        path = tmp_path / "hand.h5"
        with hdf5_file.create_file(path, DATA_FORMAT, DATA_VERSION, DataError) as file:
            hdf5_file.write_json(file, "about", about)
            Scaling(np.zeros(1), np.ones(1)).write(file)
            file["train/x"], file["train/y"] = np.zeros((4, 2)), np.array([0, 1, 1, 0])
            change(file)
        return path

    return write


def put(name, value):
    """Return a change that replaces what is called `name`, or removes it for None."""

    def change(file):
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def test_the_unchanged_file_is_valid(make):
    """The file that the refusals below change is a data set."""
    assert len(DataSet(make()).split("train")) == 4


def test_missing_split(make):
    """The message names the splits that the file has."""
    with pytest.raises(ConfigError, match="no split 'test'; it has train"):
        DataSet(make()).split("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("about", None), "cannot be read as distbp-data: .*about"),
        (put("about", 3), "about is not JSON text"),
        (put("about", np.frombuffer(b'{"task"', np.uint8)), "cannot be read as distbp-data"),
        (put("scaling", None), "cannot be read as distbp-data: scaling/shift is missing"),
        (put("train", None), "has neither 'train' nor 'test'"),
        (put("train", 3), "cannot be read as distbp-data"),
        (put("train/x", None), "cannot be read as distbp-data"),
        (put("train/x", 3.0), "'train/x' is float64"),
        (put("train/x", np.zeros((0, 2))), r"'train/x' is float64 \(0, 2\); expected rows"),
        (put("train/x", ["a", "b", "c", "d"]), "train/x holds text, not plain numbers"),
        (put("train/x", np.zeros((3, 2))), "train has 3 rows of x, but 4 of y"),
        (put("train/y", np.zeros(4)), "train/y must be one integer per row"),
        (put("train/y", np.zeros((4, 2), int)), "train/y must be one integer per row"),
        (put("train/y", np.array([0, 1, 2, 9])), "train/y, row 2 is 2; labels run from 0 to 1"),
        (put("train/y", np.array([0, -1, 1, 1])), "train/y, row 1 is -1"),
        (put("test/x", np.zeros((4, 2))), "cannot be read as distbp-data"),
    ],
)
def test_refusals(make, monkeypatch, change, message):
    """Invalid content is refused when the file is opened, wherever it is."""
    monkeypatch.setattr(dataset, "_CHECK_BYTES", 8)
    path = make(change)
    with pytest.raises(DataError, match=message) as caught:
        DataSet(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("about", "change", "message"),
    [
        ({}, put("train/y", np.zeros((4, 3), "u1")), "train/y has 3 numbers per row; expected 2"),
        (
            {}, put("train/y", np.array([[0, 1], [1, 1], [1, 2], [0, 0]])),
            "train/y, row 2, column 1 is 2; labels are 0 or 1",
        ),
        ({}, put("train/y", np.full((4, 2), np.nan)), "row 0, column 0 is nan; labels are"),
        ({"classes": []}, put("train/y", np.zeros((4, 2))), "multilabel with 0 classes"),
        ({}, put("target/shift", np.zeros(2)), "target/scale is missing"),
        (
            {}, lambda file: TargetScaling(np.zeros(2), np.ones(2)).write(file),
            "multilabel has no targets to scale",
        ),
    ],
)  # fmt: skip
def test_refusals_of_multilabel(make, monkeypatch, about, change, message):
    """Labels are 0 or 1, as many as there are names; they are not scaled."""
    monkeypatch.setattr(dataset, "_CHECK_BYTES", 8)

    def write(file):
        put("train/y", np.zeros((4, 2), "u1"))(file)
        change(file)

    multilabel = ABOUT | {"task": "multilabel"} | about
    with pytest.raises(DataError, match=message):
        DataSet(make(write, multilabel))
    assert DataSet(make(put("train/y", np.zeros((4, 2), "u1")), ABOUT | {"task": "multilabel"}))


def test_rows_of_different_lengths(make):
    """Rows of x have the same length in all splits."""

    def change(file):
        file["test/x"], file["test/y"] = np.zeros((2, 3)), np.array([0, 1])

    with pytest.raises(DataError, match="the rows of x differ in length"):
        DataSet(make(change))


def test_classes_that_are_no_text(make):
    """Written by another program."""
    with pytest.raises(DataError, match="'about' has classes that are no text"):
        DataSet(make(lambda file: None, ABOUT | {"classes": [0, 1]}))


def test_unknown_task(make):
    """A task that this version does not know."""
    with pytest.raises(DataError, match="unknown task 'ranking'"):
        DataSet(make(about=ABOUT | {"task": "ranking"}))


def attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("format", np.bytes_("distbp-checkpoint")), "is a 'distbp-checkpoint'; expected"),
        (attribute("format", "distbp-data"), "but not a distbp-data"),  # of variable length
        (attribute("format", 1), "but not a distbp-data"),
        (
            attribute("version", DATA_VERSION + 1),
            f"has version {DATA_VERSION + 1} of its format; this distbp reads up to",
        ),
        (attribute("version", "1"), "but not a distbp-data"),
        (lambda file: file.attrs.clear(), "is an HDF5 file, but not a distbp-data"),
    ],
)
def test_formats(make, change, message):
    """Another format, or a newer version of this one, is named."""
    with pytest.raises(DataError, match=message):
        DataSet(make(change))


@pytest.mark.parametrize("content", [b"", b"no HDF5", bytes(2000)])
def test_not_hdf5(tmp_path, content):
    """A file of another kind is refused."""
    path = tmp_path / "d.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.h5 cannot be read as distbp-data"):
        DataSet(path)


def test_missing_file_and_folder(tmp_path):
    """They are refused with the reason."""
    with pytest.raises(DataError, match="No such file"):
        DataSet(tmp_path / "d.h5")
    with pytest.raises(DataError, match="it is a folder, not a file"):
        DataSet(tmp_path)


@pytest.mark.parametrize("part", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_truncated_file(imported, part):
    """It is refused when it is opened, not when it is read."""
    content = imported.read_bytes()
    imported.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match="cannot be read as distbp-data"):
        DataSet(imported)


# Integrity


def test_an_import_has_a_checksum(imported):
    """`distbp info` verifies it; opening the file to train does not."""
    hdf5_file.verify_checksum(imported, DATA_FORMAT, DataError)
    assert "ok (SHA-256 of all bytes)" in describe(imported)
    content = bytearray(imported.read_bytes())
    content[offset(imported)] ^= 1
    imported.write_bytes(content)
    DataSet(imported)
    assert "it is damaged: its SHA-256 differs from" in describe(imported)


def test_without_a_checksum_header(imported):
    """A data set that another tool has rewritten has none, and is accepted."""
    content = imported.read_bytes()
    imported.write_bytes(bytes(512) + content[512:])
    DataSet(imported)
    assert "it has no checksum header" in describe(imported)


def change_type(file):
    x = file["train/x"][...]
    del file["train/x"]
    file["train/x"] = x.astype("f2")


def lose_rows(file):
    for name in ("train/x", "train/y"):
        rows = file[name][:-1]
        del file[name]
        file[name] = rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_type, r"train/x was written as \['.*, but is \['<f2', 600, 3, 5\]\. Import it a"),
        (lose_rows, r"train/x was written as \['.*600.*, but is \['.*, 599, 3, 5\]"),
        (lambda file: file.move("train", "test"), r"train/x was written as .*, but is None"),
    ],
)
def test_changed_types_and_shapes(imported, change, message):
    """They are also stored in `about`, so that damage in HDF5's own structure is detected."""
    with h5py.File(imported, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        DataSet(imported)


def test_rows_of_another_shape(make):
    """The shape of a row in `about` must be that of x."""
    with pytest.raises(DataError, match=r"a row of x has 2 numbers; expected the shape \[3\]"):
        DataSet(make(about=ABOUT | {"shape": [3]}))


def test_types_that_numpy_lacks(make):
    """Integers of 24 bits are not mapped as if they had 32."""

    def change(file):
        kind = h5py.h5t.NATIVE_INT32.copy()
        kind.set_precision(24)
        del file["train/x"]
        space = h5py.h5s.create_simple((4, 2))
        made = h5py.h5d.create(file["train"].id, b"x", kind, space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((4, 2), "i4"))

    with pytest.raises(DataError, match="'train/x' has a number type that NumPy lacks"):
        DataSet(make(change))
