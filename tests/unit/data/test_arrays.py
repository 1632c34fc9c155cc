"""Arrays and data frames become the data set that an import of the same arrays writes."""

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from distbp.data.arrays import Arrays, make_data_set
from distbp.data.dataset import SPLIT_NAMES, DataSet
from distbp.data.importing import import_data
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError, DistbpError

RANDOM = np.random.default_rng(1)
X = RANDOM.normal(size=(60, 4))
CLASSES = RANDOM.integers(0, 3, 60)
FRAME = pandas.DataFrame(
    {
        "age": RANDOM.integers(18, 80, 60),
        "sex": RANDOM.choice(["f", "m"], 60),
        "income": np.where(np.arange(60) == 7, np.nan, RANDOM.normal(5, 1, 60)),
        "member": RANDOM.random(60) < 0.5,
        "constant": 1.0,
        "price": RANDOM.normal(2e5, 3e4, 60),
    }
)
MISSING = ImportOptions(missing="median")


def made(x, y, options=None, **more):
    return make_data_set(Arrays((x, y), **more), options or ImportOptions())[0]


def assert_same(found: DataSet, expected: DataSet):
    """Assert that two data sets train the same network, and say the same of themselves."""
    assert found.identity == expected.identity
    ignored = {"source", "label_type"}
    assert {k: v for k, v in found.about.items() if k not in ignored} == {
        k: v for k, v in expected.about.items() if k not in ignored
    }
    for name in expected.splits:
        for part in ("x", "y", "weights"):
            one, other = (getattr(data.splits[name], part) for data in (found, expected))
            np.testing.assert_array_equal(one, other)
        assert found.splits[name].x_dtype == expected.splits[name].x_dtype
        assert found.splits[name].y_dtype == expected.splits[name].y_dtype
    for part in ("shift", "scale"):
        np.testing.assert_array_equal(
            getattr(found.scaling, part), getattr(expected.scaling, part), strict=True
        )
        assert (found.target is None) == (expected.target is None)
        if found.target is not None and expected.target is not None:
            np.testing.assert_array_equal(
                getattr(found.target, part), getattr(expected.target, part)
            )
    assert found.preprocessing == expected.preprocessing


LABELS = {
    "integers not from 0": CLASSES + 7,
    "whole floats": CLASSES * 2.0,
    "text": np.array(["b", "a", "ü"])[CLASSES],
    "bytes": np.array([b"b", b"a", b"c"])[CLASSES],
    "booleans": CLASSES > 0,
    "one-hot": np.eye(3, dtype=np.int8)[CLASSES],
    "several labels": np.array([[0, 1, 1], [1, 0, 0], [1, 1, 1]])[CLASSES],
    "one target": X[:, 0] * 1e5,
    "targets": X[:, :2].astype(np.float32),
}


@pytest.mark.parametrize("name", LABELS)
def test_arrays_are_what_their_import_is(tmp_path, name):
    """Task, classes, scaling, and the digest that identifies the data set."""
    y = LABELS[name]
    np.savez(tmp_path / "d.npz", x_train=X[:40], y_train=y[:40], x_test=X[40:], y_test=y[40:])
    import_data(tmp_path / "d.npz", tmp_path / "d.h5")
    assert_same(made(X[:40], y[:40], test=(X[40:], y[40:])), DataSet(tmp_path / "d.h5"))


@pytest.mark.parametrize("dtype", ["u1", "?", "f2", ">f4", "i8"])
def test_numbers_of_any_type(tmp_path, dtype):
    """Images as bytes are scaled as such."""
    x = (np.abs(X) * 50).reshape(60, 2, 2).astype(dtype)
    np.savez(tmp_path / "d.npz", x=x, y=CLASSES, w=np.abs(X[:, 0]))
    options = ImportOptions(test_fraction=0.2, seed=3)
    import_data(
        tmp_path / "d.npz", tmp_path / "d.h5", ImportOptions(test_fraction=0.2, seed=3, weight="w")
    )
    data = made(x, CLASSES, options, sample_weight=np.abs(X[:, 0]))
    assert_same(data, DataSet(tmp_path / "d.h5"))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("label", ["price", "member", "sex", "age"])
def test_a_frame_is_what_its_file_is(tmp_path, library, label):
    """Categories, missing cells, constant columns, and booleans as labels."""
    path = tmp_path / "t.parquet"
    FRAME.to_parquet(path)
    import_data(path, tmp_path / "d.h5", ImportOptions(label=label, missing="median"))
    expected = DataSet(tmp_path / "d.h5")
    frame = {
        "pandas": FRAME.set_index(np.arange(60) + 5), "polars": polars.from_pandas(FRAME),
        "pyarrow": pyarrow.Table.from_pandas(FRAME),
    }[library]  # fmt: skip
    assert_same(made(frame, label, MISSING), expected)
    assert_same(made(frame, None, ImportOptions(missing="median", label=label)), expected)
    # In a series of its own the label has the same name.
    drop = {"pandas": {"columns": label}, "polars": {}, "pyarrow": {"columns": [label]}}[library]
    features = frame.drop(**drop) if drop else frame.drop(label)
    if library != "pyarrow":
        assert_same(made(features, frame[label], MISSING), expected)
    own = made(features, np.asarray(FRAME[label]), MISSING)
    np.testing.assert_array_equal(own.splits["train"].x, expected.splits["train"].x)
    np.testing.assert_array_equal(own.splits["train"].y, expected.splits["train"].y)


def test_frames_of_several_splits(tmp_path):
    """Statistics are those of train; columns may be in another order; weights are train's."""
    parts = {"train": FRAME[:30], "validation": FRAME[30:45], "test": FRAME[45:]}
    whole = pandas.concat([part.assign(part=name) for name, part in parts.items()])
    whole["w"] = np.arange(60) % 7 + 0.5
    whole.to_csv(tmp_path / "t.csv", index=False)
    import_data(
        tmp_path / "t.csv", tmp_path / "d.h5",
        ImportOptions(label="price", split="part", missing="mean", weight="w"),
    )  # fmt: skip
    reordered = parts["validation"][FRAME.columns[::-1]]
    data = make_data_set(
        Arrays(
            (parts["train"], "price"), validation=reordered,
            test=(parts["test"].drop(columns="price"), parts["test"].price),
            sample_weight=np.arange(30) % 7 + 0.5,
        ),
        ImportOptions(missing="mean"),
    )[0]  # fmt: skip
    data.about["split"] = "by the column 'part'"
    assert_same(data, DataSet(tmp_path / "d.h5"))


def test_arrays_are_not_copied():
    """Neither rows nor targets, if they are in the right order."""
    arrays = Arrays((X, X[:, :1].copy()), test=(X[:9], X[:9, :1].copy()))
    data, is_copied = make_data_set(arrays, ImportOptions())
    assert np.shares_memory(data.splits["train"].x, X)
    assert np.shares_memory(data.splits["test"].x, X)
    assert not is_copied
    data, is_copied = make_data_set(Arrays((X[:, ::2], CLASSES)), ImportOptions())
    assert is_copied
    np.testing.assert_array_equal(data.splits["train"].x.view("f8"), X[:, ::2])


@given(st.permutations(["c", "a", "b", "d"]), st.booleans())
def test_given_classes_keep_their_order(classes, are_numbers):
    """Also those that no row has."""
    y = np.array(["a", "b", "a", "c"])
    if are_numbers:
        order = ["abcd".index(one) * 10 for one in classes]
        data = made(X[:4], np.array([0, 10, 0, 20]), classes=order)
        assert data.classes == [str(one) for one in order]
    else:
        data = made(X[:4], y, classes=classes)
        assert data.classes == classes
    found = data.splits["train"].targets()[:, 0]
    assert [classes[i] for i in found] == y.tolist()


def test_given_names_of_numbered_classes():
    data = made(X, CLASSES, classes=["low", "middle", "high"])
    assert data.classes == ["low", "middle", "high"]
    np.testing.assert_array_equal(data.splits["train"].targets()[:, 0], CLASSES)
    names = ["red", "green", "blue"]
    assert made(X, np.eye(3, dtype=int)[CLASSES], classes=names).classes == names
    several = np.array([[0, 1, 1], [1, 0, 0]])
    assert made(X[:2], several, classes=names).classes == names


class Sparse:
    """What SciPy's sparse matrices and arrays have in common."""

    nnz = 1

    def toarray(self):
        return X


OBJECTS = np.array([1, "a", 2.5], object)
MISSING_LABELS = {
    "none": ["a", None], "nan": np.array([["a"], [np.nan]], object),
    "pandas": pandas.Series(["a", None], dtype="string"),
    "polars": polars.Series(["a", None]),
}  # fmt: skip
REFUSED = {
    "sparse": (Sparse(), CLASSES, {}, r"x is a sparse matrix; .* x\.toarray\(\)"),
    "text in x": (X.astype(str), CLASSES, {}, "x is an array of text; expected numbers"),
    "objects in x": (X.astype(object), CLASSES, {}, r"Python objects; .*x\.astype\(float\)"),
    "dates in x": (X.astype("M8[s]"), CLASSES, {}, "an array of times"),
    "complex": (X.astype(complex), CLASSES, {}, "x is of type complex128; expected plain numbers"),
    "no array": (None, CLASSES, {}, "x is an array of Python objects|x is a NoneType"),
    "a number": (3, CLASSES, {}, "x is a int; expected an array of rows"),
    "ragged": ([[1, 2], [3]], [0, 1], {}, "x is a list, not an array"),
    "masked": (np.ma.masked_greater(X, 0), CLASSES, {}, r"x has masked values\. .*x\.filled"),
    "not finite": (np.where(X > 2, np.nan, X), CLASSES, {}, r"x, row \d+, column \d: expected a f"),
    "lengths": (X[:9], CLASSES, {}, "x has 9 rows, but y has 60"),
    "transposed": (X.T, CLASSES, {}, r"a column for each example, not a row\. Pass its transpose"),
    "empty": (X[:0], CLASSES[:0], {}, "x is empty"),
    "one class": (X, CLASSES * 0, {}, "y: all labels are 0"),
    "labels of objects": (X[:3], OBJECTS, {}, "Python objects of the types float, int, str;"),
    "sparse labels": (X, Sparse(), {}, r"y is a sparse matrix; .* y\.toarray\(\)"),
    "negative": (X, CLASSES - 1, {}, r"y, row \d+: the label -1 is negative"),
    "a new class": (X, CLASSES, {"test": (X, CLASSES + 1)}, r"y of test, row \d+: the label 3 is"),
    "classes": (X, CLASSES, {"classes": [0, 1]}, r"2 is not one of the 2 classes that were"),
    "class names": (X, CLASSES, {"classes": ["a", "b"]}, r"2 is not one of the 2 classes"),
    "classes twice": (X, CLASSES, {"classes": [0, 1, 1]}, "`classes` names a class twice"),
    "classes of what": (X, CLASSES, {"classes": [[0]]}, "`classes`: expected a list of names"),
    "widths": (X, CLASSES, {"test": (X[:, 1:], CLASSES)}, "expected the same in every split"),
    "weights": (X, CLASSES, {"sample_weight": X}, r"sample_weight is float64 \(60, 4\)"),
    "negative weights": (X, CLASSES, {"sample_weight": CLASSES - 1}, "the weight is -1; expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_are_refused(name):
    """One sentence says what is wrong, and what to do."""
    x, y, more, message = REFUSED[name]
    with pytest.raises(DistbpError, match=message):
        made(x, y, **more)


@pytest.mark.parametrize("name", MISSING_LABELS)
def test_labels_that_are_missing(name):
    """Whatever a library writes for them."""
    with pytest.raises(DataError, match="y, row 1: the label is missing"):
        made(X[:2], MISSING_LABELS[name])


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "coo_array", "dok_matrix"])
def test_scipys_sparse_matrices_are_refused(kind):
    with pytest.raises(DataError, match=r"sparse matrix; .* Convert it with x\.toarray\(\)"):
        made(getattr(scipy.sparse, kind)(X), CLASSES)


FRAMES_REFUSED = {
    "no labels": (FRAME, None, {}, "There are no labels. Pass y, or the name of the column"),
    "a name": (FRAME, "prize", {}, "x has no column 'prize' for y; it has age, sex"),
    "missing": (FRAME, "price", {}, r"x, row 7, column 'income': the value is missing"),
    "lengths": (FRAME, CLASSES[:5], {}, r"x has 60 rows, but y has the shape \(5,\)"),
    "another array": (FRAME, "price", {"test": (X, "price")}, "x of test is a ndarray; expected a"),
    "a column less": (
        FRAME, "price", {"test": (FRAME.drop(columns="sex"), "price")},
        "x of test has no column 'sex', which train has",
    ),
    "labels less": (
        FRAME.drop(columns="price"), FRAME.price, {"test": (FRAME.drop(columns="price"), None)},
        "x of test has no column 'price', which train has",
    ),
    "missing elsewhere": (
        FRAME[8:], "price", {"test": (FRAME, "price")}, r"x, row 7 of test, column 'income'",
    ),
    "weights": (FRAME, "price", {"sample_weight": [1.0]}, r"sample_weight has the shape \(1,\)"),
    "no such weights": (FRAME, "price", {"sample_weight": "w"}, "`--weight w`: x has no such col"),
    "missing labels": (FRAME.drop(columns="income"), FRAME.income, {}, "row 7, .*the label is mis"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES_REFUSED)
def test_frames_that_are_refused(name):
    """The row is that of the frame it is in."""
    x, y, more, message = FRAMES_REFUSED[name]
    with pytest.raises(DistbpError, match=message):
        made(x, y, **more)


def test_options_that_do_not_apply():
    """An array has no columns; a frame has its own label only once."""
    with pytest.raises(ConfigError, match="`--missing` does not apply to arrays"):
        made(X, CLASSES, MISSING)
    with pytest.raises(ConfigError, match="Labels are given twice: y, and label='sex'"):
        made(FRAME, "price", ImportOptions(label="sex"))
    with pytest.raises(ConfigError, match=r"contradict each other"):
        made(FRAME, "price", ImportOptions(split="sex"), test=(FRAME, "price"))


def test_names_of_columns_may_be_anything():
    """Commas, quotes, spaces around them, numbers, and those that are added here."""
    frame = pandas.DataFrame({"split": X[:, 0], 2: X[:, 1], "sample_weight": X[:, 2]})
    for name in ("a,b", 'a"b', " a ", "label", "1", 1.5):
        labelled = frame.assign(y=CLASSES).rename(columns={"y": name})
        test = (frame * 2, CLASSES)
        data = made(labelled, str(name), sample_weight=np.ones(60), test=test)
        assert data.classes == ["0", "1", "2"]
        assert data.n_in == 3


def test_a_data_set_of_one_array_has_all_splits():
    """Names are those of the import."""
    data = made(X, CLASSES, validation=(X, CLASSES), test=(X, CLASSES))
    assert tuple(data.splits) == SPLIT_NAMES
    assert data.is_in_memory
    with pytest.raises(DataError, match=r"^y: expected 1 numbers|^y of test"):
        made(X, X[:, 0], test=(X, X))
