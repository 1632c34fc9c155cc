"""Importing: small files of every format, and every way in which they can be invalid."""

import codecs
import dataclasses
import gzip
import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import models
import numpy as np
import pyarrow.compute  # noqa: F401 - before a test gives up the right to read it
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.data import dataset_writer
from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet
from distbp.data.dataset_writer import RunningMoments
from distbp.data.importing import _DEFAULT_OPTIONS, import_data
from distbp.data.splits import choose_rows
from distbp.data.tables import Table
from distbp.errors import ConfigError, DataError, DistbpError
from distbp.storage.checkpoint import write_checkpoint

FASHION = Path("/usr/share/datasets/fashion-mnist")
IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
LABELS = np.array([0, 2, 1, 2, 0], np.uint8)
IRIS = """\
petal,sepal,kind
1.5,2,setosa
2.5,2,virginica
3.5,2,setosa
"""


def idx(array, magic=None):
    header = struct.pack(f">{1 + array.ndim}I", magic or 0x800 + array.ndim, *array.shape)
    return header + array.tobytes()


def idx_folder(folder, dash="-", pack=False, test=True, **wrong):
    """Write a folder of IDX files; `wrong` replaces the bytes of some."""
    folder.mkdir(exist_ok=True)
    files = {"train_images": idx(IMAGES), "train_labels": idx(LABELS)}
    if test:
        files |= {"t10k_images": idx(IMAGES[:2]), "t10k_labels": idx(LABELS[:2])}
    for name, content in (files | wrong).items():
        if content is not None:
            stem = f"{name.replace('_', '-')}{dash}idx{3 if 'images' in name else 1}-ubyte"
            packed = gzip.compress(content, mtime=0) if pack else content
            (folder / (stem + ".gz" * pack)).write_bytes(packed)
    return folder


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def csv_file(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def hdf5_file(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def run(source, out, **options):
    return import_data(source, out, dataclasses.replace(_DEFAULT_OPTIONS, **options))


def rows_of(path, split="train", dtype=np.float64):
    """Return x, y and labels of a split as backprop would get them."""
    data = DataSet(path)
    part = data.split(split)
    loader = BatchLoader(part, data.scaling, data.n_classes, len(part), np.dtype(dtype))
    return tuple(array.copy() for array in loader.load(np.arange(len(part))))


def check_refused(source, out, kind, message, **options):
    """The import raises an error of `kind`, in one line, and leaves no file."""
    before = set(out.parent.iterdir())
    with pytest.raises(kind, match=message) as caught:
        run(source, out, **options)
    assert set(out.parent.iterdir()) == before
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "data.h5"


# Valid sources


@pytest.mark.parametrize("dash", ["-", "."])
@pytest.mark.parametrize("pack", [False, True])
def test_idx_folder(tmp_path, out, dash, pack):
    """IDX files in all spellings give bytes, scaled to 0 … 1."""
    about = run(idx_folder(tmp_path / "mnist", dash, pack), out)
    x, y, labels = rows_of(out)
    np.testing.assert_allclose(x, IMAGES.reshape(5, 6) / 255, rtol=1e-15)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(y, np.eye(3)[LABELS])
    np.testing.assert_array_equal(rows_of(out, "test")[2], LABELS[:2])
    assert about["classes"] == ["0", "1", "2"]
    assert about["shape"] == [3, 2]
    assert about["scaling"] == "bytes"
    assert about["split"] == "as in the source"
    assert about["rows"] == {"train": 5, "test": 2}
    data = DataSet(out)
    assert data.about == {key: value for key, value in about.items() if key != "rows"}
    assert data.splits["train"].x_dtype == np.uint8
    with h5py.File(out) as file:
        assert file["train/x"].shape == (5, 3, 2)
        assert file["train/y"].dtype == np.int64


def test_about_identifies_the_source(tmp_path, out):
    """`source` has the names of the files and their SHA-256."""
    folder = idx_folder(tmp_path / "mnist", test=False)
    about = run(folder, out)
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    content = b"".join((folder / name).read_bytes() for name in names)
    assert about["source"] == {"files": names, "sha256": hashlib.sha256(content).hexdigest()}


def test_digest_covers_names_types_shapes_and_bytes(tmp_path, out):
    """The digest is what `distbp.data` documents, computed here from the file itself."""
    digest = hashlib.sha256()
    run(idx_folder(tmp_path / "mnist"), out)
    with h5py.File(out) as file:
        for name in ("train/x", "train/y", "test/x", "test/y"):
            array = file[name][...]
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    assert DataSet(out).about["digest"] == digest.hexdigest()


@pytest.mark.skipif(not FASHION.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist(out):
    """70,000 images, the first of which is compared."""
    about = run(FASHION, out)
    assert about["rows"] == {"train": 60000, "test": 10000}
    assert len(about["classes"]) == 10
    with gzip.open(FASHION / "train-images-idx3-ubyte.gz") as file:
        first = np.frombuffer(file.read(16 + 784)[16:], np.uint8)
    split = DataSet(out).split("train")
    np.testing.assert_array_equal(split.x[0], first)


@pytest.mark.parametrize("names", ["x_train y_train", "x y", "X y", "X_train Y_train"])
def test_npz_names(tmp_path, out, names):
    """The names of Keras and the short ones, in lower or upper case."""
    x, y = names.split()
    run(npz(tmp_path / "d.npz", **{x: IMAGES, y: LABELS[:, None]}), out)
    np.testing.assert_array_equal(rows_of(out)[2], LABELS)


@pytest.mark.parametrize("end", ["val", "valid", "validation"])
def test_npz_splits(tmp_path, out, end):
    """Test and validation sets keep their rows."""
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[1:], "y_test": LABELS[1:]}
    arrays |= {f"x_{end}": IMAGES[3:], f"y_{end}": LABELS[3:]}
    about = run(npz(tmp_path / "d.npz", **arrays), out)
    assert about["rows"] == {"train": 5, "validation": 2, "test": 4}
    np.testing.assert_array_equal(rows_of(out, "validation")[2], LABELS[3:])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i2", ">u4", "u1", "i1"])
def test_types_are_kept(tmp_path, out, dtype, order):
    """x keeps its type and byte order, whatever its memory order."""
    x = np.asarray(np.arange(15).reshape(5, 3) % 7, dtype, order=order)
    run(npz(tmp_path / "d.npz", x=x, y=LABELS), out, scaling="none")
    assert DataSet(out).splits["train"].x_dtype == np.dtype(dtype)
    np.testing.assert_array_equal(rows_of(out)[0], x)


def test_booleans(tmp_path, out):
    """They are 0 and 1, of a type that is not scaled like bytes."""
    about = run(npz(tmp_path / "d.npz", x=IMAGES > 3, y=LABELS), out)
    assert about["scaling"] == "standardize"
    assert DataSet(out).splits["train"].x_dtype == np.int8


def test_labels_need_not_start_at_0(tmp_path, out):
    """The classes are the labels that occur in train, sorted (those of EMNIST start at 1)."""
    about = run(npz(tmp_path / "d.npz", x=IMAGES, y=np.array([9, 1, 4, 4, 1])), out)
    assert about["classes"] == ["1", "4", "9"]
    np.testing.assert_array_equal(rows_of(out)[2], [2, 0, 1, 1, 0])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "ü", "a", "b"], ["a", "b", "ü"]),
        (np.strings.encode(["b", "a", "ü", "a", "b"], "utf-8"), ["a", "b", "ü"]),
        (np.array([1, 0, 1, 1, 0], bool), ["0", "1"]),
        (np.array([1.0, 0, 2, 2, 0]), ["0", "1", "2"]),
    ],
)
def test_kinds_of_labels(tmp_path, out, labels, classes):
    """Text, booleans and integers of any type are classes."""
    assert run(npz(tmp_path / "d.npz", x=IMAGES, y=labels), out)["classes"] == classes


def test_one_feature(tmp_path, out):
    """x of single numbers has one feature per row."""
    about = run(npz(tmp_path / "d.npz", x=np.arange(5.0), y=LABELS), out, scaling="none")
    assert about["shape"] == [1]
    np.testing.assert_array_equal(rows_of(out)[0], np.arange(5.0)[:, None])


def test_csv_with_names(tmp_path, out):
    """The header is detected, the last column is the label, classes are sorted."""
    about = run(csv_file(tmp_path / "iris.csv", IRIS), out)
    assert about["columns"] == ["petal"]
    assert about["classes"] == ["setosa", "virginica"]
    x, _, labels = rows_of(out)
    deviation = np.sqrt(2 / 3)
    np.testing.assert_allclose(x[:, 0], [-1 / deviation, 0, 1 / deviation], atol=1e-15)
    assert x.shape == (3, 1)  # a constant column is left out
    np.testing.assert_array_equal(labels, [0, 1, 0])


@pytest.mark.parametrize(
    ("label", "y"), [("0", [1, 2]), ("-3", [1, 2]), ("c", [30, 40]), ("2", [30, 40])]
)
def test_csv_label_column(tmp_path, out, label, y):
    """A label column is given by its name, or by its number from either end."""
    source = csv_file(tmp_path / "d.csv", "a,b,c\n1,5,30\n2,6,40\n")
    about = run(source, out, label=label)
    assert about["classes"] == [str(value) for value in y]


def test_csv_several_labels(tmp_path, out):
    """Several label columns are a regression with several outputs, in the given order."""
    source = csv_file(tmp_path / "d.csv", "a,b,c\n1,5,30\n2,6,40\n")
    about = run(source, out, label="c,a")
    assert about["task"] == "regression"
    assert about["columns"] == ["b"]
    np.testing.assert_array_equal(rows_of(out)[1], [[30, 1], [40, 2]])


@pytest.mark.parametrize(
    ("labels", "task", "found", "classes"),
    [
        ("10 9 10", None, "classification", ["9", "10"]),
        ("1.0 0.0 1.0", None, "classification", ["0", "1"]),
        ("1.5 2 3", None, "regression", []),
        ("1 2 3", "regression", "regression", []),
        ("1.5 2.5 1.5", "classification", "classification", ["1.5", "2.5"]),
        ("-1 1 -1", "classification", "classification", ["-1", "1"]),
        ("-1 1 -1", "regression", "regression", []),
        ("1.5 x 1.5", "classification", "classification", ["1.5", "x"]),
        ("1 x 1", None, "classification", ["1", "x"]),
        ("1_0 20 1_0", None, "classification", ["1_0", "20"]),
    ],
)
def test_csv_task(tmp_path, out, labels, task, found, classes):
    """Integers and text are classes, fractions a regression; --task overrides it."""
    lines = "".join(f"{i},{label}\n" for i, label in enumerate(labels.split()))
    about = run(csv_file(tmp_path / "d.csv", lines), out, task=task)
    assert (about["task"], about["classes"]) == (found, classes)


@pytest.mark.parametrize(
    ("text", "header", "rows"),
    [
        ("1,a\n2,b\n", None, 2),
        ("1,a\n2,b\n3,a\n", True, 2),
        ("\ufeffx,y\r\n1,a\r\n\r\n2,b", None, 2),
        ('"x", "y"\n"1", "a"\n 2 , "b"\n', None, 2),
        ("1,0\n2,1\n", False, 2),
    ],
)
def test_csv_spellings(tmp_path, out, text, header, rows):
    """Headers, byte-order marks, Windows line ends, quotes, spaces and empty lines."""
    about = run(csv_file(tmp_path / "d.csv", text), out, header=header)
    assert about["rows"] == {"train": rows}
    assert len(about["classes"]) == 2
    assert about["columns"] == (["1"] if header else ["x"] if "x" in text else ["0"])


def test_csv_of_bytes(tmp_path, out):
    """With --scaling bytes, integers from 0 to 255 take one byte each."""
    source = csv_file(tmp_path / "d.csv", "0,255,a\n7,8,b\n")
    run(source, out, scaling="bytes")
    assert DataSet(out).splits["train"].x_dtype == np.uint8
    np.testing.assert_allclose(rows_of(out)[0] * 255, [[0, 255], [7, 8]])
    run(csv_file(source, "0,255.5,a\n7,8,b\n"), out, scaling="bytes")
    assert DataSet(out).splits["train"].x_dtype == np.float64


@pytest.mark.parametrize("storage", [{}, {"chunks": (3, 2, 1), "compression": "gzip"}])
def test_hdf5_by_names(tmp_path, out, storage, monkeypatch):
    """Datasets of any name and storage, copied in blocks that do not match their chunks."""
    monkeypatch.setattr(dataset_writer, "_BLOCK_NUMBERS", 2 * 6)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("a/images", data=IMAGES, **storage)
        file["labels"], file["tx"], file["ty"] = LABELS, IMAGES[:2], LABELS[:2]
    names = {"x": "a/images", "y": "labels", "x_test": "tx", "y_test": "ty"}
    about = run(tmp_path / "s.h5", out, **names, x_validation="tx", y_validation="ty")
    assert about["rows"] == {"train": 5, "validation": 2, "test": 2}
    np.testing.assert_allclose(rows_of(out)[0] * 255, IMAGES.reshape(5, 6))
    np.testing.assert_array_equal(rows_of(out)[2], LABELS)


def test_equal_data_from_different_formats(tmp_path, out):
    """IDX, .npz and HDF5 of the same numbers have the same digest."""
    sources = [
        run(idx_folder(tmp_path / "mnist", test=False), out),
        run(npz(tmp_path / "d.npz", x=IMAGES, y=LABELS), out),
        run(hdf5_file(tmp_path / "d.h5", x=IMAGES, y=LABELS), out, x="x", y="y"),
    ]
    assert len({about["digest"] for about in sources}) == 1


def test_equal_sources_give_equal_files(tmp_path, out):
    """The same import a second later gives the same file, byte for byte."""
    x = np.random.default_rng(0).normal(size=(50, 4))
    source = npz(tmp_path / "d.npz", x=x, y=np.arange(50) % 3)
    run(source, out, test_fraction=0.3)
    first = out.read_bytes()
    time.sleep(1.1)  # a time stamp in the file would differ
    run(source, out, test_fraction=0.3)
    assert out.read_bytes() == first


def test_the_digest_covers_every_change(tmp_path, out):
    """Another number, label, type or shape gives another digest."""
    changed = IMAGES.copy()
    changed[4, 2, 1] += 1
    variants = [(IMAGES, LABELS), (changed, LABELS), (IMAGES, np.roll(LABELS, 1))]
    variants += [(IMAGES.astype(np.int64), LABELS), (IMAGES.reshape(5, 6), LABELS)]
    found = {run(npz(tmp_path / "d.npz", x=x, y=y), out)["digest"] for x, y in variants}
    assert len(found) == len(variants)


def test_older_output_is_replaced(tmp_path, out):
    """An older file is unchanged if the import fails, and replaced if it succeeds."""
    run(csv_file(tmp_path / "d.csv", "1,a\n2,b\n3,a\n"), out)
    old = out.read_bytes()
    check_refused(csv_file(tmp_path / "d.csv", "1,a\nx,b\n3,a\n"), out, DataError, "line 2")
    assert out.read_bytes() == old
    run(csv_file(tmp_path / "d.csv", "1,a\n2,b\n"), out)
    assert list(out.parent.iterdir()) == [out]
    assert len(DataSet(out).split("train")) == 2


def test_a_model_is_not_overwritten(tmp_path, out):
    """An output of distbp of another kind may have taken days."""
    write_checkpoint(out, models.untrained())
    before = out.read_bytes()
    message = "exists already, and it is a distbp-checkpoint, not a distbp-data"
    check_refused(csv_file(tmp_path / "d.csv", IRIS), out, ConfigError, message)
    assert out.read_bytes() == before


def test_foreign_files_are_not_overwritten(tmp_path, out):
    """A second CSV file in the place of the output is a mistake that must not destroy it."""
    source, other = (csv_file(tmp_path / name, IRIS) for name in ("train.csv", "test.csv"))
    check_refused(source, other, ConfigError, "exists already, and nothing in it says that distbp")
    assert other.read_text() == IRIS
    out.symlink_to(tmp_path / "nothing")
    check_refused(source, out, ConfigError, "exists already")


def test_headers_written_by_pandas(tmp_path, out):
    """Columns without names are called 0, 1, 2 …: numbers, but not a row."""
    lines = "1.5,2,3,cat\n2.5,2,4,dog\n"
    for head in ("0,1,2,label\n", "0,1,2,3\n"):
        about = run(csv_file(tmp_path / "d.csv", head + lines), out)
        assert (about["rows"], about["classes"]) == ({"train": 2}, ["cat", "dog"])
    about = run(csv_file(tmp_path / "d.csv", "0,1,2,cat\n" + lines), out, header=False)
    assert about["rows"] == {"train": 3}


def test_one_hot_labels_are_classes(tmp_path, out):
    """As Keras encodes them; --task regression overrides it."""
    source = npz(tmp_path / "d.npz", x=np.eye(4), y=np.eye(3)[[2, 0, 1, 2]])
    about = run(source, out)
    assert (about["task"], about["classes"]) == ("classification", ["0", "1", "2"])
    np.testing.assert_array_equal(DataSet(out).split("train").targets()[:, 0], [2, 0, 1, 2])
    assert run(source, out, task="classification")["classes"] == ["0", "1", "2"]
    assert run(source, out, task="regression")["task"] == "regression"
    two = npz(tmp_path / "d.npz", x=np.eye(4), y=np.eye(4)[:, :3])  # a row without a 1
    assert run(two, out)["task"] == "regression"


def test_multilabel(tmp_path, out):
    """Columns of 0 and 1, named if they have names; one-hot rows are no exception."""
    y = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0.0], [1, 1, 1]])
    about = run(npz(tmp_path / "d.npz", x=np.eye(4), y=y), out, task="multilabel")
    assert (about["task"], about["classes"]) == ("multilabel", ["0", "1", "2"])
    data = DataSet(out)
    assert (data.n_out, data.labels_per_row, data.n_classes) == (3, 3, 0)
    np.testing.assert_array_equal(rows_of(out)[1], y)
    one_hot = npz(tmp_path / "d.npz", x=np.eye(4), y=np.eye(4)[:, :2] == 1, x_test=np.eye(4),
                  y_test=np.eye(4)[:, 2:])  # fmt: skip
    assert run(one_hot, out, task="multilabel")["classes"] == ["0", "1"]
    csv = csv_file(tmp_path / "d.csv", "a,tall,old\n1,0,1\n2,1,1\n3,1,0\n")
    about = run(csv, out, task="multilabel", label="old,tall", test_fraction=0.4)
    assert about["classes"] == ["old", "tall"]
    assert about["split"] == "40 % of the rows, seed 0"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0, 1], [1, 2], [0, 0]], "y, row 1, column 1: expected 0 or 1 for multilabel, found 2"),
        ([[0, 1], [1, 0.5], [0, 0]], "found 0.5. Correct it, or use another --task"),
        (["a", "b", "a"], "expected 1 numbers per row"),
    ],
)
def test_labels_that_are_no_multilabel(tmp_path, out, y, message):
    """Other numbers and text are refused."""
    source = npz(tmp_path / "d.npz", x=np.eye(3), y=np.array(y))
    check_refused(source, out, DataError, message, task="multilabel")


# Scaling


def targets_of(path, dtype=np.float32):
    """Return the targets of the training rows as backprop gets them."""
    data = DataSet(path)
    part = data.split("train")
    loader = BatchLoader(part, data.scaling, 0, len(part), np.dtype(dtype), data.target)
    return loader.load(np.arange(len(part)))[1]


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("wanted", ["auto", "standardize"])
def test_targets_are_standardized(tmp_path, out, wanted, dtype, monkeypatch):
    """By mean and deviation of the training rows, which are stored; y is stored as it is."""
    monkeypatch.setattr(dataset_writer, "_BLOCK_NUMBERS", 7)
    random = np.random.default_rng(4)
    y = (random.normal(size=(40, 2)) * [50_000, 3] + [200_000, -70]).astype(dtype)
    source = npz(tmp_path / "d.npz", x=np.eye(40), y=y, x_test=np.eye(40)[:2], y_test=y[:2] * 9)
    about = run(source, out, task="regression", target_scaling=wanted)
    assert about["target_scaling"] == "standardize"
    data = DataSet(out)
    np.testing.assert_array_equal(data.split("train").targets(), y)
    np.testing.assert_allclose(data.target.shift, y.mean(axis=0, dtype="f8"), rtol=1e-12)
    np.testing.assert_allclose(data.target.units, y.std(axis=0, dtype="f8"), rtol=1e-9)
    scaled = targets_of(out)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-5)
    back = data.target.to_user_units(targets_of(out, np.float64))
    np.testing.assert_allclose(back, y, rtol=1e-12)


def test_targets_that_float32_cannot_represent(tmp_path, out):
    """Seconds since 1970 are standardized before they are rounded."""
    y = 1.7e9 + np.arange(50) / 8
    run(npz(tmp_path / "d.npz", x=np.eye(50), y=y), out)
    np.testing.assert_allclose(targets_of(out)[:, 0], (y - y.mean()) / y.std(), atol=1e-5)


def test_a_constant_target_keeps_its_unit(tmp_path, out):
    """Nothing is divided by 0."""
    y = np.column_stack([np.full(6, 0.1), np.arange(6)])
    run(npz(tmp_path / "d.npz", x=np.eye(6), y=y), out)
    np.testing.assert_array_equal(DataSet(out).target.scale[0], 1.0)
    np.testing.assert_array_equal(targets_of(out)[:, 0], 0.0)


def test_target_scaling_none(tmp_path, out):
    """The data set is one of version 1, as older code reads it; its digest is another one."""
    source = npz(tmp_path / "d.npz", x=np.eye(3), y=[0.5, 1.5, 1.0])
    digests = [run(source, out)["digest"]]
    with h5py.File(out) as file:
        assert file.attrs["version"] == 2
    about = run(source, out, target_scaling="none")
    assert "target_scaling" not in about
    with h5py.File(out) as file:
        assert file.attrs["version"] == 1
        assert set(file) == {"about", "scaling", "train"}
    assert DataSet(out).target is None
    assert about["digest"] not in digests


def test_target_scaling_that_is_refused(tmp_path, out):
    """Of classes, by another name, and of numbers whose squares overflow."""
    classes = npz(tmp_path / "c.npz", x=np.eye(3), y=[0, 1, 0])
    for wanted in ("none", "standardize"):
        check_refused(classes, out, ConfigError, "is for a regression", target_scaling=wanted)
    numbers = npz(tmp_path / "n.npz", x=np.eye(3), y=[0.5, 1e160, 2e160])
    check_refused(numbers, out, DataError, "too large to standardize. Use other units, or")
    check_refused(numbers, out, ConfigError, "expected one of auto, st", target_scaling="log")
    assert run(numbers, out, target_scaling="none")["task"] == "regression"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1.0, -1e9])
def test_standardize(tmp_path, out, scale, offset, monkeypatch):
    """Mean 0 and variance 1, computed in blocks, also if the mean is far from 0."""
    monkeypatch.setattr(dataset_writer, "_BLOCK_NUMBERS", 7 * 3)
    x = offset + scale * np.random.default_rng(1).normal(size=(100, 3))
    run(npz(tmp_path / "d.npz", x=x, y=np.arange(100) % 2), out)
    scaling = DataSet(out).scaling
    np.testing.assert_allclose(scaling.shift, x.mean(axis=0), rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(scaling.scale, 1 / (x - x[0]).std(axis=0), rtol=1e-9)


def test_only_train_determines_the_scaling(tmp_path, out):
    """Rows set aside for testing do not contribute."""
    x = np.random.default_rng(2).normal(size=(40, 2))
    run(npz(tmp_path / "d.npz", x=x, y=np.arange(40) % 2), out, test_fraction=0.25)
    scaling = DataSet(out).scaling
    with h5py.File(out) as file:
        np.testing.assert_allclose(scaling.shift, file["train/x"][...].mean(axis=0))


@pytest.mark.parametrize("value", [0.1, -1e15, 3, 1e-320])
def test_constant_feature_keeps_its_unit(value):
    """A feature without variance gets a scale of exactly 1, however its mean is rounded."""
    moments = RunningMoments(1)
    for rows in (3, 1, 1000):
        moments.add(np.full((rows, 1), value))
    scaling = moments.scaling(Table(np.empty((1, 1)), "x"))
    assert scaling.scale == 1
    assert scaling.shift == value


@pytest.mark.parametrize(
    ("scaling", "dtype", "found", "scale"),
    [
        ("auto", np.uint8, "bytes", 1 / 255),
        ("none", np.uint8, "none", 1.0),
        ("bytes", np.float32, "bytes", 1 / 255),
    ],
)
def test_scalings_that_are_one_number(tmp_path, out, scaling, dtype, found, scale):
    """Bytes are divided by 255; --scaling overrides it."""
    about = run(npz(tmp_path / "d.npz", x=IMAGES.astype(dtype), y=LABELS), out, scaling=scaling)
    assert about["scaling"] == found
    assert DataSet(out).about["scaling"] == found
    assert DataSet(out).scaling.shift == [0.0]
    assert DataSet(out).scaling.scale == [scale]


def test_too_large_to_standardize(tmp_path, out):
    """Numbers whose squares overflow are refused; the message names the column."""
    source = csv_file(tmp_path / "d.csv", "a,b,y\n1,1e300,0\n2,-1e300,1\n")
    check_refused(source, out, DataError, "column 'b': .*too large to standardize")
    run(source, out, scaling="none")


# Splitting off a test set


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
)
def test_test_rows_are_stratified(counts, fraction, seed):
    """Each class contributes its fraction, to within a row, and keeps one for training."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    keep = choose_rows(y, True, fraction, seed)
    for label, count in enumerate(counts):
        taken = int(keep[y == label].sum())
        assert taken <= count - 1
        assert abs(taken - fraction * count) < 1 or taken == count - 1


def test_test_rows_are_reproducible():
    """A seed gives the same rows with every version of NumPy and distbp."""
    keep = choose_rows(np.arange(20) % 2, True, 0.3, 7)
    assert keep.sum() == 6
    assert np.flatnonzero(keep).tolist() == [0, 1, 3, 9, 10, 14]
    assert choose_rows(np.arange(100) % 2, True, 0.29, 0).sum() == 29


def test_test_fraction_partitions_the_rows(tmp_path, out):
    """Every row is in one of the two sets, in the order of the source."""
    x = np.arange(50.0)
    source = npz(tmp_path / "d.npz", x=x, y=np.arange(50) % 5)
    about = run(source, out, test_fraction=0.2, scaling="none")
    assert about["split"] == "20 % of the rows, stratified, seed 0"
    train, test = rows_of(out)[0][:, 0], rows_of(out, "test")[0][:, 0]
    assert len(test) == 10
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    np.testing.assert_array_equal(np.sort(np.append(train, test)), x)
    np.testing.assert_array_equal(rows_of(out, "test")[2], test % 5)
    other = run(source, out, test_fraction=0.2, seed=1)
    assert other["digest"] != about["digest"]
    assert other["split"].endswith("seed 1")


def test_test_fraction_of_a_regression(tmp_path, out):
    """It has no strata; the description does not claim any."""
    source = npz(tmp_path / "d.npz", x=np.arange(8.0), y=np.arange(8) + 0.5)
    about = run(source, out, test_fraction=0.25)
    assert about["rows"] == {"train": 6, "test": 2}
    assert about["split"] == "25 % of the rows, seed 0"


# Progress


def sources(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 4))
    text = "".join(
        ",".join(map(str, row)) + ",a\n" + "1,2,3,4,b\n" * (i == 9) for i, row in enumerate(x)
    )
    y = np.arange(300) % 2
    return [
        (idx_folder(tmp_path / "mnist", pack=True), {}),
        (npz(tmp_path / "d.npz", x=x, y=y), {"test_fraction": 0.5}),
        (csv_file(tmp_path / "d.csv", text), {}),
        (hdf5_file(tmp_path / "d.h5", x=x, y=y), {"x": "x", "y": "y"}),
    ]


def test_progress_grows_to_its_total(tmp_path, out, monkeypatch):
    """Progress never decreases, its total is constant, and it ends complete."""
    monkeypatch.setattr(dataset_writer, "_BLOCK_NUMBERS", 100)
    for source, options in sources(tmp_path):
        calls = []
        import_data(
            source,
            out,
            dataclasses.replace(_DEFAULT_OPTIONS, **options),
            lambda done, total, calls=calls: calls.append((done, total)),
        )
        done = [call[0] for call in calls]
        assert done == sorted(done)
        assert len(done) > 5
        assert calls[-1][0] == calls[-1][1]
        assert len({total for _, total in calls}) == 1


# Refusals: options


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("idx", {"label": "3"}, "`--label` does not apply to a folder of IDX files"),
        ("idx", {"task": "regression"}, "`--task` does not apply"),
        ("idx", {"x_test": "a"}, "`--x-test` does not apply"),
        ("npz", {"header": True}, "`--header` does not apply to an .npz file"),
        ("npz", {"header": False}, "`--no-header` does not apply"),
        ("csv", {"x": "a"}, "`--x` does not apply to a table"),
        ("hdf5", {"label": "a"}, "`--label` does not apply to an HDF5 file"),
        ("npz", {"scaling": "max"}, "`--scaling max`: expected one of auto, bytes"),
        ("npz", {"task": "clustering"}, "`--task clustering`"),
        ("npz", {"test_fraction": 0.0}, "`--test-fraction 0.0`: expected a number between"),
        ("npz", {"test_fraction": 1.0}, "between 0 and 1"),
        ("npz", {"test_fraction": float("nan")}, "between 0 and 1"),
        ("npz", {"seed": 1}, "`--seed` is for `--test-fraction`"),
        ("npz", {"seed": -1, "test_fraction": 0.5}, "`--seed -1`"),
        ("npz", {"test_fraction": 0.1}, "is no row"),
        ("idx", {"test_fraction": 0.5}, "has a test set already"),
        ("hdf5", {}, "`--x` is missing: .* has x .*, y"),
        ("hdf5", {"x": "x"}, "`--y` is missing"),
        ("hdf5", {"x": "x", "y": "y", "x_test": "x"}, "`--y-test` is missing"),
        ("hdf5", {"x": "x", "y": "y", "y_validation": "y"}, "`--x-validation` is missing"),
        ("csv", {"label": "b,1"}, "names a column twice"),
        ("csv", {"label": "c"}, "no such column. Name one of a, b"),
        ("csv", {"label": "2"}, "no such column"),
        ("csv", {"label": "-3"}, "no such column"),
        ("csv", {"label": "a", "header": False}, "no such column. Name one of 0, 1"),
        ("csv3", {"label": "0,1", "task": "classification"}, "2 labels per row"),
    ],
)
def test_invalid_options(tmp_path, out, kind, options, message):
    """An option that does not apply, or contradicts another, is refused by name."""
    make = {
        "idx": lambda: idx_folder(tmp_path / "mnist"),
        "npz": lambda: npz(tmp_path / "d.npz", x=IMAGES, y=LABELS),
        "csv": lambda: csv_file(tmp_path / "d.csv", "a,b\n1,0\n2,1\n"),
        "csv3": lambda: csv_file(tmp_path / "d.csv", "a,a,b\n1,0,1\n2,1,5\n"),
        "hdf5": lambda: hdf5_file(tmp_path / "d.h5", x=IMAGES, y=LABELS),
    }
    check_refused(make[kind](), out, ConfigError, message, **options)


# Refusals: paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", "none.csv cannot be read: No such file"),
        ("train-images-idx3-ubyte", "a folder of IDX files. Rename"),
        ("d.xlsx", "is a spreadsheet. Save the sheet as .csv"),
        ("d.dat", "expected a name that ends in .npz, .csv, .h5, .hdf5"),
        ("x" * 300 + ".csv", "File name too long"),
        ("fifo.csv", "neither a file nor a folder"),
    ],
)
def test_invalid_source_paths(tmp_path, out, name, message):
    """A missing file, an unknown suffix, and special files."""
    for real in ("train-images-idx3-ubyte", "d.dat", "d.xlsx"):
        (tmp_path / real).write_text("1,2\n")
    os.mkfifo(tmp_path / "fifo.csv")
    check_refused(tmp_path / name, out, DataError, message)


@pytest.fixture
def unprivileged():
    """Drop privileges if the tests run as root, who may read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        # Python itself may be out of reach then, and remembers a codec that it did not find.
        codecs.lookup("utf-8-sig")
        os.seteuid(65534)
    yield
    if is_root:
        os.seteuid(0)


def test_source_without_permission(unprivileged):
    """The reason is given, for a file and for a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [csv_file(folder / "d.csv", IRIS), hdf5_file(folder / "d.h5", x=IMAGES, y=LABELS)]
        sources += [npz(folder / "d.npz", x=IMAGES, y=LABELS), idx_folder(folder / "mnist")]
        for source in sources:
            source.chmod(0)
            options = {"x": "x", "y": "y"} if source.suffix == ".h5" else {}
            with pytest.raises(DataError, match="cannot be read: Permission denied"):
                run(source, folder / "out.h5", **options)
            source.chmod(0o700)
        folder.chmod(0o500)
        with pytest.raises(DataError, match=r"out\.h5 cannot be written: Permission denied"):
            run(sources[0], folder / "out.h5")
        folder.chmod(0o700)
        assert not list(folder.glob("*out*"))


def test_invalid_output_paths(tmp_path):
    """A missing folder, a folder, a file in place of a folder."""
    source = csv_file(tmp_path / "d.csv", IRIS)
    (tmp_path / "folder").mkdir()
    check_refused(source, tmp_path / "folder", DataError, "is a folder")
    for out in (tmp_path / "none" / "o.h5", source / "o.h5"):
        with pytest.raises(DataError, match="there is no folder"):
            run(source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "folder"]


def test_output_that_is_the_source(tmp_path):
    """A source is never overwritten, by whatever path it is given."""
    source = hdf5_file(tmp_path / "d.h5", x=IMAGES, y=LABELS)
    (tmp_path / "link.h5").symlink_to(source)
    for out in (source, tmp_path / "link.h5", tmp_path / "." / "d.h5"):
        check_refused(source, out, ConfigError, "is the source itself", x="x", y="y")
    folder = idx_folder(tmp_path / "mnist")
    out = folder / "t10k-labels-idx1-ubyte"
    check_refused(folder, out, ConfigError, "is the source itself")


def test_full_disk(tmp_path, out):
    """A failed write (here at a size limit) gives one sentence, and leaves no file."""
    source = npz(tmp_path / "d.npz", x=np.zeros((4000, 100)) + 0.5, y=np.arange(4000) % 2)
    code = (
        "import resource, sys\n"
        "from distbp.data.importing import import_data\n"
        "from distbp.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: import_data(sys.argv[1], sys.argv[2])\n"
        "except DataError as error: print(error); sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3, done
    assert "cannot be written: " in done.stdout
    assert done.stderr == ""
    assert list(out.parent.iterdir()) == []


def test_name_too_long_for_a_temporary_file(tmp_path):
    """The name itself is short enough, but the temporary name is longer."""
    source = csv_file(tmp_path / "d.csv", IRIS)
    check_refused(source, tmp_path / ("o" * 250 + ".h5"), DataError, "File name too long")


@pytest.mark.parametrize("call", [1, 2, 5])
def test_interrupted(tmp_path, out, call):
    """Ctrl-C at any time leaves the old file and no others."""
    source = npz(tmp_path / "d.npz", x=IMAGES, y=LABELS, x_test=IMAGES, y_test=LABELS)
    import_data(csv_file(tmp_path / "d.csv", IRIS), out)
    old = out.read_bytes()
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if len(calls) == call:
            raise KeyboardInterrupt

    try:
        import_data(source, out, progress=interrupt)
    except KeyboardInterrupt:
        assert out.read_bytes() == old
    assert len(calls) >= min(call, 3)
    assert list(out.parent.iterdir()) == [out]


# Refusals: IDX


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_images": None}, "no train-images-idx3-ubyte"),
        ({"train_labels": None}, "no train-labels-idx1-ubyte"),
        ({"t10k_labels": None}, "no t10k-labels-idx1-ubyte"),
        ({"t10k_images": None}, "no t10k-images-idx3-ubyte"),
        ({"train_images": b"\0\0\x08"}, "ends inside its header"),
        ({"train_images": b""}, "ends inside its header"),
        ({"train_images": idx(IMAGES, 2049)}, r"magic number 2051 \(images.*found 2049"),
        ({"train_labels": idx(LABELS, 2051)}, r"magic number 2049 \(labels.*found 2051"),
        (
            {"train_images": idx(IMAGES)[:-1]},
            "expected 30 bytes by its header .* there are only 29",
        ),
        ({"train_images": idx(IMAGES) + b"x"}, "expected 30 bytes by its header .* there are more"),
        ({"train_images": struct.pack(">4I", 2051, *[2**32 - 1] * 3)}, "there are only 0"),
        ({"train_labels": idx(LABELS[:4])}, "has 5 rows, but .*labels.* has 4"),
        ({"t10k_images": idx(IMAGES[:2, :2])}, r"rows of uint8 \(2, 2\), but .*\(3, 2\)"),
        ({"t10k_labels": idx(LABELS[:2] + 7)}, "row 0: the label 7 is not one of the 3 classes"),
        ({"train_images": idx(IMAGES[:0]), "train_labels": idx(LABELS[:0])}, "is empty"),
        ({"t10k_images": idx(IMAGES[:0]), "t10k_labels": idx(LABELS[:0])}, "is empty"),
        ({"train_labels": idx(LABELS * 0)}, "all labels are 0"),
    ],
)
@pytest.mark.parametrize("pack", [False, True])
def test_idx_refusals(tmp_path, out, wrong, message, pack):
    """IDX files that contradict their headers or one another."""
    check_refused(idx_folder(tmp_path / "m", pack=pack, **wrong), out, DataError, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed: packed[:-12], "train-images.*gz cannot be read: Compressed file ended"),
        (lambda packed: packed[:5], "cannot be read: Compressed file ended"),
        (lambda packed: gzip.decompress(packed), "Not a gzipped file"),
        (lambda packed: packed[:-8] + bytes(4) + packed[-4:], "CRC check failed"),
        (
            lambda packed: packed[:10] + b"\xff" + packed[11:],
            "cannot be read: .*invalid block type",
        ),
    ],
)
def test_damaged_gzip(tmp_path, out, change, message):
    """A truncated, plain or damaged .gz file is named."""
    folder = idx_folder(tmp_path / "m", pack=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    check_refused(folder, out, DataError, message)


# Refusals: .npz


def with_nan(row, column):
    x = IMAGES.reshape(5, 6).astype(np.float32)
    x[row, column] = np.nan
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"has the arrays \(none\); expected x_train"),
        ({"a": IMAGES}, "has the arrays a; expected x_train and y_train, or x and y"),
        ({"x": IMAGES}, "has 'x', but no 'y'. Add it"),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES}, "has 'x_test', but no 'y_test'"),
        ({"x": IMAGES, "y": LABELS, "y_test": LABELS}, "has 'y_test', but no 'x_test'"),
        ({"x": IMAGES, "y": LABELS[:4]}, "d.npz: x has 5 rows, but .*y has 4"),
        ({"x": IMAGES.astype(object), "y": LABELS}, "d.npz: x holds Python objects"),
        ({"x": IMAGES, "y": LABELS.astype(object)}, "d.npz: y holds Python objects"),
        ({"x": IMAGES[0].T, "y": LABELS[:3]}, r"x has the shape \(2, 3\), .* Save x\.T instead"),
        ({"x": IMAGES + 1j, "y": LABELS}, "x is of type complex"),
        ({"x": IMAGES.astype(np.longdouble), "y": LABELS}, "x is of type float128"),
        ({"x": IMAGES, "y": LABELS * 1j}, "y is of type complex"),
        ({"x": np.array(["a"] * 5), "y": LABELS}, "x is of type <U1"),
        ({"x": np.float64(3), "y": LABELS}, "x is empty"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "x is empty"),
        ({"x": IMAGES[:, :0], "y": LABELS}, "x is empty"),
        ({"x": IMAGES, "y": LABELS[:, None, None]}, r"rows of shape \(1, 1\)"),
        ({"x": IMAGES, "y": LABELS - 1.0}, "row 0: the label -1 is negative"),
        ({"x": IMAGES, "y": LABELS.astype(int) - 2}, "row 0: the label -2 is negative"),
        ({"x": IMAGES, "y": LABELS * 0 + 7}, "all labels are 7; expected at least two classes"),
        ({"x": IMAGES, "y": [["a", "b"]] * 5}, "has the text 'a'; expected a number"),
        ({"x": with_nan(3, 4), "y": LABELS}, "x, row 3, column 4: .*found nan"),
        ({"x": np.full((5, 1), -np.inf), "y": LABELS}, "x, row 0, column 0: .*found -inf"),
        ({"x": IMAGES, "y": [0.5, 1, 2, np.inf, 3]}, "y, row 3, column 0: .*found inf"),
        ({"x": IMAGES, "y": [b"\xff", b"a", b"a", b"a", b"a"]}, "y cannot be read"),
        (
            {"x": IMAGES, "y": LABELS, "x_test": IMAGES[:, :2], "y_test": LABELS},
            r"x_test has rows of uint8 \(2, 2\), but .*x of uint8 \(3, 2\)",
        ),
        (
            {"x": IMAGES, "y": LABELS, "x_test": IMAGES / 255, "y_test": LABELS},
            "x_test has rows of float64 .*, but .*uint8",
        ),
        (
            {"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": LABELS + 1},
            "y_test, row 1: the label 3 is not one of the 3 classes of train",
        ),
        (
            {"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": LABELS.astype(int) - 1},
            "y_test, row 0: the label -1 is not one",
        ),
        (
            {"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": ["a"] * 5},
            "y_test: expected one label per row, of the same kind",
        ),
        (
            {"x": IMAGES, "y": LABELS + 0.5, "x_test": IMAGES, "y_test": np.ones((5, 2))},
            "y_test: expected 1 numbers per row",
        ),
        (
            {"x": with_nan(0, 0) * 0 + 1, "y": LABELS, "x_test": with_nan(1, 2), "y_test": LABELS},
            "found nan",
        ),
    ],
)
def test_npz_refusals(tmp_path, out, arrays, message):
    """Arrays that are no valid data set."""
    check_refused(npz(tmp_path / "d.npz", **arrays), out, DataError, message)


def test_text_is_no_regression(tmp_path, out):
    """--task regression does not convert text to numbers."""
    source = npz(tmp_path / "d.npz", x=IMAGES, y=["a", "b", "a", "b", "a"])
    check_refused(source, out, DataError, "has the text 'a'; expected a number", task="regression")


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_truncated_npz(tmp_path, out, keep):
    """It is refused."""
    source = npz(tmp_path / "d.npz", x=IMAGES, y=LABELS)
    source.write_bytes(source.read_bytes()[:keep])
    check_refused(source, out, DataError, "d.npz is not an .npz file")


def test_flipped_bytes_in_npz(tmp_path, out):
    """A changed byte is detected or harmless; it never gives a traceback."""
    source = npz(tmp_path / "d.npz", x=IMAGES, y=LABELS)
    content = source.read_bytes()
    for place in range(0, len(content), 7):
        source.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            run(source, out)
        except DistbpError:
            assert not out.exists()
        out.unlink(missing_ok=True)


# Refusals: .csv


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "d.csv is empty"),
        ("\n\n", {}, "d.csv is empty"),
        ("a,b,c\n", {}, "d.csv is empty"),
        ("1\n2\n", {}, "no columns besides the labels"),
        ("1,2,a\n3,b\n", {}, "d.csv, line 2: expected 3 values, found 2"),
        ("a,b,c\n1,2,a\n\n3,4,b,\n", {}, "d.csv, line 4: expected 3 values, found 4"),
        ("1,2,a\n3,x,b\n", {}, "d.csv, line 2, column '1': 'x' is not a number"),
        ("p,q,r\n1,2,a\n3,,b\n", {}, "d.csv, line 3, column 'q': the value is missing"),
        ("p,q,r\n1,2,a\n3,1_000,b\n", {}, "line 3, column 'q': '1_000' is not a number"),
        ("1,2,a\n3,nan,b\n", {}, "d.csv, line 2, column '1': the value is missing"),
        ("p,q,r\n1,2,a\n\n3,1e999,b\n", {}, "line 4, column 'q': .*found inf"),
        ("r,p,q\na,1,2\n\nb,3,inf\n", {"label": "r"}, "line 4, column 'q': .*found inf"),
        ("p,q,r\n1,2,0.5\n3,4,inf\n", {}, "line 3, column 'r': .*found inf"),
        ("p,q,r\n1,2,0.5\n3,4,\n", {}, "line 3, column 'r': the label is missing"),
        ("p,q,r\n1,2,a\n3,4,NaN\n", {}, "line 3, column 'r': the label is missing"),
        ("p,r,s\n1,2,3\n4,5,\n", {"label": "r,s"}, "line 3, column 's': the label is missing"),
        ("p,r,s\n1,2,3\n4,a,6\n", {"label": "r,s"}, "line 3, column 'r': 'a' is not a number"),
        ("p,r\n1,0.5\n2,1.5\n3,l.5\n", {}, "line 4, column 'r': 'l.5' is not a number"),
        ("1,a\n2,b\n", {"task": "regression"}, "line 1, column '1': 'a' is not a number"),
        ("1,-1\n2,1\n", {}, "line 1: the label -1 is negative. Use --task"),
        ("1,a\n2,a\n", {}, "all labels are a"),
        ("1,2\n", {}, "all labels are 2"),
        (b"1,a\n2,\xff\n", {"encoding": "utf-8"}, "d.csv, line 2 is not utf-8 text"),
        ('1,a\n2,"b\n3,c\n', {}, "line 2: a quote is opened here and never closed"),
    ],
)
def test_csv_refusals(tmp_path, out, text, options, message):
    """Every error is located by its line, as an editor counts lines."""
    check_refused(csv_file(tmp_path / "d.csv", text), out, DataError, message, **options)


# Refusals: HDF5


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_not_hdf5(tmp_path, out, content):
    """A file that only has the suffix."""
    source = tmp_path / "s.h5"
    source.write_bytes(content)
    check_refused(source, out, DataError, "s.h5 cannot be read: ", x="x", y="y")


def test_truncated_hdf5(tmp_path, out):
    """The message says that it is truncated."""
    source = hdf5_file(tmp_path / "s.h5", x=IMAGES, y=LABELS)
    source.write_bytes(source.read_bytes()[:-10])
    check_refused(source, out, DataError, "truncated file", x="x", y="y")


def test_damaged_chunk(tmp_path, out):
    """If decoding fails in the middle of a copy, the message names the source, not OUT."""
    x = np.random.default_rng(0).integers(0, 99, (500, 10), np.uint8)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(100, 10), compression="gzip")
        file["y"] = np.arange(500) % 2
        offset = file["x"].id.get_chunk_info(3).byte_offset
    content = bytearray((tmp_path / "s.h5").read_bytes())
    content[offset : offset + 50] = bytes(50)
    (tmp_path / "s.h5").write_bytes(content)
    check_refused(tmp_path / "s.h5", out, DataError, "s.h5: x cannot be read", x="x", y="y")


def test_messages_without_python_names(tmp_path, out):
    """Messages to users contain no class names of NumPy."""
    source = npz(tmp_path / "d.npz", x=IMAGES, y=np.array(["b"] * 5))
    with pytest.raises(DataError) as caught:
        run(source, out)
    assert not re.search(r"np\.|numpy|<class", str(caught.value))
