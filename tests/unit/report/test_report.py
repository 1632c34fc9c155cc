"""Reports on real runs of all tasks, and on those of which something is missing."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import samples
import table_models

from distbp.cli.commands import VERBS
from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.parallel.topology import Topology
from distbp.report import findings, page
from distbp.report.contents import make_page
from distbp.report.findings import as_picture, picture_shape
from distbp.report.page import render, write_page, write_pictures
from distbp.report.reported_run import read_runs
from distbp.training.config import Config
from distbp.training.config_file import read_toml
from distbp.training.loop import train
from distbp.training.model import evaluate

HOSTILE = "<script>alert(1)</script>"
VOID = ("meta", "img", "path", "use", "rect", "image", "br")


class Parsed(HTMLParser):
    """What is in a page: elements with their attributes, its text, and what is not closed."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open, self.crossed = [], "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID and self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def tables(self):
        return len(self.all("table"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function that returns the directory of a run, trained once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name, **options):
        key = name, str(options)
        if key not in made:
            data, out = folder / f"{len(made)}.h5", folder / f"run{len(made)}"
            if name == "table":
                table_models.write_data(data, table_models.people(150), "classification")
            else:
                samples.DATA_SETS[name](data)
            defaults = {"hidden": (7,), "batch_size": 50, "epochs": 3, "engine": "numpy"}
            config = Config(data=str(data), out=str(out), **defaults | options)
            train(config, comm=Topology())
            made[key] = out
        return made[key]

    return run


def report(*runs, data=None):
    return render(make_page(read_runs([str(run) for run in runs]), data))


def assert_is_sound(html):
    """Check what every page has to be: complete in itself, labelled, without a script."""
    parsed = Parsed(html)
    assert (parsed.open, parsed.crossed) == ([], [])
    assert not parsed.all("script")
    assert not parsed.all("link")
    identifiers = [one["id"] for _, one in parsed.elements if "id" in one]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:image/png", "#"))
            if address is not None and address.startswith("#"):
                assert address[1:] in identifiers
    labels = [one["aria-labelledby"] for _, one in parsed.elements if "aria-labelledby" in one]
    assert set(labels) <= set(identifiers)
    assert all(one["role"] == "img" and one["aria-labelledby"] for one in parsed.all("svg"))
    assert all(one["alt"] for one in parsed.all("img"))
    assert len(parsed.all("caption")) == parsed.tables > 0
    assert all("scope" in one for one in parsed.all("th"))
    return parsed


def test_a_classification_of_images(trained):
    """Curves, confusions, pictures of the worst errors and of weights, times, digests."""
    run = trained("digits", schedule="cosine", metrics=("f1",))
    html = report(run)
    parsed = assert_is_sound(html)
    data = DataSet(config_of(run)["data"])
    for text in (
        "Learning curves", "Confusion matrix", "Worst errors", "Time of a step", "F1",
        "Learning rate", "Weights of the first layer", "One start, without a fault",
    ):  # fmt: skip
        assert text in parsed.text
    lines = (run / "metrics.jsonl").read_text().splitlines()
    digests = [json.loads(line)["digest"] for line in lines]
    assert digests[-1] in parsed.text
    assert data.about["digest"] in parsed.text
    assert len(html) < 1_000_000


def test_the_score_is_that_of_evaluate(trained):
    """Of all test rows."""
    run = trained("digits")
    (opened,) = read_runs([str(run)])
    data = findings.open_run_data(opened)
    found = findings.evaluate_run(opened, data)
    split = data.split("test")
    x = split.x.view(split.x_dtype).reshape(len(split), *data.about["shape"])
    names = np.array([data.classes[label] for label in split.targets()[:, 0]])
    expected = evaluate(run, x, names)
    assert found.score == expected
    assert found.confusion.tolist() == expected["confusion_matrix"]
    worst = findings.worst_examples(found, data, 5)
    probabilities = [one.probability for one in worst]
    assert probabilities == sorted(probabilities)
    for one in worst:
        assert one.truth == names[one.row] != one.predicted
        assert (one.picture == x[one.row]).all()


def test_of_many_rows_some_are_evaluated(trained, monkeypatch):
    """At equal distances; the page says how many."""
    monkeypatch.setattr(findings, "_MOST_ROWS", 20)
    run = trained("digits")
    (opened,) = read_runs([str(run)])
    found = findings.evaluate_run(opened, findings.open_run_data(opened))
    assert len(found.targets) == found.score["rows"] == 20
    assert (np.diff(found.numbers) >= 5).all()
    assert "20 of 101 test rows" in report(run)


@pytest.mark.parametrize("options", [{"validation": 0.2}, {"fold": "1/4"}], ids=str)
def test_rows_that_were_held_out(trained, options, tmp_path):
    """Without a test set, and the same as in the training."""
    path = samples.digits(tmp_path / "d.h5", {"train": 211})
    out = tmp_path / "run"
    train(
        Config(data=str(path), out=str(out), epochs=2, engine="numpy", **options), comm=Topology()
    )
    (opened,) = read_runs([str(out)])
    found = findings.evaluate_run(opened, findings.open_run_data(opened))
    assert (found.split, found.group) == ("validation", "train")
    assert found.score["accuracy"] == opened.epochs[-1]["validation_accuracy"]
    assert "held out of the training rows" in assert_is_sound(report(out)).text


@pytest.mark.parametrize("name", ["numbers", "prices"])
def test_a_regression(trained, name):
    """Predicted against true values in the user's units, and residuals, of each target."""
    run = trained(name)
    parsed = assert_is_sound(report(run))
    for text in ("Predicted against true", "Residuals of", "Largest errors", "R²"):
        assert text in parsed.text
    assert "Confusion" not in parsed.text
    (opened,) = read_runs([str(run)])
    found = findings.evaluate_run(opened, findings.open_run_data(opened))
    errors = found.outputs - found.targets
    assert np.sqrt(np.mean(errors**2, axis=0)) == pytest.approx(
        [part["rmse"] for part in found.score["targets"]]
    )
    _, truth, value = findings.worst_misses(found, 0, 1)[0]
    assert abs(value - truth) == pytest.approx(np.abs(errors[:, 0]).max())


def test_several_labels_a_row(trained):
    parsed = assert_is_sound(report(trained("labels")))
    assert "of all labels are correct" in parsed.text
    assert "Metrics of the labels" in parsed.text


def test_a_table_names_its_inputs(trained):
    """In the heat map of the weights."""
    run = trained("table")
    parsed = assert_is_sound(report(run))
    (opened,) = read_runs([str(run)])
    assert opened.checkpoint.preprocessing.input_names[0] in parsed.text


def test_a_network_without_hidden_layers(trained):
    """Its weights are those of the classes."""
    assert "Weights of class 3" in report(trained("digits", hidden=()))


def test_several_runs_are_compared(trained):
    """In the same figures, with the options that differ; everything else on request."""
    runs = trained("digits"), trained("digits", epochs=2, learning_rate=0.3)
    parsed = assert_is_sound(report(*runs))
    assert "2 runs" in parsed.text
    for text in ("epochs done", "learning-rate", "Run run", "test accuracy"):
        assert text in parsed.text
    (comparison,) = make_page(read_runs(list(map(str, runs)))).sections[0].items
    # Each run of this test has a data set file of its own.
    assert comparison.headers[:5] == ["run", "data", "learning-rate", "epochs", "epochs done"]
    assert len(parsed.all("details")) >= 2 * 5


def test_runs_of_one_name(trained, tmp_path):
    """They are told apart by their paths."""
    for name in ("a", "b"):
        shutil.copytree(trained("digits"), tmp_path / name / "run")
    names = [run.name for run in read_runs([str(tmp_path / "a/run"), str(tmp_path / "b/run")])]
    assert len(set(names)) == 2
    (alone,) = read_runs([str(tmp_path / "a/run"), str(tmp_path / "a/run")])
    assert alone.name == "run"


# What is missing or damaged.


@pytest.fixture
def copied(trained, tmp_path):
    """Return the directory of a run that a test may damage."""
    return Path(shutil.copytree(trained("digits"), tmp_path / "copied"))


def test_a_run_that_is_going_on(copied):
    """Its last lines are half written, and there may be no checkpoint and no events yet."""
    for name in ("metrics.jsonl", "events.jsonl"):
        path = copied / name
        path.write_text(path.read_text() + '{"epoch": 4, "tra')
    shutil.rmtree(copied / "checkpoints")
    for name in ("last.h5", "best.h5"):
        (copied / name).unlink()
    config = (copied / "config.toml").read_text().replace("epochs = 3", "epochs = 9")
    (copied / "config.toml").write_text(config)
    (copied / "status.json").write_text('{"state": "running", "time": 1, "epo')
    events = (copied / "events.jsonl").read_text().splitlines()
    (copied / "events.jsonl").write_text("\n".join(events[:-2]) + "\n")  # without its end
    text = assert_is_sound(report(copied)).text
    assert "3 of 9 epochs, running" in text
    assert "no checkpoint" in text
    assert "Mean of 1 rank" in text  # the times of a step so far
    assert "Trained to the end" not in text
    for name in ("metrics.jsonl", "events.jsonl"):
        (copied / name).unlink()
    assert "No epoch has been completed yet" in assert_is_sound(report(copied)).text


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\n", b"[]\n1\n", b'{"KEY": "<b>", "text": {}}\n{"KEY": []}\n{"KEY": "start"}\n',
     b'{"KEY": "times", "ranks": [1, {"compute": "x"}, {"host": [], "wait": 1e400}], "time": true}',
     b'{"KEY": 3, "validation_cost": "x", "test_cost": [], "train_cost": {}, "seconds": -1e400}\n',
     b'{"KEY": 1e400, "test_cost": 1e308, "learning_rate": null}\n{"KEY": 2, "test_cost": 2}\n'],
)  # fmt: skip
def test_lines_that_make_no_sense(copied, content):
    """As of a file that is damaged, or that another program has written."""
    (copied / "metrics.jsonl").write_bytes(content.replace(b"KEY", b"epoch"))
    (copied / "events.jsonl").write_bytes(content.replace(b"KEY", b"event"))
    assert_is_sound(report(copied))


def test_the_data_set_is_elsewhere(copied, trained, tmp_path):
    """A sentence says so; with its path, there are predictions."""
    data = Path(Config(**config_of(copied)).data)
    moved = tmp_path / "moved.h5"
    shutil.copy(data, moved)
    replace_in_config(copied, str(data), "gone.h5")
    assert "The data set gone.h5 is not here" in assert_is_sound(report(copied)).text
    assert "Confusion matrix" in report(copied, data=str(moved))
    samples.digits(moved, {"train": 90, "test": 20})
    assert "is not the data set that the run was trained on" in report(copied, data=str(moved))


def test_a_relative_path_begins_where_the_run_was_started(copied, tmp_path):
    """So that a report can be written from anywhere."""
    shutil.copy(Config(**config_of(copied)).data, tmp_path / "d.h5")
    replace_in_config(copied, config_of(copied)["data"], "d.h5")
    replace_in_config(copied, config_of(copied)["out"], "copied")
    assert "Confusion matrix" in report(copied)


def config_of(run):
    return read_toml(run / "config.toml")


def replace_in_config(run, before, after):
    path = run / "config.toml"
    path.write_text(path.read_text().replace(f'"{before}"', f'"{after}"'))


def test_names_cannot_break_a_page(tmp_path):
    """That of a class, a run, an event, an option."""
    path = samples.write(
        tmp_path / "d.h5", samples_of_classes(), samples.Scaling(np.zeros(1), np.ones(1)), 3
    )
    rename_classes(path, [HOSTILE, "$\\frac{", "]]>\u202e\x00"])
    run = tmp_path / "<b onload=x>"
    train(Config(data=str(path), out=str(run), epochs=2, engine="numpy"), comm=Topology())
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "warning", "text": HOSTILE, "time": "x"}) + "\n")
    html = report(run)
    parsed = assert_is_sound(html)
    assert HOSTILE not in html
    assert HOSTILE in parsed.text


def samples_of_classes():
    r = np.random.default_rng(0)
    return {
        name: (r.normal(size=(rows, 4)), r.integers(0, 3, rows))
        for name, rows in (("train", 40), ("test", 30))
    }


def rename_classes(path, names):
    """Give a data set other classes: write it again, as its checksum covers them."""
    from distbp.data.dataset import DATA_FORMAT, version_for
    from distbp.errors import DataError
    from distbp.storage import hdf5_file

    data = DataSet(path)
    splits = {
        n: (s.x.view(s.x_dtype).copy(), s.targets()[:, 0].copy()) for n, s in data.splits.items()
    }
    about = data.about | {"classes": names}
    with hdf5_file.create_file(
        path, DATA_FORMAT, version_for("classification", False), DataError
    ) as file:
        for name, (x, y) in splits.items():
            hdf5_file.write_array(file, f"{name}/x", x)
            hdf5_file.write_array(file, f"{name}/y", y)
        data.scaling.write(file)
        hdf5_file.write_json(file, "about", about)


def test_faults_that_a_run_has_survived(copied):
    with (copied / "events.jsonl").open("a") as file:
        for event in (
            {"event": "warning", "time": 1e9, "text": "rank 2 died."},
            {"event": "stop", "time": 1e9, "reason": "SIGTERM"},
            {"event": "start", "epoch": 2, "step": 7, "ranks": 3, "nodes": 1},
        ):
            file.write(json.dumps(event) + "\n")
    text = assert_is_sound(report(copied)).text
    assert "2 starts, 1 warning" in text
    assert "2001-09-09 01:46:40 UTC" in text
    assert "rank 2 died." in text
    assert "Stopped by SIGTERM" in text
    assert "Resumed on 3 ranks of 1 node, after 2 epochs and 7 steps." in text


def test_a_run_that_has_failed(copied):
    """As it has recorded itself."""
    status = {"state": "failed", "message": f"A value is not finite. {HOSTILE}"}
    (copied / "status.json").write_text(json.dumps(status))
    text = assert_is_sound(report(copied)).text
    assert "3 of 3 epochs, failed" in text
    assert f"Failed: A value is not finite. {HOSTILE}" in text


def test_options_that_are_not_the_defaults(trained):
    """They come first; what is derived is no option of the user's."""
    page_of = make_page(read_runs([str(trained("digits", optimizer="adam", seed=7))]))
    section = next(one for one in page_of.sections if one.title == "Configuration")
    own = [row[0] for row in section.items[0].rows]
    assert {"optimizer", "seed", "hidden"} < set(own)
    assert not {"learning-rate", "cost", "shards", "monitor", "kernels", "shuffle"} & set(own)
    assert ["learning-rate", "0.001", "0.001"] in section.items[1].items[0].rows


def test_a_run_of_many_epochs(copied):
    """Its page is hardly larger than that of one of few."""
    record = json.loads((copied / "metrics.jsonl").read_text().splitlines()[-1])
    with (copied / "metrics.jsonl").open("w") as file:
        for epoch in range(1, 5001):
            record |= {"epoch": epoch, "train_cost": 1 / epoch, "test_cost": 1 / epoch + epoch % 7}
            file.write(json.dumps(record) + "\n")
    html = report(copied)
    assert "Each point is the mean of 8 epochs" in html
    assert len(html) < 1_500_000


# Files.


def test_files_of_others_are_not_overwritten(trained, tmp_path):
    """A report is; what is no report only on request."""
    found, path = make_page(read_runs([str(trained("digits"))])), tmp_path / "r.html"
    write_page(found, path)
    write_page(found, path)
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already, and is no report"):
        write_page(found, path)
    write_page(found, path, is_forced=True)
    with pytest.raises(ConfigError, match="is not a directory"):
        write_page(found, tmp_path / "none" / "r.html")
    with pytest.raises(ConfigError, match="exists already"):
        page.check_overwrite(tmp_path, is_forced=True)


def test_the_plots_alone(trained, tmp_path):
    """One file each; those of one of several runs have its name."""
    found = make_page(read_runs([str(trained("digits"))]))
    names = {path.stem for path in write_pictures(found, tmp_path / "png")}
    assert {"cost", "accuracy", "confusion-matrix", "worst-errors", "first-layer-weights",
            "speed", "step-times"} <= names  # fmt: skip
    write_pictures(found, tmp_path / "png")
    (tmp_path / "png" / "cost.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"cost\.png exists already"):
        write_pictures(found, tmp_path / "png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        write_pictures(found, tmp_path / "file")


def run_verb(*words):
    return VERBS["report"].run(VERBS["report"].parse(list(map(str, words))))


def test_the_command(trained, tmp_path, capsys):
    assert run_verb(trained("digits"), "--out", tmp_path / "r.html", "--png", tmp_path) == 0
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert "r.html: " in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--out FILE\.html, or plots, --png FOLDER"):
        run_verb(trained("digits"))
    with pytest.raises(ConfigError, match="is not the directory of a run"):
        run_verb(tmp_path, "--out", tmp_path / "r.html")


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_a_package_that_is_missing(trained, tmp_path, monkeypatch, name):
    """It is named, with the command that installs it."""
    monkeypatch.setattr("distbp.cli.report_command.find_spec", lambda one: one != name or None)
    with pytest.raises(ConfigError, match=rf"needs {name}.*pip install 'distbp\[report\]'"):
        run_verb(trained("digits"), "--out", tmp_path / "r.html")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [([28, 28], (28, 28)), ([8, 6], (8, 6)), ([32, 30, 3], (32, 30, 3)), ([3, 32, 30], (32, 30, 3)),
     ([1, 28, 28], (28, 28)), ([28, 28, 1], (28, 28)), ([784], None), ([100, 2], None),
     ([5, 8, 8], None), ([2000, 2000], None), ([], None)],
)  # fmt: skip
def test_rows_that_are_images(shape, expected):
    assert picture_shape(shape) == expected
    row = np.arange(np.prod(shape, dtype=int))
    picture = as_picture(row, shape)
    assert (picture is None) == (expected is None)
    if picture is not None:
        assert picture.shape == expected
        channels_first = len(shape) == 3 and tuple(shape) != expected and len(expected) == 3
        at = picture[1, 2, 0] if len(expected) == 3 else picture[1, 2]
        axis = 1 if len(expected) == 2 or channels_first else expected[2]
        assert at == (expected[1] + 2) * axis
