"""HDF5 files as people have them: every kind of dataset, and what other programs have written."""

import logging

import h5py
import numpy as np
import pytest

from distbp.data import importing
from distbp.data.hdf5_source import read_hdf5
from distbp.data.labels import infer_task
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError

ROWS = np.arange(30.0).reshape(6, 5)
LABELS = np.array([2, 7, 2, 7, 9, 2])
NAMES = ["cat", "dog", "cat", "dog", "eel", "cat"]


def read(path, x="x", y="y", task=None, **options):
    """Return x, the names of the classes, and y as the data set stores it."""
    with read_hdf5(path, ImportOptions(x=x, y=y, **options), lambda _: None) as found:
        importing._check_rows(found)
        rows = found.splits["train"][0]
        inferred = infer_task(found, task)
        return rows.read(0, len(rows)), inferred.classes, inferred.y["train"]


def write(path, userblock_size=0, **datasets):
    with h5py.File(path, "w", userblock_size=userblock_size) as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def check_refused(path, message, error=DataError, **options):
    """The message is one line of sentences."""
    with pytest.raises(error, match=message) as caught:
        read(path, **options)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.h5"


# Features


@pytest.mark.parametrize("dtype", ["f2", ">f2", ">f4", ">f8", "i1", "<i2", ">u4", "u8", "f4"])
@pytest.mark.parametrize("storage", [{}, {"chunks": (2, 3), "compression": "lzf"}])
def test_numbers_of_any_type(path, dtype, storage):
    """They keep their type."""
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/in/groups", data=ROWS.astype(dtype), **storage)
        file["y"] = LABELS
    x, _, _ = read(path, "deep/in/groups")
    assert x.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x, ROWS)


@pytest.mark.parametrize("storage", [{}, {"chunks": (2, 3), "compression": "lzf"}])
def test_booleans(path, storage):
    """They are 0 and 1, of a type that `--scaling auto` does not take for bytes."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=ROWS % 3 == 0, **storage)
        file["y"] = LABELS > 5
    x, classes, y = read(path)
    assert (x.dtype, classes) == (np.int8, ["0", "1"])
    np.testing.assert_array_equal(x, ROWS % 3 == 0)
    np.testing.assert_array_equal(y, LABELS > 5)


def test_images_with_channels(path):
    """A row may have any shape."""
    images = np.arange(6 * 4 * 3 * 2, dtype=np.uint8).reshape(6, 4, 3, 2)
    x, _, _ = read(write(path, x=images, y=LABELS))
    np.testing.assert_array_equal(x, images)


def test_soft_links(path):
    """Absolute and relative ones, on the way and at the end."""
    with h5py.File(path, "w") as file:
        file["data/numbers"], file["y"] = ROWS, LABELS
        file["data/again"] = h5py.SoftLink("numbers")
        file["also"] = h5py.SoftLink("/data/./again")
        file["folder"] = h5py.SoftLink("data")
        file["data/circle"] = h5py.SoftLink("circle")
        file["a"], file["b"] = h5py.SoftLink("/b/x"), h5py.SoftLink("/a/x")
        file["nowhere"] = h5py.SoftLink("/data/none")
        file["other"] = h5py.ExternalLink("other.h5", "x")
        file["to_other"] = h5py.SoftLink("/other")
    for name in ("data/again", "also", "folder/again", "/folder/numbers", "folder/./numbers"):
        np.testing.assert_array_equal(read(path, name)[0], ROWS)
    for name in ("data/circle", "a", "b", "a/x"):
        check_refused(path, "more than 16 soft links", x=name)
    check_refused(
        path, "nowhere leads through soft links to data/none, which is missing", x="nowhere"
    )
    for name in ("other", "to_other"):
        check_refused(path, "is a link to another file: name the dataset", x=name)


def test_columns_as_examples(path):
    """x that is transposed against y is refused, or read with --transpose."""
    write(path, x=ROWS.T, y=LABELS)
    check_refused(path, r"x has the shape \(5, 6\), and there are 6 labels: .*--transpose")
    np.testing.assert_array_equal(read(path, transpose=True)[0], ROWS)
    images = np.arange(6 * 4 * 3).reshape(4, 3, 6)
    write(path, x=images, y=np.eye(2)[[0, 1, 0, 1, 0, 0]].T)
    x, classes, y = read(path, transpose=True)
    np.testing.assert_array_equal(x, np.moveaxis(images, -1, 0))
    assert (classes, y.tolist()) == (["0", "1"], [0, 1, 0, 1, 0, 0])


# Labels


@pytest.mark.parametrize("storage", [{}, {"chunks": (4,)}, {"chunks": (4,), "compression": "lzf"}])
def test_text(path, storage):
    """Of variable and of fixed length; in one column; its order in another split may differ."""
    with h5py.File(path, "w") as file:
        file["x"], file["tx"] = ROWS, ROWS[:2]
        file.create_dataset("variable", data=NAMES, **storage)
        file.create_dataset("fixed", data=np.array(NAMES, "S"), **storage)
        file["column"] = np.array(NAMES, object)[:, np.newaxis]
        file["characters"] = np.array(NAMES, "S").view("S1").reshape(6, 3)
        file["ty"] = ["eel", "dog"]
    for name in ("variable", "fixed", "column", "characters"):
        _, classes, y = read(path, y=name)
        assert (classes, y.tolist()) == (["cat", "dog", "eel"], [0, 1, 0, 1, 2, 0])
        options = ImportOptions(x="x", y=name, x_test="tx", y_test="ty")
        with read_hdf5(path, options, lambda _: None) as found:
            assert infer_task(found, None).y["test"].tolist() == [2, 1]


def test_text_that_is_no_label(path):
    """Empty, in another encoding, several columns, a single one, or in x."""
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = ROWS, LABELS
        file["some"] = file.create_dataset("part", (6,), h5py.string_dtype(), chunks=(2,))
        file["part"][:3] = "a"
        file["bytes"] = np.array([b"a\xe9"] * 6)
        file["latin"] = np.array([b"a\xe9"] * 6, h5py.string_dtype())
        file["columns"] = np.array([NAMES, NAMES], object).T
        file["single"] = "a"
        file["names"] = NAMES
    check_refused(path, "row 3 has no text", y="part")
    check_refused(path, "latin cannot be read: its text is not UTF-8: store", y="latin")
    check_refused(path, "bytes cannot be read: its text is not UTF-8: store", y="bytes")
    check_refused(path, "columns has the text 'cat'; expected a number", y="columns")
    check_refused(path, "it is a single text", y="single")
    check_refused(path, "names holds text, not plain numbers", x="names")
    check_refused(path, "names has the text 'cat'; expected a number", y="names", task="regression")


def enumeration(**members):
    return h5py.enum_dtype(members, "i2")


def test_enumerated_labels(path):
    """The names of the members are those of the classes, in the order of their values."""
    with h5py.File(path, "w") as file:
        file["x"] = ROWS
        kind = enumeration(low=-1, middle=3, high=300, unused=5)
        file.create_dataset("y", data=[3, -1, 3, 300, -1, 3], dtype=kind)
        kind = enumeration(high=0, low=1)
        file.create_dataset("ty", data=[0, 0, 1, 0, 1, 1], dtype=kind)
        file.create_dataset("bad", data=[3, -1, 8, 300, -1, 3], dtype=enumeration(a=3, b=-1, c=300))
        file.create_dataset("other", data=[3] * 6, dtype=enumeration(a=3))
    _, classes, y = read(path)
    assert (classes, y.tolist()) == (["low", "middle", "high"], [1, 0, 1, 2, 0, 1])
    options = ImportOptions(x="x", y="y", x_test="x", y_test="ty")
    with read_hdf5(path, options, lambda _: None) as found:
        assert infer_task(found, None).y["test"].tolist() == [2, 2, 0, 2, 0, 0]
    check_refused(path, "row 2 is 8, which its enumeration does not name", y="bad")
    check_refused(path, "the label a is not one of the 3 classes", x_test="x", y_test="other")


def test_numbers_as_labels(path):
    """They need not start at 0; one-hot rows are classes."""
    one_hot = np.eye(3)[[1, 0, 1, 2, 0, 1]]
    write(path, x=ROWS, y=LABELS, one_hot=one_hot.astype("u1"))
    assert read(path)[1:][0] == ["2", "7", "9"]
    assert read(path)[2].tolist() == [0, 1, 0, 1, 2, 0]
    assert read(path, y="one_hot")[2].tolist() == [1, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("dtype", ["u1", "f4", "?", "i8"])
def test_several_ones_in_a_row(path, dtype, caplog):
    """They are independent labels, and this is said; --task decides otherwise."""
    y = np.array([[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], dtype)
    write(path, x=ROWS, y=y, one_hot=np.eye(3, dtype=dtype)[[0, 1, 2, 0, 1, 2]], some=y * 0)
    with caplog.at_level(logging.INFO, "distbp"):
        _, classes, found = read(path)
    assert "y has rows of 0 and 1, not one-hot: a multilabel classification." in caplog.text
    assert (classes, found.dtype) == (["0", "1", "2"], np.uint8)
    np.testing.assert_array_equal(found, y)
    _, classes, found = read(path, task="regression")
    assert (classes, found.dtype.kind) == ([], "f")
    assert read(path, y="one_hot", task="multilabel")[2].shape == (6, 3)
    check_refused(
        path, "`--task classification`: .*3 labels per row", ConfigError, task="classification"
    )
    check_refused(
        write(path, x=ROWS, y=ROWS), "row 0, column 2: expected 0 or 1 for multilabel, found 2",
        task="multilabel",
    )  # fmt: skip


# Names


def test_datasets_are_listed_with_shapes(path):
    """And the options are given, where the names say which."""
    write(path, **{"train/X": ROWS, "train/Y": LABELS, "other": ROWS})
    check_refused(
        path, r"`--x` is missing: .* has other \(6, 5\), train/X \(6, 5\), train/Y \(6,\)\. "
        r"For example: --x train/X --y train/Y\.", ConfigError, x=None, y=None,
    )  # fmt: skip
    check_refused(path, r"none is missing; .* has other \(6, 5\)", x="none")
    write(path, **{"a\nb": ROWS, "c" * 10_000: LABELS})
    check_refused(path, r"'a\\nb' \(6, 5\), c{40}… \(6,\)\.$", ConfigError, x=None, y=None)


def test_a_group_that_contains_itself(path):
    """It is listed to a certain depth."""
    with h5py.File(path, "w") as file:
        file["g/x"] = ROWS
        file["g/again"] = file["g"]
    check_refused(path, r"has g/x \(6, 5\), g/again/x \(6, 5\)\.", ConfigError, x=None, y=None)


# Refusals


def odd_file(path):
    """Write an HDF5 file with everything except rows of numbers."""
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = ROWS, LABELS
        file.create_dataset("vlen", (6,), h5py.vlen_dtype(np.int32))
        file["compound"] = np.zeros(6, [("a", int), ("b", float)])
        file["scalar"] = 3.0
        file["null"] = h5py.Empty("f")
        file.create_dataset("references", (6,), h5py.ref_dtype)
        file.create_group("group")
        layout = h5py.VirtualLayout((6, 5), float)
        layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "x", (6, 5))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset(
            "external", (6, 5), np.uint8, external=[(str(path.with_name("raw")), 0, 30)]
        )
        file.create_dataset("scaled", data=LABELS, scaleoffset=0)
        file.create_dataset("long", data=ROWS.astype(np.longdouble))
    write(path.with_name("other.h5"), x=ROWS)
    path.with_name("raw").write_bytes(bytes(30))
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"s.h5: none is missing; .*s.h5 has compound \(6,\)"),
        ("group", "is not a dataset, but a group"),
        ("vlen", "vlen holds variable-length arrays, not .* Store rows of equal length"),
        ("references", "references holds references, not"),
        ("compound", "compound holds compound data, not .*structured_to_unstructured"),
        ("scalar", r"is float64 \(\); expected rows"),
        ("null", "null is empty"),
        ("virtual", "is stored in other files"),
        ("external", "is stored in other files"),
        ("scaled", "scaled uses the filter scaleoffset.*h5repack -f GZIP=4"),
        ("long", "is of type float128; expected plain numbers"),
    ],
)
def test_other_datasets(path, name, message):
    """They are refused by name, as x and as y."""
    odd_file(path)
    check_refused(path, message, x=name)
    check_refused(path, message, y=name)


# Other programs


@pytest.mark.filterwarnings("ignore")
def test_pandas(path):
    """Blocks of numbers are read by name; a data frame is refused with what to do."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ROWS[:, 0], "b": ROWS[:, 1], "name": NAMES, "kind": LABELS})
    frame[["a", "b"]].to_hdf(path, key="fixed")
    frame.kind.to_hdf(path, key="labels")
    frame.to_hdf(path, key="deep/mixed")
    frame.to_hdf(path, key="table", format="table")
    x, classes, _ = read(path, "fixed/block0_values", "labels/values")
    np.testing.assert_array_equal(x, ROWS[:, :2])
    assert classes == ["2", "7", "9"]
    check_refused(
        path, r"fixed was written by pandas.to_hdf \(frame\). Its numbers are in "
        r"fixed/block0_values. .*read_hdf\(FILE, 'fixed'\).to_csv", x="fixed",
    )  # fmt: skip
    check_refused(path, "was written by pandas.to_hdf .*FILE, 'deep/mixed'", x="deep/mixed")
    check_refused(
        path,
        "variable-length arrays.*FILE, 'deep/mixed'",
        x="fixed/block0_values",
        y="deep/mixed/block1_values",
    )
    check_refused(path, r"not a dataset, .*pandas.to_hdf \(frame_table\)", x="table")
    check_refused(path, "compound data, .*FILE, 'table'", x="table/table")
    check_refused(path, "labels was .*in labels/values", x="fixed/block0_values", y="labels")


@pytest.mark.filterwarnings("ignore")
def test_pytables(path):
    """Arrays are read, with booleans, which are bit fields; tables are refused."""
    tables = pytest.importorskip("tables")
    with tables.open_file(path, "w") as file:
        file.create_array("/", "x", ROWS)
        file.create_array("/", "bits", ROWS > 3)
        file.create_carray("/", "zlib", obj=ROWS > 3, filters=tables.Filters(5, "zlib"))
        file.create_carray("/", "blosc", obj=ROWS, filters=tables.Filters(5, "blosc"))
        file.create_array("/", "text", np.array(NAMES, "S"))
        colours = tables.EnumAtom(tables.Enum(["red", "blue"]), "red", "int32")
        kinds = file.create_earray("/", "kinds", colours, (0,))
        kinds.append([colours.enum["blue"]] * 4 + [colours.enum["red"]] * 2)
        file.create_table("/", "table", obj=np.zeros(6, [("a", "f8"), ("b", "i4")]))
        file.create_vlarray("/", "ragged", tables.Int32Atom()).append([1, 2])
        names = colours.enum
        in_order = sorted(["red", "blue"], key=names.__getitem__)
    np.testing.assert_array_equal(read(path, y="text")[0], ROWS)
    for name in ("bits", "zlib"):
        x, classes, y = read(path, name, "kinds")
        assert x.dtype == np.int8
        np.testing.assert_array_equal(x, ROWS > 3)
        assert classes == in_order
        assert [classes[number] for number in y] == ["blue"] * 4 + ["red"] * 2
    check_refused(path, "uses the filter blosc", x="blosc", y="text")
    check_refused(path, "It is a table of PyTables.*to_csv", x="table", y="text")
    check_refused(path, "variable-length arrays", x="ragged", y="text")


@pytest.mark.parametrize("form", ["fixed", "table"])
def test_pandas_files_are_refused_by_name_at_once(path, form):
    """Whoever names no dataset learns it as well."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("tables")
    pandas.DataFrame({"a": [1, 2], "b": [0.5, 1]}).to_hdf(path, key="frame", format=form)
    check_refused(path, r"`--x` is missing: .*to_hdf .*to_csv", ConfigError, x=None, y=None)


def matlab(path, **datasets):
    """Write a file as MATLAB's `save -v7.3`: dimensions in reverse, the class an attribute."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in datasets.items():
            is_text = isinstance(values, list)
            if is_text:
                values = np.array([list(map(ord, text.ljust(9))) for text in values], "u2")
            values = np.asarray(values)
            columns = values[:, np.newaxis] if values.ndim == 1 else values
            made = file.create_dataset(name, data=columns.T, chunks=True, compression="gzip")
            kind = {"float64": "double", "float32": "single", "bool": "logical"}
            made.attrs["MATLAB_class"] = np.bytes_(
                "char" if is_text else kind.get(values.dtype.name, values.dtype.name)
            )
        file.create_dataset("cell", (1, 6), h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_(
            "cell"
        )
        made = file.create_dataset("strings", data=np.zeros((6, 1), "u4"))
        made.attrs["MATLAB_class"] = np.bytes_("string")
        made = file.create_dataset("empty", data=np.zeros(2, "u8"))
        made.attrs["MATLAB_class"], made.attrs["MATLAB_empty"] = np.bytes_("double"), np.uint8(1)
        made = file.create_group("sparse")
        made.attrs["MATLAB_sparse"] = np.uint64(6)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
    return path


def test_matlab(path):
    """Matrices are stored in reverse, text as numbers, vectors as matrices."""
    images = np.arange(6 * 4 * 3).reshape(4, 3, 6)
    one_hot = np.eye(3)[[0, 1, 0, 1, 2, 0]]
    matlab(
        path, x=ROWS, y=LABELS.astype(float), row=LABELS[np.newaxis], text=NAMES, images=images,
        one_hot=one_hot, columns=ROWS.T, one_hot_columns=one_hot.T, single=ROWS[:, 0],
    )  # fmt: skip
    for y in ("y", "row"):
        x, classes, found = read(path, y=y)
        np.testing.assert_array_equal(x, ROWS)
        assert (classes, found.tolist()) == (["2", "7", "9"], [0, 1, 0, 1, 2, 0])
    assert read(path, y="text")[1] == ["cat", "dog", "eel"]
    np.testing.assert_array_equal(read(path, "images")[0], images.T)
    np.testing.assert_array_equal(read(path, "single")[0], ROWS[:, :1])
    np.testing.assert_array_equal(read(path, "columns")[0], ROWS)
    for y in ("one_hot", "one_hot_columns"):
        for x in ("x", "columns", "images"):
            assert read(path, x, y)[2].tolist() == [0, 1, 0, 1, 2, 0]
    check_refused(path, "is a column for each|holds a column", transpose=False)
    check_refused(path, "text holds text", x="text")
    for name, message in {
        "cell": "It is a cell array of MATLAB", "strings": "MATLAB's class 'string'",
        "empty": "an empty array of MATLAB", "sparse": r"It is a sparse matrix .*full\(",
    }.items():  # fmt: skip
        check_refused(path, message, x=name)
        check_refused(path, message, y=name)


def test_matlab_files_of_another_program(path):
    """As hdf5storage writes them for MATLAB."""
    hdf5storage = pytest.importorskip("hdf5storage")
    letters = np.array([list(name) for name in NAMES])
    values = {
        "x": ROWS, "y": LABELS.astype(float), "whole": LABELS.astype("i4"), "text": letters,
        "flags": ROWS > 3, "images": np.arange(72.0).reshape(4, 3, 6), "single": ROWS.astype("f4"),
        "cell": np.array(["cat", 1], object), "empty": np.zeros((0, 3)),
    }  # fmt: skip
    path = path.with_suffix(".mat")
    hdf5storage.savemat(str(path), values, format="7.3", store_python_metadata=False)
    for name in ("x", "single"):
        x, classes, y = read(path, name)
        np.testing.assert_array_equal(x, ROWS)
        assert x.dtype == values[name].dtype
        assert (classes, y.tolist()) == (["2", "7", "9"], [0, 1, 0, 1, 2, 0])
    np.testing.assert_array_equal(read(path, "flags", "whole")[0], ROWS > 3)
    np.testing.assert_array_equal(read(path, "images", "whole")[0], values["images"].T)
    assert read(path, y="text")[1] == ["cat", "dog", "eel"]
    check_refused(path, "It is a cell array of MATLAB", x="cell")
    check_refused(path, "an empty array of MATLAB", x="empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "is a MATLAB file of an older format: .*-v7.3"),
        (b"CDF\1" + bytes(100), "is a netCDF file of the classic format: .*nccopy"),
        (b"other", "cannot be read: "),
    ],
)
def test_older_formats(path, content, message):
    """Of the same programs, and with the same suffixes."""
    path.write_bytes(content)
    check_refused(path, message)


@pytest.mark.parametrize("groups", [["model_weights"], ["layers", "vars"]])
def test_keras(path, groups):
    """Weights are no data set."""
    with h5py.File(path, "w") as file:
        for name in groups:
            file[f"{name}/dense/kernel"] = ROWS
    check_refused(path, "holds the weights of a Keras model")
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "3.0"
    check_refused(path, "holds the weights of a Keras model")


def test_netcdf(path):
    """Plain variables are read; packed numbers and missing ones are refused."""
    with h5py.File(path, "w") as file:
        file.attrs["_NCProperties"] = "version=2"
        for name in ("x", "packed", "missing", "nan"):
            file[name] = ROWS.astype("f4")
            file[name].attrs["_FillValue"] = np.float32(9.96921e36)
        file["packed"].attrs["scale_factor"] = 0.5
        file["missing"][3, 2] = 9.96921e36
        file["nan"].attrs["_FillValue"] = np.array([np.nan])
        file["y"] = LABELS
        file["y"].attrs["_FillValue"] = np.array([-1])
        file["unknown"] = np.append(LABELS[:5], 0)
        file["unknown"].attrs["_FillValue"] = np.array([0])
        file.create_dataset("unwritten", (6, 5), "f4", chunks=(2, 5), fillvalue=9.96921e36)
        file["unwritten"][:4] = 0
    for name in ("x", "nan"):
        np.testing.assert_array_equal(read(path, name)[0], ROWS)
    check_refused(path, "packed with netCDF's attribute 'scale_factor'", x="packed")
    check_refused(path, "row 3 has the fill value 9.96921e\\+36", x="missing")
    check_refused(path, "row 4 has the fill value 9.96921e\\+36", x="unwritten")
    check_refused(path, "row 5 has the fill value 0", y="unknown")


def test_netcdf_files_of_another_program(path):
    """As h5netcdf, and with it xarray, writes them: dimensions are datasets, too."""
    h5netcdf = pytest.importorskip("h5netcdf")
    path = path.with_suffix(".nc")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": None, "n": 5}
        file.resize_dimension("time", 6)
        options = {"fillvalue": np.float32(9.96921e36), "compression": "gzip"}
        file.create_variable("x", ("time", "n"), "f4", **options)[...] = ROWS
        file.create_variable("missing", ("time", "n"), "f4", **options)[:4] = ROWS[:4]
        packed = file.create_variable("packed", ("time", "n"), "i2")
        packed[...] = ROWS
        packed.attrs["scale_factor"] = 0.5
        file.create_variable("y", ("time",), "i8")[:] = LABELS
        names = file.create_variable("names", ("time",), h5py.string_dtype())
        names[:] = np.array(NAMES, object)
        deep = file.create_group("deep").create_variable("x", ("time", "n"), "f8")
        deep[...] = ROWS
    for name in ("x", "deep/x"):
        for y, expected in (("y", ["2", "7", "9"]), ("names", ["cat", "dog", "eel"])):
            x, classes, found = read(path, name, y)
            np.testing.assert_array_equal(x, ROWS)
            assert (classes, found.tolist()) == (expected, [0, 1, 0, 1, 2, 0])
    check_refused(path, "packed with netCDF's attribute 'scale_factor'", x="packed")
    check_refused(path, r"row 4 has the fill value 9.96921e\+36", x="missing")
