"""Where two runs part: real runs that differ in one thing each, and files of older versions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import samples

from distbp.cli.diff_command import difference_lines
from distbp.cli.main import parse_command_line
from distbp.errors import CheckpointError, ConfigError
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import read_checkpoint, write_checkpoint
from distbp.training.config import Config
from distbp.training.difference_reason import likely_reason
from distbp.training.loop import train
from distbp.training.recorded_run import read_run
from distbp.training.run_difference import compare_runs

OLD = Path(__file__).resolve().parents[2] / "checkpoints"
OPTIONS = {"hidden": (9,), "batch_size": 70, "epochs": 3, "shards": 4, "keep": 9,
           "optimizer": "adam", "quiet": True, "checkpoint_every": "1epoch"}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a function that returns the directory of a run with some options, trained once."""
    folder, trained = tmp_path_factory.mktemp("runs"), {}
    data = samples.digits(folder / "digits.h5")
    samples.digits(folder / "other.h5", {"train": 499, "test": 101})

    def of(data=data, **options):
        key = json.dumps([str(data), options])
        if key not in trained:
            out = folder / str(len(trained))
            train(Config(data=str(data), out=str(out), **OPTIONS | options), comm=Topology())
            trained[key] = out
        return trained[key]

    of.folder = folder
    return of


def diff(a, b):
    return compare_runs(read_run(Path(a)), read_run(Path(b)))


def text_of(found):
    reason = likely_reason(found) if found.verdict == "different" else None
    return "\n".join(difference_lines(found, reason))


def change(path, arrays=None, **about):
    """Write a checkpoint again with a change."""
    checkpoint = read_checkpoint(path)
    for name, values in about.items():
        checkpoint.about[name] = checkpoint.about[name] | values
    for change_array in arrays or ():
        change_array(checkpoint)
    write_checkpoint(path, checkpoint)


@pytest.fixture
def copy(runs, tmp_path):
    """Return a copy of the run without other options, in which files may be changed."""
    shutil.copytree(runs(), tmp_path / "copy")
    return tmp_path / "copy"


def test_equal_runs(runs):
    """Whatever does not count: another reduction, other intervals, more metrics."""
    found = diff(runs(), runs(combine="tree", checkpoint_every="4steps", metrics=("f1",)))
    assert found.verdict == "equal"
    assert {one.name for one in found.options} == {"combine", "checkpoint_every", "metrics"}
    assert (found.epochs, found.first_epoch, found.versions) == (3, None, [])
    assert found.place.place == (3, 0)
    assert found.place.compared == 4 * 3  # weights and biases of 2 layers, and Adam's two moments
    assert text_of(found).endswith("\nequal bit for bit")
    assert diff(runs() / "last.h5", runs() / "best.h5").verdict == "equal"


def test_a_shorter_run_is_equal_as_far_as_it_went(runs, copy):
    """A run that is still going: a line is being written, and checkpoints are removed."""
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0] + lines[1][:40])
    for path in [copy / "last.h5", copy / "best.h5", *(copy / "checkpoints").iterdir()]:
        if read_checkpoint(path).about["progress"]["epoch"] > 1:
            path.unlink()
    found = diff(copy, runs())
    assert (found.verdict, found.epochs, found.place.place) == ("equal", 1, (1, 0))
    assert text_of(found).endswith("equal bit for bit, as far as both go; b has 2 epochs more")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seed": 3}, "another --seed (0 | 3): other initial weights, and another order of the"),
        ({"shards": 5}, "another --shards (4 | 5): the gradients of a batch are added in another"),
        ({"l2": 0.1, "dropout": 0.5}, "another --l2 (0.0 | 0.1), --dropout (0.0 | 0.5)"),
        ({"dtype": "float64"}, "another --dtype (float32 | float64): numbers of another type"),
        ({"hidden": (8,)}, "another --hidden (9 | 8)"),
        ({"data": "other.h5"}, "other data: their digests differ"),
    ],
    ids=str,
)  # fmt: skip
def test_what_runs_differ_in(runs, options, reason):
    """The first epoch, the first layer, and the likely reason."""
    if "data" in options:
        options = {"data": runs.folder / options["data"]}
    found = diff(runs(), runs(**options))
    assert (found.verdict, found.first_epoch, found.record[0].name) == ("different", 1, "digest")
    assert likely_reason(found).startswith(reason)
    assert text_of(found).splitlines()[-1].startswith(f"different: {reason}")
    if found.has_other_shape:
        assert "arrays    of other shapes: 48-9-5 float32 | 48-" in text_of(found)
    else:
        assert found.place.place == (1, 0)
        first = found.place.arrays[0]
        assert (first.layer, first.array, first.difference.size) == (1, "weights", 48 * 9)


def test_only_rounding_differs_by_few_ulp(runs):
    """That of one addition in another order, after an epoch."""
    found = diff(runs(), runs(shards=5))
    assert found.place.arrays[0].difference.relative < 0.1
    assert found.place.arrays[0].difference.absolute < 1e-3


def test_a_single_changed_bit_is_found(runs, copy):
    """In the optimizer's state of the second layer, at the second epoch."""

    def flip(checkpoint):
        moment = checkpoint.state["second_moment"]
        moment[-3:-2] = np.nextafter(moment[-3:-2], np.float32(1))

    paths = sorted((copy / "checkpoints").iterdir())
    change(paths[1], [flip])
    found = diff(runs(), copy)
    assert (found.verdict, found.first_epoch, found.place.place) == ("different", None, (2, 0))
    (one,) = found.place.arrays
    assert (one.layer, one.array) == (2, "biases of the optimizer's second_moment")
    assert (one.difference.count, one.difference.ulp) == (1, 1)
    assert "1 of 12 differ; first layer 2, biases of the" in text_of(found)
    assert likely_reason(found).startswith("nothing that was recorded explains it. A resumed run")


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"machine": {"blas": "openblas 0.3 Zen"}}, "other libraries or kernels of matrix product"),
        ({"versions": {"distbp": "0.0.9"}}, "another version of distbp: distbp 0."),
        ({"progress": {"rate_factor": 0.5}}, "a step was skipped or rolled back"),
        ({"versions": {"python": "3.9"}}, "nothing that was recorded explains it but python 3."),
        ({"config": {"combine": "allreduce"}}, "another --combine (node | allreduce)"),
        ({"config": {"init_from": "a.h5"}}, "another --init-from (none | a.h5)"),
        ({"config": {"kernels": "Zen"}}, "another --kernels ("),
    ],
    ids=str,
)  # fmt: skip
def test_reasons_that_checkpoints_record(runs, copy, about, reason):
    change(copy / "last.h5", [lambda one: one.network.theta.fill(0.5)], **about)
    found = diff(runs(), copy)
    assert found.verdict == "different"
    assert likely_reason(found).startswith(reason)


def test_other_scores_of_equal_models(runs, copy):
    """They differ in the records alone."""
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[2])
    lines[2] = json.dumps(record | {"test_cost": record["test_cost"] + 1})
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = diff(runs(), copy)
    assert (found.verdict, found.first_epoch) == ("different", 3)
    assert [one.name for one in found.record] == ["test_cost"]


def test_nothing_in_common(runs, tmp_path):
    """A run that has only begun; a directory that is none; a damaged file beside good ones."""
    begun = tmp_path / "begun"
    begun.mkdir()
    with pytest.raises(CheckpointError, match="is neither a run nor a checkpoint"):
        read_run(begun)
    shutil.copy(runs() / "config.toml", begun)
    found = diff(begun, runs())
    assert (found.verdict, found.epochs, found.place) == ("not comparable", 0, None)
    assert "no epoch and no checkpoint in common" in text_of(found)
    (begun / "last.h5").write_bytes(b"no checkpoint")
    (note,) = diff(begun, runs()).notes
    assert "last.h5" in note


@pytest.mark.parametrize("name", ["classification", "regression"])
def test_old_versions_are_read(name):
    """Version 1 kept the history elsewhere; both were stopped in the same epoch."""
    found = diff(OLD / name / "version-1", OLD / name / "version-2")
    assert found.verdict == "equal"
    assert (found.epochs, found.place.place) == (2, (2, 3))
    other = diff(OLD / name / "version-1", OLD / "table" / "version-3" / "last.h5")
    assert other.verdict == "different"


def test_the_command(runs, tmp_path, capsys):
    """Exit status as of diff, and one JSON object."""

    def run(*words):
        arguments = parse_command_line(["diff", *map(str, words)])
        return arguments.verb.run(arguments), capsys.readouterr().out

    assert run(runs(), runs())[0] == 0
    status, out = run(runs(), runs(seed=3), "--json")
    found = json.loads(out)
    assert (status, found["verdict"], found["first_epoch"]) == (1, "different", 1)
    assert found["options"] == [{"name": "seed", "a": 0, "b": 3}]
    assert found["checkpoints"]["differences"][0]["layer"] == 1
    assert found["reason"].startswith("another --seed")
    with pytest.raises(ConfigError, match="nowhere"):
        run(runs(), tmp_path / "nowhere")
