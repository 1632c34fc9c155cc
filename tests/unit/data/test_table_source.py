"""Importing tables: categories, missing cells, columns that are left out, splits, warnings."""

import gzip
import json
import logging
from dataclasses import replace

import h5py
import numpy as np
import pandas
import pyarrow
import pytest
from pyarrow import feather, parquet

from distbp.data import spool
from distbp.data.dataset import DataSet
from distbp.data.importing import import_data
from distbp.data.profile import ColumnProfile
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError
from distbp.storage import hdf5_file
from distbp.storage.preprocessing import Feature, Preprocessing

PEOPLE = """\
,age,sex,fare,port,survived
0,22,female,7.25,S,yes
1,,male,8,Q,no
2,30,male,?,,no
3,38,female,9.5,S,yes
4,50,male,11,C,no
"""


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(PEOPLE)
    return path


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "data.h5"


@pytest.fixture(autouse=True)
def log(caplog):
    """What is said, of all levels; the command line may have changed the logger."""
    logger = logging.getLogger("distbp")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = True
    caplog.set_level(logging.INFO, "distbp")
    yield caplog
    logger.setLevel(before[0])
    logger.propagate = before[1]


def run(source, out, **options):
    return import_data(source, out, replace(ImportOptions(), **options))


def write(folder, text, name="d.csv"):
    path = folder / name
    path.write_text(text)
    return path


def table(**columns):
    """Return the text of a CSV file."""
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"


def inputs(path, split="train"):
    data = DataSet(path)
    found = data.splits[split]
    x = found.x.view(found.x_dtype)
    return x, found.targets()


# Encoding


def test_categories_and_missing_cells(people, out, log):
    """One input for each category, the mean of the rows, and indicators."""
    about = run(people, out, missing="mean", missing_indicator=True)
    assert about["columns"] == [
        "age", "age missing", "sex=female", "sex=male", "fare", "fare missing",
        "port=C", "port=Q", "port=S", "port missing",
    ]  # fmt: skip
    x, y = inputs(out)
    np.testing.assert_array_equal(x[:, 0], [22, 35, 30, 38, 50])
    np.testing.assert_array_equal(x[:, 1], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(x[:, 2], [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(x[:, 4], [7.25, 8, 8.9375, 9.5, 11])
    np.testing.assert_array_equal(x[2, 6:], [0, 0, 1, 1])  # the most frequent port
    np.testing.assert_array_equal(y[:, 0], [1, 0, 0, 1, 0])
    assert "left out as an index" in log.text
    found = DataSet(out).preprocessing
    assert found == Preprocessing.from_json(about["preprocessing"])
    assert found.features[2] == Feature("fare", None, 8.9375, True)
    assert found.labels == ("survived",)


def test_missing_cells_are_an_error_by_default(people, out):
    """It names the first one, how many there are of each column, and the remedy."""
    with pytest.raises(DataError, match=r"people.csv, line 3, column 'age': the value is") as error:
        run(people, out)
    assert "1 in 'age', 1 in 'fare', 1 in 'port'" in str(error.value)
    assert "--missing mean" in str(error.value)
    assert not list(out.parent.iterdir())


def test_the_median_is_that_of_the_training_rows(tmp_path, out):
    """Also with several columns at a time, and in blocks."""
    split = ["train"] * 4 + ["test"] * 3
    a, b = [1, "", 3, 8, 1000, "", 1000], [5, 4, "NA", 1, 0, 7, 8]
    source = write(tmp_path, table(a=a, b=b, s=split, y=[0, 1, 0, 1, 0, 1, 0]))
    run(source, out, missing="median", split="s")
    np.testing.assert_array_equal(inputs(out)[0], [[1, 5], [3, 4], [3, 4], [8, 1]])
    np.testing.assert_array_equal(inputs(out, "test")[0], [[1000, 0], [3, 7], [1000, 8]])
    # Without a missing cell in training, too, as there may be one at prediction.
    assert [f.fill for f in DataSet(out).preprocessing.features] == [3.0, 4.0]


@pytest.mark.parametrize("missing", ["mean", "median"])
@pytest.mark.parametrize("cells", [range(3), ["u", "v", "u"]])
def test_a_column_without_values_in_training_is_left_out(tmp_path, out, missing, cells):
    """Nothing can be learned of it, with an indicator neither; that of a full one is left out."""
    source = write(
        tmp_path,
        table(
            a=[*[""] * 4, *cells], b=[1, 2, 3, 4, "", 5, 6], c=[1, "", 1, 1, 1, 1, 1],
            s=["train"] * 4 + ["test"] * 3, y=[0, 1, 0, 1, 0, 1, 0],
        ),
    )  # fmt: skip
    about = run(source, out, missing=missing, missing_indicator=True, split="s")
    assert about["columns"] == ["b", "c", "c missing"]
    np.testing.assert_array_equal(inputs(out, "test")[0], [[2.5, 1, 0], [5, 1, 0], [6, 1, 0]])


def test_categories_are_those_of_the_training_rows(tmp_path, out, log):
    """Of others nothing is learned; what is dropped does not count."""
    source = write(
        tmp_path,
        table(
            a=["u", "v", "w", "x", "u", "w"], b=[1, 2, 3, "", 5, 6],
            s=["train", "train", "test", "train", "test", "test"], y=[0, 1, 0, 1, 2, 0],
        ),
    )  # fmt: skip
    assert run(source, out, missing="drop", split="s")["columns"] == ["a=u", "a=v", "b"]
    np.testing.assert_array_equal(inputs(out, "test")[0], [[0, 0, 3], [1, 0, 5], [0, 0, 6]])
    assert "Column 'a': no training row has 'w', which 2 other rows have." in log.text
    assert "No training row is of class '2'" in log.text


def test_what_no_mean_can_be_computed_of_is_refused(tmp_path, out):
    """The cell that is infinite is named, not the one that is missing before it."""
    source = write(tmp_path, table(a=["", 1, "inf"], y=[0, 1, 0]))
    with pytest.raises(DataError, match="line 4, column 'a': expected a finite number, found inf"):
        run(source, out, missing="mean")
    source = write(tmp_path, table(a=["", -1e308, 1e308, 1.1e308, 1.2e308], y=[0, 1, 0, 1, 0]))
    with pytest.raises(DataError, match="Column 'a': its numbers are too large for a mean"):
        run(source, out, missing="mean", scaling="none")


@pytest.mark.parametrize("cells", ['"1,000" "12,345.6"', "0,5 7", "5% 10%", "$1 $2.50", "1'000 3"])
def test_numbers_with_marks_are_not_taken_for_categories(tmp_path, out, cells):
    """Thousands, the other decimal mark, units; in labels, too. They may be categories."""
    cells = (cells.split() * 2)[:4]
    rows = [f"{cell};{i % 2};c{i % 3}" for i, cell in enumerate(cells)]
    source = write(tmp_path, "\n".join(["a;b;y", *rows]) + "\n")
    options = {"separator": ";", "decimal": "."}
    with pytest.raises(DataError, match=r"column 'a': .* marks that are .* --categorical a if"):
        run(source, out, **options)
    assert len(run(source, out, categorical="a", **options)["columns"]) == 3
    with pytest.raises(DataError, match=r"column 'a': .* marks .* --task classification if"):
        run(source, out, label="a", **options)
    assert len(run(source, out, label="a", task="classification", **options)["classes"]) == 2


def test_a_mistyped_date_does_not_make_all_of_them_categories(tmp_path, out):
    dates = ["2024-12-30", "2024-12-31", "2024-13-01"]
    source = write(tmp_path, table(d=dates, y=[0, 1, 0]))
    with pytest.raises(DataError, match="line 4, column 'd': '2024-13-01' is not a number or date"):
        run(source, out)


def test_labels_that_float64_does_not_tell_apart(tmp_path, out):
    source = write(tmp_path, table(a=[1, 2, 3], y=[2**53, 2**53 + 1, 1]))
    with pytest.raises(DataError, match="line 2, column 'y': numbers from 2"):
        run(source, out)


def test_columns_of_one_hot_labels_name_the_classes(tmp_path, out):
    """A column without a 1 is no class."""
    source = write(tmp_path, table(a=[1, 2, 3], dog=[0, 1, 0], cat=[1, 0, 1], cow=[0, 0, 0]))
    about = run(source, out, label="dog,cat,cow")
    assert (about["task"], about["classes"]) == ("classification", ["dog", "cat"])
    np.testing.assert_array_equal(inputs(out)[1][:, 0], [1, 0, 1])


def test_rows_with_missing_cells_are_dropped(people, out, log):
    """Also those without a label; later errors name the right line."""
    people.write_text(PEOPLE + "5,60,male,3,C,\n6,61,male,4,C,no\n")
    about = run(people, out, missing="drop")
    assert about["rows"] == {"train": 4}
    assert "3 of 7 rows have missing cells and are dropped" in log.text
    np.testing.assert_array_equal(inputs(out)[0][:, 0], [22, 38, 50, 61])
    people.write_text(PEOPLE + "6,61,male,inf,C,no\n")
    with pytest.raises(DataError, match="line 7, column 'fare': expected a finite number"):
        run(people, out, missing="drop")
    people.write_text("a,b,y\n1,,0\n,1,1\n")
    with pytest.raises(DataError, match="every row has a missing cell"):
        run(people, out, missing="drop")


def test_constant_and_empty_columns_are_left_out(tmp_path, out, log):
    """And said; also what is constant in the training rows only."""
    source = write(
        tmp_path,
        table(
            a=[1, 2, 3, 4], c=[7] * 4, e=[""] * 4, w=["x", "x", "x", "z"], m=[5, "", 5, 5],
            s=["train"] * 3 + ["test"], y=[0, 1, 0, 1],
        ),
    )  # fmt: skip
    about = run(source, out, split="s", missing="mean")
    assert about["columns"] == ["a"]
    for name in "cwm":
        assert f"Column '{name}' is left out: it is constant" in log.text
    assert "Column 'e' is left out: it has no values" in log.text
    assert any(line.split()[:3] == ["c", "left", "out"] for line in about["profile"])
    about = run(source, out, split="s", missing="mean", missing_indicator=True)
    assert about["columns"] == ["a", "m", "m missing"]
    with pytest.raises(DataError, match="every feature is constant"):
        run(source, out, split="s", columns="c,y")


def test_an_index_and_columns_are_left_out(people, out):
    about = run(people, out, drop="age,port", missing="mean")
    assert about["columns"] == ["sex=female", "sex=male", "fare"]
    about = run(people, out, columns="sex,survived")
    assert about["columns"] == ["sex=female", "sex=male"]
    about = run(people, out, columns="sex,fare", label="survived", missing="mean")
    assert about["columns"] == ["sex=female", "sex=male", "fare"]
    with pytest.raises(DataError, match="no columns besides the labels"):
        run(people, out, columns="survived")


def test_too_many_categories(tmp_path, out):
    """All such columns are named, with the option that leaves them out."""
    names = [f"name {i}" for i in range(5)]
    source = write(tmp_path, table(a=range(5), n=names, m=names, y=[0, 1, 0, 1, 1]))
    with pytest.raises(DataError, match=r"'n', 'm' has more than 4 .* --drop n,m, or raise --max"):
        run(source, out, max_categories=4)
    assert len(run(source, out, max_categories=5)["columns"]) == 11
    with pytest.raises(ConfigError, match="max-categories 0"):
        run(source, out, max_categories=0)


def test_numbers_can_be_categories(tmp_path, out):
    source = write(tmp_path, table(zip=["01", "1", "01", "20"], y=[0, 1, 0, 1]))
    assert run(source, out, categorical="zip")["columns"] == ["zip=01", "zip=1", "zip=20"]
    assert run(source, out)["columns"] == ["zip"]


def test_a_mistyped_number_is_no_category(tmp_path, out):
    """Unless the user says so."""
    source = write(tmp_path, table(a=[1, 2, "l3", 4], y=[0, 1, 0, 1]))
    with pytest.raises(DataError, match="line 4, column 'a': 'l3' is not a number or date, as"):
        run(source, out)
    assert len(run(source, out, categorical="a")["columns"]) == 4


def test_blocks_do_not_matter(tmp_path, out, monkeypatch):
    """The same data set from a spool that is read in pieces."""
    random = np.random.default_rng(0)
    a = ["" if i % 7 == 0 else i * 0.5 for i in range(300)]
    source = write(
        tmp_path,
        table(a=a, b=random.choice(["x", "y", "z"], 300), y=random.integers(0, 2, 300)),
    )
    options = {"missing": "median", "test_fraction": 0.3, "missing_indicator": True}
    about = run(source, out, **options)
    monkeypatch.setattr(spool, "BLOCK_NUMBERS", 20)
    monkeypatch.setattr("distbp.data.table_encoder._MEDIAN_NUMBERS", 1)
    monkeypatch.setattr("distbp.data.dataset_writer._BLOCK_NUMBERS", 50)
    assert run(source, out, **options)["preprocessing"] == about["preprocessing"]
    assert DataSet(out).about["digest"] == about["digest"]


# Dialects and formats


def test_semicolons_and_decimal_commas(tmp_path, out, log):
    """As spreadsheets in half of Europe write them, in Latin-1, with tabs, or said by options."""
    plain = write(tmp_path, "größe,art,ziel\n1.5,groß,2.25\n2.5,klein,0.75\n3.5,groß,1.5\n")
    digest = run(plain, out)["digest"]
    text = "größe;art;ziel\n1,5;groß;2,25\n2,5;klein;0,75\n3,5;groß;1,5\n"
    for variant in (text, "\ufeff" + text.replace("\n", "\r\n"), "# Maße\n" + text):
        log.clear()
        assert run(write(tmp_path, variant), out)["digest"] == digest
        assert "decimal" in log.text
    plain.write_bytes(text.encode("latin-1"))
    about = run(plain, out)
    assert about["digest"] == digest
    assert about["columns"] == ["größe", "art=groß", "art=klein"]
    run(write(tmp_path, text.replace(";", "\t")), out, separator="tab", decimal=",")
    assert DataSet(out).about["digest"] == digest


@pytest.mark.parametrize("name", ["d.parquet", "d.feather", "d.jsonl", "d.csv.gz", "d.tsv"])
def test_other_formats_give_the_same(people, out, name):
    frame = pyarrow.table(
        {
            "age": [22, None, 30, 38, 50],
            "sex": ["female", "male", "male", "female", "male"],
            "survived": ["yes", "no", "no", "yes", "no"],
        }
    )
    text = "\n".join(line.split(",", 1)[1] for line in PEOPLE.splitlines())
    path = people.parent / name
    if name == "d.parquet":
        parquet.write_table(frame, path)
    elif name == "d.feather":
        feather.write_feather(frame, path)
    elif name == "d.jsonl":
        rows = zip(*frame.to_pydict().values(), strict=True)
        path.write_text(
            "".join(
                f'{{"age": {"null" if age is None else age}, "sex": "{sex}", "survived": "{y}"}}\n'
                for age, sex, y in rows
            )
        )
    elif name == "d.csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text.replace(",", "\t"))
    options = {"missing": "mean", "columns": "age,sex,survived"}
    assert run(path, out, **options)["digest"] == run(people, out, **options)["digest"]


def test_empty_text_in_json_lines_is_missing(tmp_path, out):
    """As null and blanks are."""
    source, cells = tmp_path / "d.jsonl", ['"u"', '""', '"v"', "null", '"u"', '"  "']
    lines = [f'{{"a": {i}, "b": {cell}, "y": "{"pq"[i % 2]}"}}' for i, cell in enumerate(cells)]
    source.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"line 2, column 'b'"):
        run(source, out)
    run(source, out, missing="drop", drop="y", label="b", task="classification")
    assert DataSet(out).about["classes"] == ["u", "v"]
    assert len(DataSet(out).split("train")) == 3


def test_half_of_an_emoji(tmp_path, out):
    """As JavaScript's slice leaves it: half of a pair of surrogates is no text."""
    source = tmp_path / "d.jsonl"
    source.write_text('{"a": 1, "y": "\\ud83d"}\n{"a": 2, "y": "b"}\n')
    assert run(source, out)["classes"] == ["b", "\ufffd"]
    source.write_text('{"\\ud83d": 1, "y": "b"}\n')
    with pytest.raises(DataError, match="line 1: a name has half of a pair of surrogates"):
        run(source, out)


# Labels


def test_booleans_are_named_classes(tmp_path, out):
    source = write(tmp_path, table(a=[1, 2, 3], y=["True", "False", "True"]))
    assert run(source, out)["classes"] == ["False", "True"]
    parquet.write_table(
        pyarrow.table({"a": [1, 2, 3], "y": [True, False, True]}), tmp_path / "d.parquet"
    )
    assert run(tmp_path / "d.parquet", out)["classes"] == ["false", "true"]


def test_large_whole_numbers_as_labels(tmp_path, out):
    """Beyond 2^53, two of them would be the same class."""
    source = write(tmp_path, table(a=[1, 2], y=[2**60 + 1, 2**60 + 2]))
    with pytest.raises(DataError, match=r"line 2, column 'y': .* --categorical y"):
        run(source, out)
    assert run(source, out, categorical="y")["classes"] == [str(2**60 + 1), str(2**60 + 2)]
    assert run(source, out, task="regression")["task"] == "regression"


def test_log_of_targets(tmp_path, out):
    source = write(tmp_path, table(a=[1, 2, 3], price=[100.5, 20, 3e6]))
    run(source, out, target_transform="log")
    np.testing.assert_array_equal(inputs(out)[1][:, 0], np.log([100.5, 20, 3e6]))
    assert DataSet(out).preprocessing.target_transform == "log"
    # Version 0.1.0, which would return the logarithm, has to refuse it.
    run(source, out, target_transform="log", target_scaling="none")
    with h5py.File(out) as file:
        assert file.attrs["version"] == 2
    write(tmp_path, table(a=[1, 2, 3], price=[100.5, 0, 3e6]))
    with pytest.raises(DataError, match=r"line 3, column 'price': expected a number above 0"):
        run(source, out, target_transform="log")
    write(tmp_path, table(a=[1, 2, 3], price=["a", "b", "a"]))
    with pytest.raises(ConfigError, match="log` is for a regression; the task is classification"):
        run(source, out, target_transform="log")
    with pytest.raises(ConfigError, match="target-transform 'exp' is unknown"):
        run(source, out, target_transform="exp")


# Splits


def test_splits_by_columns(tmp_path, out):
    """These columns are no features, wherever they stand; no group is in two splits."""
    random = np.random.default_rng(0)
    patient = random.choice([f"p{i}" for i in range(12)], 100)
    when = [f"2024-{1 + i % 12:02}-01" for i in range(100)]
    part = ["Train", "valid", "TEST", "train"] * 25
    columns = {"a": random.normal(size=100), "y": random.integers(0, 2, 100)}
    source = write(tmp_path, table(**columns, when=when, patient=patient, part=part))
    about = run(source, out, group="patient", test_fraction=0.3, columns="a,y,patient")
    assert about["columns"] == ["a"]
    values = dict(zip(columns["a"], patient, strict=True))
    found = {name: {values[v] for v in inputs(out, name)[0][:, 0]} for name in ("train", "test")}
    assert not found["train"] & found["test"]
    assert about["split"] == "30 % of the rows, in groups of 'patient', seed 0"
    about = run(source, out, split="part", columns="a,y")
    assert about["rows"] == {"train": 50, "validation": 25, "test": 25}
    about = run(source, out, time="when", test_fraction=0.2, columns="a,y")
    late = {a for a, date in zip(columns["a"], when, strict=True) if date >= "2024-11"}
    assert set(inputs(out, "test")[0][:, 0]) == late
    for options, message in (
        ({"split": "patient"}, "column 'patient': expected train, validation or test .* found 'p"),
        ({"time": "part", "test_fraction": 0.1}, "'Train' is neither a number nor a date"),
    ):
        with pytest.raises(DataError, match=message):
            run(source, out, **options, label="y", drop="when")
    with pytest.raises(ConfigError, match="'patient' cannot be a label"):
        run(source, out, label="patient", group="patient", test_fraction=0.1)
    with pytest.raises(ConfigError, match="names several columns"):
        run(source, out, group="a,y", test_fraction=0.1)


# Warnings


def test_what_usually_goes_wrong_is_said(tmp_path, out, log):
    """An identifier, a copy of the label, a class with nearly all rows."""
    random = np.random.default_rng(0)
    n = 100
    y = np.array(["no"] * 97 + ["yes"] * 3)[random.permutation(n)]
    columns = {
        "id": random.permutation(n) + 1000, "name": [f"n{i}" for i in range(n)],
        "x": random.normal(size=n), "copy": np.where(y == "yes", "Y", "N"),
        "code": np.where(y == "yes", 7, 3), "y": y,
    }  # fmt: skip
    run(write(tmp_path, table(**columns)), out)
    warned = {r.getMessage() for r in log.records if r.levelno == logging.WARNING}
    starts = (
        "Column 'id' is different in every row", "Column 'name' is different in every row",
        "Column 'copy' equals the label", "Column 'code' equals the label",
        "97.0% of the training rows are of class 'no'",
    )  # fmt: skip
    assert all(any(text.startswith(start) for text in warned) for start in starts)
    assert len(warned) == len(starts)


def test_no_column_copies_labels_that_are_all_different(tmp_path, out, log):
    """They are quantities, more likely; then a column that differs everywhere means nothing."""
    random = np.random.default_rng(0)
    columns = {"x": random.normal(size=50), "y": random.permutation(1000)[:50]}
    run(write(tmp_path, table(**columns)), out)
    assert "equals the label" not in log.text


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_dates_are_shown_as_dates(tmp_path, out, end):
    """With the time of day if there is one; they are learned as seconds since 1970."""
    days = np.datetime64("2020-02-28") + np.arange(3)
    columns = {
        "day": days,
        "time": days + np.timedelta64(3661, "s"),
        "x": [1.5, 2, 0],
        "y": [0, 1, 0],
    }
    path = tmp_path / f"t{end}"
    frame = pandas.DataFrame(columns)
    frame.to_csv(path, index=False) if end == ".csv" else frame.to_parquet(path)
    shown = [line.split("  ") for line in run(path, out)["profile"]]
    found = {line[0].strip(): [cell.strip() for cell in line if cell] for line in shown}
    assert found["day"] == ["day", "feature", "date", "0", "2020-02-28 … 2020-03-01"]
    assert found["time"][-1] == "2020-02-28 01:01:01 … 2020-03-01 01:01:01"
    assert found["x"][-1] == "0 … 2"


def test_dates_that_python_does_not_know_are_shown_as_numbers():
    """Years before 1 or after 9999."""
    profile = ColumnProfile("d", "feature", "number", 0, -1e18, 0.0, is_date=True)
    assert profile.values == "-1e+18 … 1970-01-01"


def test_targets_of_many_magnitudes_are_said(tmp_path, out, log):
    random = np.random.default_rng(0)
    x, y = random.normal(size=100), np.exp(4 * random.normal(size=100))
    source = write(tmp_path, table(x=x, copy=y, y=y))
    run(source, out)
    assert "The targets 'y' range from" in log.text
    assert "Column 'copy' equals the label" in log.text
    log.clear()
    run(source, out, target_transform="log")
    assert "range from" not in log.text


def test_ordinary_tables_are_not_warned_of(tmp_path, out, log):
    random = np.random.default_rng(0)
    columns = {"x": random.normal(size=60), "n": random.integers(0, 60, 60)}
    source = write(tmp_path, table(**columns, y=random.integers(0, 2, 60)))
    run(source, out, test_fraction=0.2)
    assert not [r for r in log.records if r.levelno >= logging.WARNING]


def test_test_rows_that_occur_in_train_are_said(tmp_path, out, log):
    random = np.random.default_rng(0)
    x = random.normal(size=50)
    columns = {"x": np.append(x, x[:20]), "y": np.append(np.arange(50) % 2, np.arange(20) % 2)}
    columns["s"] = ["train"] * 50 + ["test"] * 20
    run(write(tmp_path, table(**columns)), out, split="s", label="y")
    assert "20 of the 20 test rows occur in train too" in log.text


def test_the_table_shows_every_column(people, out):
    lines = run(people, out, missing="mean", drop="fare")["profile"]
    assert [line.split() for line in lines] == [
        ["column", "use", "kind", "missing", "values"],
        ["age", "feature", "number", "1", "22", "…", "50"],
        ["sex", "feature", "text", "0", "2", "categories"],
        ["port", "feature", "text", "1", "3", "categories"],
        ["survived", "label", "text", "0", "2", "categories"],
    ]


def test_an_indicator_needs_a_value_to_fill_in(people, out):
    with pytest.raises(ConfigError, match="`--missing-indicator` is for `--missing mean`"):
        run(people, out, missing_indicator=True)


def test_names_that_cannot_be_printed(tmp_path, out):
    source = write(tmp_path, '"a\nb",y\n1,0\n2,1\n')
    assert run(source, out)["profile"][1].startswith(r"'a\nb'  feature")


def test_a_validation_set_of_the_source_stays_before_the_test_set(tmp_path, out):
    """The digest depends on the order of the splits."""
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 2)
    np.savez(
        tmp_path / "d.npz", x_train=x, y_train=np.arange(20) % 2, x_val=x[:4] + 1, y_val=[0, 1] * 2
    )
    about = run(tmp_path / "d.npz", out, test_fraction=0.2)
    assert list(about["rows"]) == ["train", "validation", "test"]
    with pytest.raises(ConfigError, match="the source has a validation set already"):
        run(tmp_path / "d.npz", out, validation_fraction=0.2)


def test_text_of_numbers_is_text_if_the_file_says_so(tmp_path, out):
    frame = pyarrow.table({"code": ["1", "2", "1"], "y": [0, 1, 0]})
    parquet.write_table(frame, tmp_path / "d.parquet")
    assert run(tmp_path / "d.parquet", out)["columns"] == ["code=1", "code=2"]


@pytest.mark.parametrize("damage", [{"features": []}, {"labels": 3}, None, "n_in"])
def test_invalid_preprocessing_in_a_file_is_refused(people, out, damage):
    """Also one that gives another number of inputs."""
    run(people, out, columns="sex,survived")
    with h5py.File(out, "r+") as file:
        about = json.loads(file["about"][...].tobytes())
        if damage == "n_in":
            about["preprocessing"]["features"][0]["has_indicator"] = True
        else:
            about["preprocessing"] = damage and about["preprocessing"] | damage
        del file["about"]
        hdf5_file.write_json(file, "about", about)
    with pytest.raises(DataError, match=r"data\.h5"):
        DataSet(out)
