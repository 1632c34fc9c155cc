"""Predictions for tables: by the names of the columns, with the bits of the data set."""

import io
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas
import polars
import pyarrow
import pytest
import table_models
from pyarrow import feather, parquet

import distbp
from distbp.cli.main import parse_command_line, run_verb
from distbp.data.importing import import_data
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError
from distbp.parallel.topology import Topology
from distbp.storage.run_directory import read_newest_checkpoint
from distbp.training import table_prediction
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.table_prediction import PredictionTask, rows_a_round

ROWS = 2 * 1024 + 77
TASKS = tuple(table_models.LABELS)


@pytest.fixture(autouse=True)
def without_mpi(monkeypatch):
    monkeypatch.setattr("distbp.parallel.topology.connect", Topology)


@pytest.fixture(scope="module")
def people():
    return table_models.people(ROWS)


@pytest.fixture(scope="module")
def models(tmp_path_factory, people):
    """Return a folder with a data set and a model for each task."""
    folder = tmp_path_factory.mktemp("models")
    for task in TASKS:
        path = table_models.write_data(folder / f"{task}.h5", people, task)
        table_models.train_model(path, folder / task)
    return folder


@pytest.fixture
def table(tmp_path, people, monkeypatch):
    """Return new.csv in the current directory."""
    monkeypatch.chdir(tmp_path)
    people.to_csv("new.csv", index=False)
    return "new.csv"


def run(*words):
    assert run_verb(parse_command_line([str(word) for word in words])) == 0


def expected_output(models, task):
    """Return what `predict DATA.h5 --out P.h5` writes."""
    out = models / "p.h5"
    run("predict", models / task, models / f"{task}.h5", "--split", "train", "--out", out)
    with h5py.File(out) as file:
        return file["output"][...], file["label"][...] if "label" in file else None


@pytest.mark.parametrize("task", TASKS)
def test_a_table_has_the_predictions_of_the_data_set(models, table, task):
    """Bit for bit, as shortest numbers that give the same bits; the columns have names."""
    run("predict", models / task, table, "--out", "p.csv", "--id", "name")
    output, labels = expected_output(models, task)
    found = pandas.read_csv("p.csv", dtype={"name": str})
    assert list(found["name"])[:2] == ["00000", "00001"]
    names = [f"class {i}" for i in range(3)]
    if task == "regression":
        assert list(found) == ["name", "price"]
        np.testing.assert_array_equal(found["price"], output[:, 0])
        assert 1e5 < found["price"].mean() < 4e5
        return
    probabilities = found[[f"p_{name}" for name in names]].to_numpy(output.dtype)
    np.testing.assert_array_equal(probabilities, output)
    if task == "classification":
        assert list(found) == ["name", "class", *(f"p_{name}" for name in names)]
        assert list(found["class"]) == [f"class {i}" for i in labels]
    else:
        np.testing.assert_array_equal(found[names], labels)


@pytest.mark.parametrize("end", [".csv.gz", ".tsv", ".parquet", ".feather", ".h5"])
def test_every_format_has_the_same_numbers(models, table, end):
    """HDF5 has arrays, with the identifiers beside them."""
    output, labels = expected_output(models, "classification")
    run("predict", models / "classification", table, "--out", f"p{end}", "--id", "name")
    if end == ".h5":
        with h5py.File("p.h5") as file:
            np.testing.assert_array_equal(file["output"][...], output, strict=True)
            np.testing.assert_array_equal(file["label"][...], labels, strict=True)
            assert file["id"].asstr()[-1] == f"{ROWS - 1:05}"
        return
    read = {".parquet": pandas.read_parquet, ".feather": pandas.read_feather}.get(
        end, lambda name: pandas.read_csv(name, sep="\t" if end == ".tsv" else ",")
    )
    found = read(f"p{end}")
    assert len(found) == ROWS
    np.testing.assert_array_equal(found["p_class 2"].astype(output.dtype), output[:, 2])
    assert list(found["class"]) == [f"class {i}" for i in labels]


def test_integers_that_identify_rows_stay_integers(models, table, people):
    """In files that have types, from a file that has none as from one that has."""
    people.assign(name=np.arange(ROWS) * 3 - 5).to_csv("new.csv", index=False)
    pandas.read_csv("new.csv").to_parquet("new.parquet")
    for new, out in (("new.csv", "p.parquet"), ("new.parquet", "p.feather"), ("new.csv", "p.h5")):
        run("predict", models / "classification", new, "--out", out, "--id", "name")
    found = [pandas.read_parquet("p.parquet")["name"], pandas.read_feather("p.feather")["name"]]
    with h5py.File("p.h5") as file:
        found.append(file["id"][...])
    for ids in found:
        np.testing.assert_array_equal(ids, np.arange(ROWS) * 3 - 5)
        assert ids.dtype == np.int64


@pytest.mark.parametrize("task", TASKS)
def test_evaluating_a_table_gives_the_score_of_the_data_set(models, table, task, capsys):
    """To the last bit; and it is one JSON object, whatever is said of the table."""
    run("evaluate", models / task, models / f"{task}.h5", "--split", "train", "--json")
    run("evaluate", models / task, table, "--json")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first.pop("split"), second.pop("data")) == ("train", table)
    if task == "multilabel":  # named otherwise in the table
        assert first == second
    assert first == second


def test_columns_are_found_in_any_order_and_in_any_format(models, table, people, capsys):
    """Without the label, with other columns, which are named; from Parquet, Feather, JSON."""
    run("predict", models / "classification", table, "--out", "p.csv")
    text = capsys.readouterr().out
    assert "not used: columns 'name', 'kind', 'price', 'red', 'green', 'blue'" in text
    assert text.endswith("p.csv: 2,125 rows\n")
    expected = Path("p.csv").read_text()
    other = people[["sex", "age", "town", "income"]]
    other.to_parquet("new.parquet")
    feather.write_feather(other, "new.feather")
    other.to_json("new.jsonl", orient="records", lines=True)
    other.to_csv("new.txt", sep=";", decimal=",", encoding="latin-1", index=False)
    for name in ("new.parquet", "new.feather", "new.jsonl", "new.txt"):
        run("predict", models / "classification", name, "--out", "p.csv", "--force")
        assert Path("p.csv").read_text() == expected, name
        assert "not used" not in capsys.readouterr().out


def test_what_a_table_lacks_is_said(models, table, people):
    """A column, a category, a cell, a label: each with the line and what to do."""
    model = models / "classification"

    def refused(frame, error, match, *words, verb="predict"):
        frame.to_csv("bad.csv", index=False)
        out = ["--out", "p.csv"] if verb == "predict" else []
        with pytest.raises(error, match=match):
            run(verb, model, "bad.csv", *out, *words)

    refused(people.drop(columns="age"), DataError, r"no column 'age', which the model takes; it")
    refused(people.drop(columns=["age", "sex"]), DataError, "no columns 'age', 'sex'")
    other = people.copy()
    other.loc[1100, "sex"] = "other"
    refused(
        other, DataError, r"bad\.csv, line 1102, column 'sex': 'other' is not one of .*--unknown"
    )
    run("predict", model, "bad.csv", "--out", "p.csv", "--unknown", "ignore")
    other.loc[1100, "sex"] = None
    refused(other, DataError, r"line 1102, column 'sex': the value is missing", "--force")
    refused(other, ConfigError, "`--id no`: .* has no such column", "--id", "no", "--force")
    refused(people.drop(columns="kind"), DataError, "needs as the label", verb="evaluate")
    other = people.copy()
    other.loc[3, "kind"] = "class 9"
    refused(other, DataError, "line 5, column 'kind': 'class 9' is not one of the model's 3",
            verb="evaluate")  # fmt: skip
    other.loc[3, "kind"] = None
    refused(other, DataError, "line 5, .*: the label is missing", verb="evaluate")


def test_from_standard_input_to_standard_output(models, table, people, monkeypatch, capfd):
    """Nothing but the table is on standard output; what is said is on standard error."""
    run("predict", models / "regression", table, "--out", "p.csv")
    capfd.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(table).read_bytes())))
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    run("predict", models / "regression", "-", "--out", "-")
    assert stdout.buffer.getvalue().decode() == Path("p.csv").read_text()
    assert "standard output: 2,125 rows" in capfd.readouterr().err


def test_a_score_on_standard_input_says_so(models, table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(table).read_bytes())))
    run("evaluate", models / "regression", "-")
    text = capsys.readouterr().out
    assert "\nstandard input: 2,125 rows, cost " in text
    assert " of ln price, R² " in text  # what is learned is the logarithm


def test_files_of_others_are_not_overwritten(models, table, people):
    """Unless --force is given; nothing in a CSV file says who has written it. Inputs never are."""
    words = ("predict", models / "classification", table, "--out")
    people.to_parquet("theirs.parquet")
    for name in ("theirs.parquet", table):
        with pytest.raises(ConfigError, match=r"exists already|overwrite an input"):
            run(*words, name)
    with pytest.raises(ConfigError, match="overwrite an input"):
        run(*words, table, "--force")
    for name in ("p.parquet", "p.feather", "p.h5"):
        run(*words, name)
        run(*words, name)
    run(*words, "p.csv")
    with pytest.raises(ConfigError, match=r"p\.csv exists already.*--force"):
        run(*words, "p.csv")
    run(*words, "p.csv", "--force")
    run(*words, "theirs.parquet", "--force")
    assert parquet.read_schema("theirs.parquet").names[:2] == ["row", "class"]
    with pytest.raises(ConfigError, match="ends in no known format"):
        run(*words, "p.xlsx")


def test_an_error_in_a_late_row_leaves_no_file(models, tmp_path, monkeypatch):
    """Neither the table nor a temporary one; an older one is as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table_prediction, "_MAX_BLOCKS_A_RANK", 1)
    frame = table_models.people(5000)
    frame.loc[4900, "sex"] = "other"
    frame.to_csv("new.csv", index=False)
    (tmp_path / "p.csv").write_text("older\n")
    for name in ("p.csv", "p.parquet", "p.h5"):
        with pytest.raises(DataError, match="line 4902"):
            run("predict", models / "classification", "new.csv", "--out", name, "--force")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "p.csv"]
    assert (tmp_path / "p.csv").read_text() == "older\n"


@pytest.mark.parametrize("make", [lambda f: f, polars.from_pandas, pyarrow.Table.from_pandas])
def test_predict_takes_a_data_frame(models, table, people, make):
    """Columns by name, whatever else is there; the bits of the file."""
    output, _ = expected_output(models, "regression")
    frame = make(people)
    found = distbp.predict(models / "regression", frame)
    np.testing.assert_array_equal(found, output, strict=True)
    with pytest.raises(DataError, match="no column 'sex'"):
        distbp.predict(models / "regression", make(people.drop(columns="sex")))


def test_columns_of_a_data_frame_that_are_not_used_hold_anything(models, people):
    """Objects that Arrow does not know, texts among numbers, or two of one name."""
    output, _ = expected_output(models, "regression")
    frame = people.assign(name=[object(), *[1, "a"] * (ROWS // 2)][:ROWS])
    frame = pandas.concat([frame, frame[["kind"]]], axis=1)
    np.testing.assert_array_equal(distbp.predict(models / "regression", frame), output)
    with pytest.raises(DataError, match="is a Series; expected a data frame"):
        distbp.predict(models / "regression", frame["age"])


def test_predict_in_python_can_ignore_unknown_categories(models, people):
    frame = people.assign(sex="other")
    with pytest.raises(DataError, match="'other' is not one of the 2 categories"):
        distbp.predict(models / "regression", frame)
    assert distbp.predict(models / "regression", frame, unknown="ignore").shape == (ROWS, 1)
    with pytest.raises(ConfigError, match="unknown='skip': expected one of error, ignore"):
        distbp.predict(models / "regression", frame, unknown="skip")


def test_the_names_of_columns_in_a_small_table_of_text(tmp_path, monkeypatch):
    """A model knows that there are some, which no difference between the lines shows."""
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("sex,kind,y\n" + "m,A,yes\nf,A,no\nm,B,no\nf,B,yes\n" * 9)
    import_data("d.csv", "d.h5")
    config = Config(data="d.h5", out="run", epochs=1, quiet=True, hidden=(3,))
    train(config, comm=Topology())
    Path("new.csv").write_text("kind,sex\nB,f\n")
    run("predict", "run", "new.csv", "--out", "p.csv")
    assert len(Path("p.csv").read_text().splitlines()) == 2
    Path("new.csv").write_text("B,f\n")
    with pytest.raises(DataError, match="is empty but for the names"):
        run("predict", "run", "new.csv", "--out", "q.csv")


def test_initial_weights_are_those_of_the_same_columns(tmp_path, monkeypatch):
    """Otherwise they would be those of other inputs."""
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("age,income,price\n1,2,3.5\n2,1,4\n3,5,6\n")
    Path("e.csv").write_text("income,age,price\n2,1,3.5\n1,2,4\n5,3,6\n")
    for name in "de":
        import_data(f"{name}.csv", f"{name}.h5")
    common = {"epochs": 1, "quiet": True, "hidden": (3,)}
    train(Config(data="d.h5", out="first", **common), comm=Topology())
    train(Config(data="d.h5", out="second", init_from="first", **common), comm=Topology())
    with pytest.raises(ConfigError, match="first was trained on other columns or categories"):
        train(Config(data="e.h5", out="third", init_from="first", **common), comm=Topology())


def test_a_split_of_a_data_set_as_a_table(models, table):
    """The rows have their numbers in the split."""
    path = models / "classification.h5"
    run("predict", models / "classification", path, "--split", "train", "--out", "p.csv")
    run("predict", models / "classification", table, "--out", "q.csv")
    assert Path("p.csv").read_text() == Path("q.csv").read_text()


def test_arrays_without_labels(models, table, people):
    """Of an .npz file, or a plain HDF5 file with --x: rows as the network takes them, unscaled."""
    output, _ = expected_output(models, "classification")
    x, _ = table_models.encode(people, "classification")
    np.savez("x.npz", rows=x)
    with h5py.File("x.h5", "w") as file:
        file["deep/rows"] = x
    run("predict", models / "classification", "x.npz", "--out", "p1.h5")
    run("predict", models / "classification", "x.h5", "--x", "deep/rows", "--out", "p2.h5")
    for name in ("p1.h5", "p2.h5"):
        with h5py.File(name) as file:
            np.testing.assert_array_equal(file["output"][...], output, strict=True)
    with pytest.raises(ConfigError, match=r"not a data set\. Convert .* --x NAME"):
        run("predict", models / "classification", "x.h5", "--out", "p3.h5")
    np.savez("bad.npz", x=x[:, 1:], other=x)
    with pytest.raises(DataError, match="takes rows of 8 numbers"):
        run("predict", models / "classification", "bad.npz", "--out", "p3.h5")
    np.savez("bad.npz", x=x.T)
    with pytest.raises(DataError, match=r"takes rows of 8 numbers\. Store x\.T"):
        run("predict", models / "classification", "bad.npz", "--out", "p3.h5")
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match=r"is a folder\. Convert the files in it with distbp"):
        run("predict", models / "classification", "folder", "--out", "p3.h5")


def labels_in_source(people, task):
    """Return the labels as whoever made a file of arrays has them."""
    if task == "classification":
        return np.array(people["kind"].tolist())
    return people[list(table_models.LABELS[task])].to_numpy()


@pytest.mark.parametrize("task", TASKS)
def test_arrays_with_labels(models, table, people, task, capsys):
    """They have the score of the data set, and text, one-hot rows or numbers as labels."""
    x, y = table_models.encode(people, task)[0], labels_in_source(people, task)
    np.savez("new.npz", x=x, y=y)
    with h5py.File("new.h5", "w") as file:
        file["rows"] = x
        file["labels"] = np.array(y.tolist(), object) if task == "classification" else y
        file["columns"] = x.T
    model = models / task
    run("evaluate", model, models / f"{task}.h5", "--split", "train", "--json")
    run("evaluate", model, "new.npz", "--json")
    run("evaluate", model, "new.h5", "--x", "rows", "--y", "labels", "--json")
    expected, *found = map(json.loads, capsys.readouterr().out.splitlines())
    assert [one["data"] for one in found] == ["new.npz", "new.h5"]
    for key in ("rows", "cost", "r2" if task == "regression" else "accuracy"):
        assert [one[key] for one in found] == [expected[key]] * 2
    with pytest.raises(DataError, match="--transpose, or store"):
        run("evaluate", model, "new.h5", "--x", "columns", "--y", "labels")
    with pytest.raises(
        ConfigError, match=r"not a data set.*--x NAME and, for evaluate, .*--y NAME"
    ):
        run("evaluate", model, "new.h5")


@pytest.mark.parametrize(
    ("task", "change", "match"),
    [
        (
            "classification",
            lambda y: np.where(y == "class 1", "other", y),
            "other is not one of the",
        ),
        (
            "classification",
            lambda y: np.zeros(len(y)),
            "row 0: the label 0 is not one of the model",
        ),
        ("classification", lambda y: np.zeros((len(y), 3)), "has 3 numbers a row; .* 1 label a"),
        ("classification", lambda y: y[1:], r"has 2125 rows, but new\.npz: y 2124"),
        ("classification", lambda y: np.zeros((len(y), 2, 2)), r"\(2125, 2, 2\); expected labels"),
        ("regression", lambda y: y - y.max(), "expected a positive number, found"),
        ("regression", lambda y: y.astype(str), "has 1 texts a row; the model is for regression"),
        ("multilabel", lambda y: y + 1, "expected 0 or 1 for multilabel, found 2"),
        ("multilabel", lambda y: y[:, :2], "has 2 numbers a row; .* 3 numbers a row"),
    ],
)
def test_arrays_of_labels_that_the_model_does_not_have(models, table, people, task, change, match):
    """One sentence for each, with the row where there is one."""
    x = table_models.encode(people, task)[0]
    np.savez("new.npz", x=x, y=change(labels_in_source(people, task)))
    with pytest.raises(DataError, match=match):
        run("evaluate", models / task, "new.npz")


def test_one_hot_labels_of_arrays(tmp_path, monkeypatch, capsys):
    """Their columns are the classes, as in an import."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 200)
    np.savez("new.npz", x=random.normal(size=(200, 4)) + y[:, np.newaxis], y=np.eye(3)[y])
    import_data("new.npz", "data.h5")
    table_models.train_model("data.h5", "run")
    run("evaluate", "run", "data.h5", "--split", "train", "--json")
    run("evaluate", "run", "new.npz", "--json")
    expected, found = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    assert found["accuracy"] == expected["accuracy"]
    assert found["cost"] == expected["cost"]
    with pytest.raises(DataError, match=r"no array 'z'; it has x, y\. Name .* --y NAME"):
        run("evaluate", "run", "new.npz", "--y", "z")


def test_arrays_of_matlab(tmp_path, monkeypatch, capsys):
    """Rows are found by the labels, and without labels by the number of inputs."""
    hdf5storage = pytest.importorskip("hdf5storage")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 60)
    x = random.normal(size=(60, 6)) + y[:, np.newaxis]
    arrays = {"x": x, "y": y.astype(float), "square": x[:6], "images": x.T.reshape(2, 3, 60)}
    hdf5storage.savemat("m.mat", arrays, format="7.3", store_python_metadata=False)
    import_data("m.mat", "data.h5", ImportOptions(x="x", y="y"))
    table_models.train_model("data.h5", "run")
    run("evaluate", "run", "data.h5", "--split", "train", "--json")
    run("evaluate", "run", "m.mat", "--x", "x", "--y", "y", "--json")
    expected, found = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    assert found["cost"] == expected["cost"]
    outputs = {}
    for name in ("x", "square", "images"):
        run("predict", "run", "m.mat", "--x", name, "--out", f"{name}.h5")
        with h5py.File(f"{name}.h5") as file:
            outputs[name] = file["output"][...]
    np.testing.assert_array_equal(outputs["x"], distbp.predict("run", x))
    np.testing.assert_allclose(outputs["square"], outputs["x"][:6], rtol=1e-5)
    assert len(outputs["images"]) == 60
    with pytest.raises(ConfigError, match=r"m\.mat is an HDF5 file, but not a data set"):
        run("predict", "run", "m.mat", "--out", "p.h5")


def test_options_that_do_not_apply(models, table):
    """One sentence each, before anything is read."""
    model, data = models / "classification", models / "classification.h5"
    for words in ([table, "--split", "train"], [data, "--separator", ";"], [data, "--id", "a"],
                  [data, "--unknown", "ignore"]):  # fmt: skip
        with pytest.raises(ConfigError, match="Leave it out"):
            run("predict", model, *words, "--out", "p.csv")
    with pytest.raises(ConfigError, match="names an array"):
        run("predict", model, table, "--x", "a", "--out", "p.csv")
    table_models.people(5).rename(columns={"name": "class"}).to_csv("twice.csv")
    with pytest.raises(ConfigError, match="two columns 'class'"):
        run("predict", model, "twice.csv", "--id", "class", "--out", "p.csv")


def test_a_round_is_of_whole_blocks_and_bounded():
    for n_in in (1, 10, 1000, 100_000):
        for ranks in (1, 3, 64):
            rows = rows_a_round(n_in, ranks)
            assert rows % (1024 * ranks) == 0
            assert rows == 1024 * ranks or rows * n_in * 8 <= 1 << 25


def test_columns_of_a_model_without_names(models, tmp_path):
    """It was trained on arrays: the outputs of a regression have numbers."""
    checkpoint, _ = read_newest_checkpoint(models / "regression")
    del checkpoint.about["preprocessing"]
    task = PredictionTask(checkpoint, "p.csv")
    assert list(task._columns(np.zeros((1, 1)), None)) == ["row", "prediction"]
