"""Complete runs in one process: records, checkpoints, resuming, and refusals.

The same on several ranks is in tests/mpi. Data sets are those of `samples`.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import samples

from distbp.data.batches import BatchLoader
from distbp.data.dataset import DATA_FORMAT, DATA_VERSION, DataSet
from distbp.data.importing import import_data
from distbp.data.tables import ImportOptions
from distbp.errors import CheckpointError, ConfigError, DataError, DistbpError
from distbp.network import rng
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameter_store import ParameterStore
from distbp.network.parameters import digest, layer_views
from distbp.network.schedules import plateau_factor
from distbp.network.update import Update
from distbp.parallel.step_totals import COST
from distbp.parallel.topology import Topology
from distbp.storage import hdf5_file, run_directory
from distbp.storage.checkpoint import read_checkpoint
from distbp.storage.run_directory import RunDirectory, find_checkpoint, load
from distbp.training import setup
from distbp.training.config import Config
from distbp.training.loop import Run, train
from distbp.training.recorder import RunRecorder
from distbp.training.setup import assemble

N, CLASSES = samples.ROWS["train"], samples.N_CLASSES
TIMES = ("seconds", "samples_per_s")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a function that returns the path of a sample data set, written once."""
    folder, written = tmp_path_factory.mktemp("data"), {}

    def of(name):
        if name not in written:
            written[name] = samples.DATA_SETS[name](folder / f"{len(written)}.h5")
        return str(written[name])

    return of


@pytest.fixture
def run(tmp_path, data):
    """Return a function that trains on one rank with some options, each time in a new directory."""
    count = iter(range(100))

    def train_with(name="digits", **options):
        defaults = {"hidden": (9,), "batch_size": 70, "epochs": 3, "quiet": True}
        config = Config(data=data(name), out=str(tmp_path / f"run{next(count)}"))
        return train(replace(config, **defaults | options), comm=Topology())

    return train_with


def resumed(path, **changes):
    """Resume a run as `distbp train --resume` does."""
    config = Config(**read_checkpoint(find_checkpoint(path)).about["config"])
    return train(config.resumed({"out": str(path), **changes}), resume=True, comm=Topology())


def rows(path, split):
    """Return x (n, n_0) and y (n, n_L) of a split, scaled, in float64."""
    file = DataSet(path)
    part = file.splits[split]
    feed = BatchLoader(part, file.scaling, file.n_classes, len(part), np.dtype("f8"))
    x, y, _ = feed.load(np.arange(len(part)))
    return x, y


def metrics(path):
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def timeless(history):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in history]


def cost_and_accuracy(network, x, y):
    work = network.workspace(len(x))
    a = network.feedforward(x, work)
    cost = network.cost.fn(work.z[-1], a, y) / len(x)
    return cost, float(np.mean(a.argmax(axis=1) == y.argmax(axis=1)))


# What a run computes.


def plainly(config, x, y, epochs):
    """Train as the book does, without shards or buffers; return θ and each epoch's train cost."""
    network = Network(
        (x.shape[1], *config.hidden, y.shape[1]), config.activation, seed=config.seed,
        dtype="float64",
    )  # fmt: skip
    update = Update(network, OPTIMIZERS[config.optimizer](0.9), l2=config.l2 / len(x))
    costs = []
    for epoch in range(epochs):
        order = rng.permutation(len(x), config.seed, rng.SHUFFLE, epoch)
        cost = 0.0
        for start in range(0, len(x), config.batch_size):
            batch = order[start : start + config.batch_size]
            total = np.empty_like(network.theta)
            network.backprop(x[batch], y[batch], layer_views(total, network.sizes))
            cost += cost_and_accuracy(network, x[batch], y[batch])[0] * len(batch)
            update.apply(total, len(batch), 0.1)
        costs.append(cost / len(x))
    return network.theta, costs


@pytest.mark.parametrize(
    ("batch_size", "shards"),
    [(64, 4), (N, 1), (2 * N, 8), (N - 1, 100), (71, 71), (100, 7)],
)
def test_a_run_is_plain_gradient_descent(run, data, batch_size, shards):
    """Every row once per epoch in the order of the seed, whatever the batches and shards.

    Batches larger than the data, last batches of one row and empty shards included.
    """
    result = run(
        batch_size=batch_size, shards=shards, dtype="float64", optimizer="momentum", l2=2.0, seed=3
    )
    config = Config(hidden=(9,), batch_size=batch_size, optimizer="momentum", l2=2.0, seed=3)
    theta, costs = plainly(config, *rows(data("digits"), "train"), epochs=3)
    np.testing.assert_allclose(result.network.theta, theta, rtol=1e-8, atol=1e-10)
    assert [r["train_cost"] for r in result.history] == pytest.approx(costs, rel=1e-10)
    assert [r["step"] for r in result.history] == [-(-N // batch_size) * e for e in (1, 2, 3)]


def test_records(run, data):
    """metrics.jsonl has one object per epoch, with the documented keys and recomputed values."""
    result = run("digits packed", dtype="float64", learning_rate=0.2)
    assert metrics(result.path) == result.history
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    last = result.history[-1]
    assert list(last) == [
        "epoch", "step", "train_cost", "train_accuracy", "validation_cost", "validation_accuracy",
        "test_cost", "test_accuracy", "learning_rate", "seconds", "samples_per_s", "digest",
    ]  # fmt: skip
    for split in ("validation", "test"):
        cost, accuracy = cost_and_accuracy(result.network, *rows(data("digits packed"), split))
        assert last[f"{split}_cost"] == pytest.approx(cost, rel=1e-12)
        assert last[f"{split}_accuracy"] == accuracy
    assert last["learning_rate"] == 0.2
    assert last["digest"] == result.digest == digest(result.network.theta)
    assert last["samples_per_s"] == pytest.approx(N / last["seconds"])


def test_train_cost_is_that_before_each_step(run, data):
    """At learning rate 0 the training cost and accuracy are those of the first weights."""
    result = run(learning_rate=0.0, dtype="float64", epochs=2)
    cost, accuracy = cost_and_accuracy(result.network, *rows(data("digits"), "train"))
    for record in result.history:
        assert record["train_cost"] == pytest.approx(cost, rel=1e-12)
        assert record["train_accuracy"] == accuracy
    assert result.history[0]["validation_cost"] is None
    np.testing.assert_array_equal(
        result.network.theta, Network(result.network.sizes, dtype="float64").theta
    )


def test_a_run_learns(run):
    """The sample's digits are classified well after a few epochs."""
    history = run(epochs=8, hidden=(30,), optimizer="adam", learning_rate=0.01).history
    assert history[-1]["test_accuracy"] > 0.9
    assert history[-1]["train_cost"] < history[0]["train_cost"] / 2


def test_a_regression_learns(run, data):
    """R² is scikit-learn's r2_score, and there is no training accuracy."""
    metrics_of = pytest.importorskip("sklearn.metrics")
    options = {"hidden": (20,), "optimizer": "adam", "learning_rate": 0.1, "dtype": "float64"}
    result = run("numbers", epochs=8, **options)
    x, y = rows(data("numbers"), "test")
    last = result.history[-1]
    assert last["train_accuracy"] is None
    r2 = metrics_of.r2_score(y, result.network.feedforward(x))
    assert last["test_accuracy"] == pytest.approx(r2, rel=1e-10)
    assert last["test_accuracy"] > 0.5
    assert result.network.output == "linear"


def test_equal_configurations_give_equal_bits(run):
    """A run is a function of its configuration; another seed is another run."""
    options = {"dropout": 0.2, "optimizer": "adam", "epochs": 2}
    one, same, other = (run(seed=seed, **options) for seed in (1, 1, 2))
    assert one.digest == same.digest != other.digest
    assert timeless(one.history) == timeless(same.history)


def test_a_new_order_every_epoch(run, data):
    """Rows are shuffled again for each epoch."""
    config = Config(data=data("digits"), out=str(run().path) + "x", quiet=True)
    parts, orders = assemble(config, Topology()), []
    for epoch in range(3):
        parts.order.start(epoch, 0)
        orders.append(parts.order.array.copy())
        assert sorted(orders[-1]) == list(range(N))
    assert (orders[0] != orders[1]).any()
    assert (orders[1] != orders[2]).any()


def test_dropout_depends_on_epoch_step_and_shard(data, tmp_path):
    """The same rows lose other units in another epoch, step or shard, but are reproducible."""
    config = Config(
        data=data("digits"), out=str(tmp_path / "run"), dropout=0.5, batch_size=20, shards=2,
        quiet=True,
    )  # fmt: skip
    parts = assemble(config, Topology())
    batch = np.arange(20)

    def cost(rows, epoch, step):
        parts.gradient.compute(rows, epoch, step)
        return parts.reduction.stats[0][COST]

    assert cost(batch, 1, 2) == cost(batch, 1, 2)
    assert len({cost(batch, epoch, step) for epoch in (0, 1) for step in (0, 1)}) == 4
    swapped = np.concatenate([batch[10:], batch[:10]])
    assert cost(swapped, 1, 2) != pytest.approx(cost(batch, 1, 2), rel=1e-4)


# Learning rate, validation, stopping.


def test_plateau_follows_the_scores(run):
    """Each epoch's learning rate is the factor of the validation costs before it."""
    history = run(
        "digits packed", schedule="plateau", decay=0.25, decay_epochs=1, learning_rate=3.0, epochs=8
    ).history
    scores = [record["validation_cost"] for record in history]
    expected = [3.0 * plateau_factor(scores[:epoch], 0.25, 1) for epoch in range(8)]
    assert [record["learning_rate"] for record in history] == expected
    assert len(set(expected)) > 1


def test_schedules(run):
    """A record has the rate of its epoch's last step: warm-up, steps, half a cosine."""
    history = run(warmup_epochs=2, schedule="step", decay_epochs=1).history
    assert [r["learning_rate"] for r in history] == pytest.approx([0.05, 0.05, 0.025])
    history = run(schedule="cosine").history
    ends = [epoch - 1 / 8 for epoch in (1, 2, 3)]
    rates = [0.05 * (1 + np.cos(np.pi * end / 3)) for end in ends]
    assert [r["learning_rate"] for r in history] == pytest.approx(rates)


def test_patience(run, handlers, capsys):
    """A run stops after so many epochs without a better score, and logs it."""
    result = run("digits packed", patience=2, epochs=60, learning_rate=4.0, quiet=False)
    scores = [record["validation_cost"] for record in result.history]
    best = scores.index(min(scores))
    assert len(scores) == best + 1 + 2 < 60
    assert "stopped early: no better validation cost for 2 epochs" in capsys.readouterr().out


def test_metrics_of_each_epoch(run, data, handlers, capsys):
    """Those asked for, and that of the monitor, in records and log lines, for both splits."""
    options = {"metrics": ("roc-auc", "confusion-matrix"), "monitor": "validation_f1:class 1"}
    result = run("digits packed", quiet=False, **options)
    record, plain = result.history[-1], run("digits packed")
    assert result.digest == plain.digest
    keys = [f"{name}_{key}" for name in ("validation", "test")
            for key in ("roc_auc", "confusion_matrix", "f1:class 1")]  # fmt: skip
    assert [key for key in record if key not in plain.history[-1]] == keys
    assert record | timeless(plain.history)[-1] == record
    x, y = rows(data("digits packed"), "validation")
    predicted = result.network.feedforward(x.astype(np.float32)).argmax(axis=1)
    matrix = np.zeros((5, 5), int)
    np.add.at(matrix, (y.argmax(axis=1), predicted), 1)
    assert record["validation_confusion_matrix"] == matrix.tolist()
    f1 = 2 * matrix[1, 1] / (matrix[1].sum() + matrix[:, 1].sum())
    assert record["validation_f1:class 1"] == f1
    text = f"roc auc {record['validation_roc_auc']:.4f} f1:class 1 {f1:.4f} | test cost"
    assert text in capsys.readouterr().out
    again = resumed(result.path, epochs=4, metrics=())
    assert [key for key in again.history[-1] if key.startswith("test")][2:] == ["test_f1:class 1"]


def test_a_monitor_that_is_maximized(run):
    """best.h5, patience and plateau go by the first maximum, not by the cost."""
    options = {"schedule": "plateau", "decay_epochs": 1, "learning_rate": 1.0, "patience": 3}
    result = run("digits packed", epochs=30, monitor="validation_accuracy", **options)
    scores = [record["validation_accuracy"] for record in result.history]
    best = scores.index(max(scores))
    costs = [record["validation_cost"] for record in result.history]
    assert best != costs.index(min(costs))  # or the test would not tell the two apart
    assert len(scores) == best + 1 + 3 < 30
    assert len(read_checkpoint(result.path / "best.h5").history) == best + 1
    factors = [plateau_factor([-one for one in scores[:n]], 0.5, 1) for n in range(len(scores))]
    assert [record["learning_rate"] / 1.0 for record in result.history] == factors


def test_targets_of_different_size_count_alike(run):
    """By default; the cost of a run of an older version stays in the user's units."""
    result = run("prices", validation=0.2)
    records = result.history
    config = Config(**read_checkpoint(result.path / "last.h5").about["config"])
    assert config.monitor == "validation_standardized_cost"
    assert 0 < records[-1]["validation_standardized_cost"] < 3 < records[-1]["validation_cost"]
    assert "test_standardized_cost" not in records[-1]
    assert "validation_standardized_cost" not in run("numbers", validation=0.2).history[-1]


def test_patience_without_validation_uses_the_training_cost(run):
    """Never the test set's: at learning rate 0 the training cost does not improve."""
    history = run(patience=1, epochs=9, learning_rate=0.0, dropout=0.0, shards=1).history
    costs = [record["train_cost"] for record in history]
    assert len(costs) == 2 + costs.index(min(costs))


def test_validation_rows_are_held_out(run, data, tmp_path):
    """They are part of the training set, never trained on, the same in every epoch."""
    config = Config(data=data("digits"), out=str(tmp_path / "held"), validation=0.2, quiet=True)
    parts = assemble(config, Topology())
    held, left = parts.evaluators["validation"].split.rows, parts.rows.rows
    assert len(held) == round(0.2 * N)
    assert sorted([*held, *left]) == list(range(N))
    parts.order.start(0, 0)
    assert sorted(parts.order.array) == list(left)
    record = Run(parts).train().history[-1]
    x, y = rows(data("digits"), "train")
    cost, accuracy = cost_and_accuracy(parts.network, x[held], y[held])
    assert record["validation_cost"] == pytest.approx(cost, rel=1e-5)
    assert record["validation_accuracy"] == accuracy


@pytest.mark.parametrize(
    ("name", "validation", "message"),
    [
        ("digits packed", 0.1, "has a validation split"),
        ("digits", 0.0001, "leaves 503 to train on and 0 to validate with; both need at least 1"),
        ("digits", 0.9999, "leaves 0 to train on"),
    ],
)
def test_impossible_validation(run, name, validation, message):
    """No second validation set, and no empty split."""
    with pytest.raises(ConfigError, match=message):
        run(name, validation=validation)


# Checkpoints of a run.


def test_best_has_the_best_score(run):
    """best.h5 is the network of the lowest validation cost, last.h5 the last one."""
    result = run(
        "digits packed", epochs=4, hidden=(30,), learning_rate=2.0, checkpoint_every="3epochs"
    )
    scores = [record["validation_cost"] for record in result.history]
    best = scores.index(min(scores))
    assert best < 3  # or the test would not tell the two apart
    found = read_checkpoint(result.path / "best.h5")
    assert len(found.history) == best + 1
    assert digest(found.network.theta) == result.history[best]["digest"]
    assert digest(load(result.path).theta) == result.digest


@pytest.fixture
def written(monkeypatch):
    """Return the list of ("best", "last" or "both", epochs) of all files written in the order.

    Time stands still, so that only the first of those files is due that are limited in time.
    """
    files, save, save_best = [], RunDirectory.save, RunDirectory.save_best

    def note(self, checkpoint, is_best):
        files.append(("both" if is_best else "last", len(checkpoint.history)))
        save(self, checkpoint, is_best)

    def note_best(self, checkpoint):
        files.append(("best", len(checkpoint.history)))
        save_best(self, checkpoint)

    monkeypatch.setattr(RunDirectory, "save", note)
    monkeypatch.setattr(RunDirectory, "save_best", note_best)
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", 1000.0)
    return files


def check_last_and_best(result):
    """Assert that last.h5 and best.h5 are what they would be if each epoch had been written."""
    scores = [record["train_cost"] for record in result.history]
    best = result.history[scores.index(min(scores))]
    for name, record in (("last", result.history[-1]), ("best", best)):
        found = read_checkpoint(result.path / f"{name}.h5")
        assert (found.digest, len(found.history)) == (record["digest"], record["epoch"])


def test_the_best_of_short_epochs_is_not_written_each_time(run, written):
    """At most once a second, but before any later checkpoint, and at the end."""
    result = run(epochs=8, learning_rate=0.02, checkpoint_every="6epochs")
    costs = [record["train_cost"] for record in result.history]
    assert costs == sorted(set(costs), reverse=True)  # each epoch is the best so far
    assert written == [("best", 1), ("both", 6), ("best", 8), ("both", 8)]
    check_last_and_best(result)


def test_short_epochs_are_not_all_written(run, written):
    """By default only the first and the last of them, if nothing takes a second."""
    result = run(epochs=6, learning_rate=0.02)
    assert written == [("both", 1), ("both", 6)]
    assert len(metrics(result.path)) == 6
    check_last_and_best(result)
    again = resumed(result.path, epochs=9)
    assert written[2:] == [("both", 7), ("both", 9)]
    assert again.digest == run(epochs=9, learning_rate=0.02, checkpoint_every="1epoch").digest


def test_the_best_epoch_of_many_is_kept(run, written):
    """The copy of the best epoch stays while the last one is replaced."""
    result = run(epochs=9, learning_rate=6.0, hidden=(30,))
    costs = [record["train_cost"] for record in result.history]
    best = 1 + costs.index(min(costs))
    assert 2 < best < 9, costs  # or the test would show nothing
    assert written == [("both", 1), ("best", best), ("last", 9)]
    check_last_and_best(result)


@pytest.mark.parametrize("every", ["auto", "1epoch", "100epochs"])
def test_a_best_epoch_that_could_not_be_written(run, monkeypatch, every):
    """It is written later, although the epochs after it are not better."""
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", 0.0)
    write, failures = run_directory.write_checkpoint, []
    options = {"epochs": 9, "learning_rate": 6.0, "hidden": (30,), "checkpoint_every": every}
    costs = [record["train_cost"] for record in run(**options).history]
    best = 1 + costs.index(min(costs))
    assert 2 < best < 9, costs  # or the test would show nothing

    def fails_once(path, checkpoint):
        if len(checkpoint.history) == best and not failures:
            failures.append(path)
            raise CheckpointError("disk full.")
        write(path, checkpoint)

    monkeypatch.setattr(run_directory, "write_checkpoint", fails_once)
    check_last_and_best(run(**options))
    assert failures


def test_a_run_that_fails_leaves_its_last_epoch(data, written, tmp_path):
    """What was deferred is written when the run ends by an error."""

    def fail(record, network):
        if record["epoch"] == 4:
            raise ZeroDivisionError

    config = Config(data=data("digits"), out=str(tmp_path / "run"), learning_rate=0.02, quiet=True)
    with pytest.raises(ZeroDivisionError):
        train(config, callbacks=[fail], comm=Topology())
    assert written == [("both", 1), ("both", 4)]
    assert len(metrics(tmp_path / "run")) == 4


def test_a_deferred_best_has_to_be_written(run, monkeypatch):
    """A run that cannot write it, twice, fails."""
    calls, save_best = [], RunDirectory.save_best

    def fails_after_first(self, checkpoint, is_best=True):
        calls.append(len(checkpoint.history))
        if len(calls) > 1:
            raise CheckpointError("disk full.")
        save_best(self, checkpoint)

    monkeypatch.setattr(RunDirectory, "save_best", fails_after_first)
    monkeypatch.setattr(RunDirectory, "save", fails_after_first)
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", 1000.0)
    with pytest.raises(CheckpointError, match="disk full"):
        run(epochs=3, checkpoint_every="100epochs")
    assert calls[:3] == [1, 3, 3]


@pytest.mark.parametrize("failing", [(1,), (2,), (1, 2)])
def test_a_failed_write_spoils_no_deferred_checkpoint(run, monkeypatch, failing):
    """What could not be written is kept beside the deferred checkpoints, not in their place."""
    real, calls = RunDirectory.save, []

    def fails(self, checkpoint, is_best):
        calls.append(is_best)
        if len(calls) in failing:
            raise CheckpointError("disk full.")
        real(self, checkpoint, is_best)

    expected = run()
    monkeypatch.setattr(RunDirectory, "save", fails)
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", 1000.0)
    result = run(checkpoint_every="1epoch")
    for name in ("last.h5", "best.h5"):
        expected_theta = load(expected.path / name).theta
        assert digest(load(result.path / name).theta) == digest(expected_theta)


@pytest.mark.parametrize(
    ("every", "keep", "steps"),
    [("1epoch", 2, [16, 24]), ("2epochs", 9, [16, 24]), ("7steps", 9, [7, 14, 21, 24]),
     ("8steps", 9, [8, 16, 24]), ("1000s", 9, [24])],
)  # fmt: skip
def test_checkpoints_that_are_due(run, every, keep, steps):
    """They are written on schedule, the last state always; only the newest are kept."""
    result = run(checkpoint_every=every, keep=keep)
    names = sorted(path.name for path in (result.path / "checkpoints").iterdir())
    assert names == [f"step-{step:09d}.h5" for step in steps]
    assert digest(load(result.path).theta) == result.digest
    assert len(read_checkpoint(result.path / "last.h5").history) == 3
    assert sorted(os.listdir(result.path)) == [
        "best.h5", "checkpoints", "config.toml", "events.jsonl", "last.h5", "lock", "metrics.jsonl",
        "status.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3, "optimizer": "adam", "learning_rate": 0.01},
        {"schedule": "plateau", "decay_epochs": 1, "learning_rate": 3.0, "optimizer": "nesterov"},
        {
            "validation": 0.3,
            "schedule": "cosine",
            "clip_norm": 0.5,
            "patience": 9,
            "ema": 0.9,
            "optimizer": "nadam",
            "learning_rate": 0.01,
            "metrics": ("roc-auc", "log-loss"),
            "monitor": "validation_f1",
        },
    ],
    ids=["dropout, adam", "plateau, nesterov", "held out, cosine, averaged"],
)
def test_resuming_anywhere_changes_nothing(run, options):
    """From the first step, the middle and the end of an epoch: equal bits and equal records."""
    whole = run(checkpoint_every="1steps", keep=1000, batch_size=101, **options)
    steps = len(list((whole.path / "checkpoints").iterdir()))
    assert steps == whole.history[-1]["step"]
    for step in (1, steps // 3, steps // 3 + 1, steps // 2, steps - 1):
        path = whole.path.with_name(f"{whole.path.name}-{step}")
        path.mkdir()
        shutil.copytree(whole.path / "checkpoints", path / "checkpoints")
        shutil.copy(path / f"checkpoints/step-{step:09d}.h5", path / "last.h5")
        (path / "metrics.jsonl").write_text("what was there before\n" * 9)
        again = resumed(path, checkpoint_every="1epoch")
        assert again.digest == whole.digest
        assert timeless(again.history) == timeless(whole.history)
        assert metrics(path) == again.history
        assert read_checkpoint(path / "last.h5").digest == whole.digest
        np.testing.assert_array_equal(load(path).theta, whole.network.theta)


def test_resuming_after_the_end(run):
    """A complete run does nothing more; with more epochs it equals the longer run."""
    short, long = run(epochs=2), run(epochs=4)
    before = (short.path / "last.h5").read_bytes()
    same = resumed(short.path)
    assert same.digest == short.digest
    assert timeless(same.history) == timeless(short.history)
    assert (short.path / "last.h5").read_bytes() == before
    longer = resumed(short.path, epochs=4)
    assert longer.digest == long.digest
    assert timeless(longer.history) == timeless(long.history)
    assert Config(**read_checkpoint(find_checkpoint(short.path)).about["config"]).epochs == 4


def test_resuming_on_other_data(run, data, tmp_path):
    """The data set is identified by its content: a copy is accepted, another one is not."""
    result = run(epochs=1)
    copied = shutil.copy(data("digits"), tmp_path / "copy.h5")
    resumed(result.path, data=str(copied), epochs=2)
    other = samples.digits(tmp_path / "other.h5", {"train": N + 1, "test": 9})
    with pytest.raises(ConfigError, match=r"other\.h5 is not the data set that .*run0"):
        resumed(result.path, data=str(other), epochs=3)


def test_resuming_with_another_configuration(run):
    """A library's user cannot change the mathematics of a run either."""
    result = run(epochs=1)
    config = Config(**read_checkpoint(find_checkpoint(result.path)).about["config"])
    with pytest.raises(ConfigError, match="--learning-rate"):
        train(replace(config, learning_rate=0.7, epochs=2), resume=True, comm=Topology())
    with pytest.raises(ConfigError, match="--hidden"):
        train(replace(config, hidden=(3,), epochs=2), resume=True, comm=Topology())


def test_nothing_to_resume(data, tmp_path):
    """The message names the directory without a checkpoint."""
    (tmp_path / "empty").mkdir()
    config = Config(data=data("digits"), out=str(tmp_path / "empty"), quiet=True)
    with pytest.raises(CheckpointError, match=r"empty has no checkpoint"):
        train(config, resume=True, comm=Topology())


def test_a_directory_with_a_run_is_not_reused(run, data):
    """The first run is left unchanged."""
    result = run(epochs=1)
    before = (result.path / "config.toml").read_bytes()
    with pytest.raises(CheckpointError, match="already contains a run"):
        train(Config(data=data("digits"), out=str(result.path), quiet=True), comm=Topology())
    assert (result.path / "config.toml").read_bytes() == before


def test_a_run_needs_a_directory(data, tmp_path, monkeypatch):
    """Without one nothing is written, in particular not into the current directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--out"):
        train(Config(data=data("digits"), epochs=1, quiet=True), comm=Topology())
    assert not list(tmp_path.iterdir())


# Initial weights from another run.


def test_init_from(run):
    """The first weights are another run's last ones, whatever the seed."""
    first = run()
    second = run(init_from=str(first.path), learning_rate=0.0, epochs=1, seed=5)
    assert second.digest == first.digest
    file = run(init_from=str(first.path / "best.h5"), learning_rate=0.0, epochs=1)
    assert file.digest == digest(load(first.path / "best.h5").theta)


def test_init_from_another_shape(run):
    """It is refused with both shapes."""
    first = run(epochs=1)
    with pytest.raises(ConfigError, match=r"sizes \(48, 9, 5\); this run asks for \(48, 8, 5\)"):
        run(init_from=str(first.path), hidden=(8,))


def test_init_from_is_needed_only_once(run):
    """A run can be resumed after the one it was initialized from was deleted."""
    first = run(epochs=1)
    second = run(init_from=str(first.path), epochs=1)
    whole = run(init_from=str(first.path), epochs=2)
    shutil.rmtree(first.path)
    assert resumed(second.path, epochs=2).digest == whole.digest


# NaN and infinity.


def check_finite(path):
    """Check that all checkpoints of a run hold only finite numbers."""
    for file in Path(path).rglob("*.h5"):
        checkpoint = read_checkpoint(file)
        for array in (checkpoint.network.theta, *checkpoint.state.values()):
            assert np.isfinite(array).all(), file


@pytest.mark.parametrize("every", ["1steps", "1epoch"])
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"learning_rate": 1e30}, r"epoch 1, step [234] of 8"),
        ({"learning_rate": 1e39}, r"epoch 1, step 1 of 8"),
        ({"learning_rate": 1e39, "batch_size": 1000}, r"epoch 1, step 1 of 1\b"),
        ({"learning_rate": 1e30, "optimizer": "momentum", "momentum": 0.99}, r"epoch 1, step"),
    ],
)
def test_a_cost_that_is_not_finite(run, tmp_path, options, place, every):
    """The run ends with one sentence that names the step; all checkpoints are finite."""
    with pytest.raises(DistbpError, match=f"not a finite number in {place}") as failure:
        run(checkpoint_every=every, init="large", **options)
    assert "--learning-rate" in str(failure.value)
    assert "\n" not in str(failure.value)
    check_finite(tmp_path / "run0")


def test_after_a_cost_that_is_not_finite(run, tmp_path):
    """Without a checkpoint, the directory can be used for a new run."""
    good = run(epochs=2)
    config = Config(**read_checkpoint(find_checkpoint(good.path)).about["config"])
    with pytest.raises(DistbpError, match="not a finite number"):
        run(learning_rate=1e39)
    bad = Config(**config.to_dict() | {"out": str(tmp_path / "run1"), "learning_rate": 0.1})
    assert train(bad, comm=Topology()).digest == good.digest


@pytest.mark.parametrize("combine", ["node", "tree", "allreduce"])
def test_the_average_is_the_model(run, data, monkeypatch, combine):
    """It is evaluated, returned and saved; the training and its digest are those without it."""
    thetas, commit = [], ParameterStore.commit

    def spy(self):
        commit(self)
        thetas.append(self.versions[self.current][0].copy())

    options = {"dtype": "float64", "combine": combine, "learning_rate": 0.5}
    plain = run("digits packed", **options)
    monkeypatch.setattr(ParameterStore, "commit", spy)
    result = run("digits packed", ema=0.8, **options)
    assert [r["digest"] for r in result.history] == [r["digest"] for r in plain.history]
    assert [r["train_cost"] for r in result.history] == [r["train_cost"] for r in plain.history]
    assert result.digest == plain.digest == digest(thetas[-1])
    shares = 0.8 ** np.arange(len(thetas) - 1, -1, -1.0)
    theta = shares @ np.array(thetas) / shares.sum()
    np.testing.assert_allclose(result.network.theta, theta, rtol=1e-12, atol=1e-14)
    for split in ("validation", "test"):
        cost, accuracy = cost_and_accuracy(result.network, *rows(data("digits packed"), split))
        last = result.history[-1]
        assert last[f"{split}_cost"] == pytest.approx(cost, rel=1e-12)
        assert last[f"{split}_accuracy"] == accuracy
        assert last[f"{split}_cost"] != plain.history[-1][f"{split}_cost"]
    saved = read_checkpoint(result.path / "last.h5")
    assert saved.network.theta.tobytes() == result.network.theta.tobytes()
    assert saved.digest == result.digest
    assert "average" not in saved.state
    first = run(init_from=str(result.path), learning_rate=0.0, epochs=1, dtype="float64")
    assert first.network.theta.tobytes() == result.network.theta.tobytes()


def test_an_average_before_the_first_step(run):
    """A checkpoint that a diverged run returns to has θ as its own average."""
    result = run(ema=0.9, on_nan="rollback", checkpoint_every="1epoch", keep=99)
    saved = read_checkpoint(result.path / "checkpoints" / "step-000000000.h5")
    np.testing.assert_array_equal(saved.network.theta, saved.theta)
    np.testing.assert_array_equal(saved.theta, Network((48, 9, 5)).theta)


def test_label_smoothing_is_of_the_training_only(run, data):
    """The training cost has a least value above 0; other costs are those of the labels."""
    result = run(label_smoothing=0.3, epochs=10, dtype="float64", learning_rate=0.3)
    last, k = result.history[-1], 5
    p = np.array([1 - 0.3 + 0.3 / k, *[0.3 / k] * (k - 1)])
    assert last["train_cost"] > -(p * np.log(p)).sum() > last["test_cost"]
    cost, accuracy = cost_and_accuracy(result.network, *rows(data("digits"), "test"))
    assert last["test_cost"] == pytest.approx(cost, rel=1e-12)
    assert last["test_accuracy"] == accuracy > 0.85
    assert last["train_accuracy"] > 0.85


# Write errors.


def test_a_failed_save_is_retried(run, monkeypatch, handlers, capsys):
    """During the run a failed save is a warning; at its end all files are complete."""
    real, calls = RunDirectory.save, []

    def fails_at_first(self, checkpoint, is_best):
        calls.append(is_best)
        if len(calls) == 1:
            raise CheckpointError("disk full.")
        real(self, checkpoint, is_best)

    expected = run()
    monkeypatch.setattr(RunDirectory, "save", fails_at_first)
    result = run()
    assert "disk full. Training continues" in capsys.readouterr().err
    assert digest(load(result.path).theta) == expected.digest
    assert timeless(metrics(result.path)) == timeless(expected.history)


def test_best_is_written_although_a_save_failed(run, monkeypatch):
    """If the last epoch is the best and its save is retried, best.h5 is written too."""
    real, calls = RunDirectory.save, []

    def fails_at_first(self, checkpoint, is_best):
        calls.append(is_best)
        if len(calls) == 1:
            raise CheckpointError("disk full.")
        real(self, checkpoint, is_best)

    monkeypatch.setattr(RunDirectory, "save", fails_at_first)
    result = run(epochs=1)
    assert digest(load(result.path / "best.h5").theta) == result.digest


@pytest.mark.parametrize("which", [1, 3])  # of three epochs
@pytest.mark.parametrize("is_full", [False, True])
def test_every_epoch_is_in_the_metrics_although_a_write_failed(
    run, monkeypatch, handlers, capsys, which, is_full
):
    """What was not written, or only half, after one epoch is written later, once and completely."""
    add_text, write_text, added, failed = RunDirectory.append_text, RunDirectory.write_text, [], []

    def adds_half(self, name, text):
        if name != "metrics.jsonl":
            return add_text(self, name, text)
        added.append(text)
        if len(added) != which:
            return add_text(self, name, text)
        with (self.path / name).open("a") as file:
            file.write(text[: len(text) // 2])
        return False

    def fails_once(self, name, text):
        if name == "metrics.jsonl" and len(added) == which and is_full and not failed:
            failed.append(name)
            raise CheckpointError("disk full.")
        write_text(self, name, text)

    monkeypatch.setattr("distbp.training.metrics_file._MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(RunDirectory, "append_text", adds_half)
    monkeypatch.setattr(RunDirectory, "write_text", fails_once)
    result = run()
    assert ("disk full" in capsys.readouterr().err) == is_full
    assert metrics(result.path) == result.history
    assert len(result.history) == 3


def test_metrics_are_written_during_a_run(run, monkeypatch):
    """One line after each epoch, even if somebody deletes the file meanwhile."""
    seen, on_epoch = [], RunRecorder.on_epoch

    def looks(self, progress):
        on_epoch(self, progress)
        path = self.directory.path / "metrics.jsonl"
        seen.append([record["epoch"] for record in metrics(path.parent)])
        if len(seen) == 2:
            path.unlink()

    monkeypatch.setattr(RunRecorder, "on_epoch", looks)
    monkeypatch.setattr("distbp.training.metrics_file._MIN_INTERVAL_S", 0.0)
    run(epochs=4)
    assert seen == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_the_last_save_has_to_succeed(run, monkeypatch):
    """A run that cannot write its last checkpoint fails."""

    def fails(self, checkpoint, is_best):
        raise CheckpointError("disk full.")

    monkeypatch.setattr(RunDirectory, "save", fails)
    with pytest.raises(CheckpointError, match="disk full"):
        run()


# The same rows, stored differently.


def rewritten(path, to, pad=0, **storage):
    """Copy a data set with x stored differently, `pad` bytes further into the file."""
    with (
        h5py.File(path) as file,
        hdf5_file.create_file(to, DATA_FORMAT, DATA_VERSION, DataError) as copy,
    ):
        if pad:
            hdf5_file.write_array(copy, "pad", np.zeros(pad, np.uint8))

        def take(name, item):
            if isinstance(item, h5py.Dataset):
                options = storage if name.endswith("/x") else {}
                copy.create_dataset(name, data=item[...], **options)

        file.visititems(take)
        return copy["train/x"].id.get_offset()


@pytest.mark.parametrize("name", ["digits", "numbers"])
def test_storage_does_not_matter(run, data, tmp_path, name):
    """Chunked, compressed and unaligned rows give the same bits."""
    expected = run(name, epochs=2).digest
    packed, moved = tmp_path / "packed.h5", tmp_path / "moved.h5"
    assert rewritten(data(name), packed, chunks=True, compression="gzip") is None
    assert any(rewritten(data(name), moved, pad) % 2 for pad in (3001, 3002))
    for file in (packed, moved):
        assert run(name, epochs=2, data=str(file)).digest == expected


def test_missing_data(tmp_path):
    """For a missing file, or one without training rows, no directory is made."""
    config = Config(data=str(tmp_path / "none.h5"), out=str(tmp_path / "run"), quiet=True)
    with pytest.raises(DataError, match=r"none\.h5"):
        train(config, comm=Topology())
    path = samples.digits(tmp_path / "test.h5", {"train": 9, "test": 9})
    with h5py.File(path, "r+") as file:
        samples.forget_arrays(file)
        del file["train"]
    with pytest.raises(ConfigError, match=r"test\.h5 has no split 'train'; it has test"):
        train(replace(config, data=str(path)), comm=Topology())
    assert not (tmp_path / "run").exists()


# What is printed.


def test_printed_lines(run, handlers, capsys):
    """The network, the ranks, a line per epoch, and at the end the digest and the model's path."""
    result = run(quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert "48-9-5" in lines[0]
    assert "503 training rows, 8 steps an epoch" in lines[0]
    assert "1 rank on 1 node" in lines[1]
    assert [line[:10] for line in lines[2:5]] == ["epoch 1/3 ", "epoch 2/3 ", "epoch 3/3 "]
    assert f"digest {result.digest}" in lines
    assert any("last.h5" in line and "best.h5" in line for line in lines)


def test_quiet(run, handlers, capsys):
    """Nothing is printed but warnings and errors."""
    run(quiet=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_inexact_sums_are_warned_of(run, handlers, capsys):
    """A run whose bits depend on the number of ranks warns of that, even with --quiet."""
    exact, other = run(), run(combine="allreduce")
    assert "not exact" in capsys.readouterr().err
    assert other.history[-1]["train_cost"] == pytest.approx(exact.history[-1]["train_cost"])


# A step allocates nothing.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a data set of 784 bytes a row and ten classes."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (2000, 28, 28)).astype(np.uint8)
    splits = {"train": (x, random.integers(0, 10, 2000))}
    path = tmp_path_factory.mktemp("pictures") / "d.h5"
    scaling = samples.Scaling(np.zeros(1), np.array([1 / 255]))
    return str(samples.write(path, splits, scaling, 10))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw", "weight_decay": 0.1, "ema": 0.999},
        {"optimizer": "nadam", "label_smoothing": 0.1},
        {"optimizer": "rmsprop"},
        {"optimizer": "momentum", "l2": 1.0, "dropout": 0.2, "activation": "gelu"},
        {"optimizer": "adam", "clip_norm": 1.0, "batch_size": 512, "hidden": (300,)},
        {"cost": "cross-entropy", "batch_size": 500, "shards": 1},
        {"cost": "quadratic", "activation": "sigmoid", "schedule": "plateau", "dtype": "float64"},
    ],
    ids=[
        "plain",
        "adamw, averaged",
        "nadam, smooth labels",
        "rmsprop",
        "momentum, l2, dropout, gelu",
        "adam, clipped, wide",
        "cross-entropy",
        "quadratic",
    ],
)
def test_steps_allocate_nothing(pictures, tmp_path, peak, options):
    """Over many steps Python and NumPy never hold 4 kB more than before; after them, nothing."""
    config = Config(data=pictures, out=str(tmp_path / "run"), quiet=True, batch_size=64)
    parts = assemble(replace(config, **{"hidden": (100,)} | options), Topology())
    parts.order.start(0, 0)
    run, size, steps_per_epoch = Run(parts), parts.config.batch_size, parts.steps_per_epoch

    def steps():
        for _ in range(100 if size == 64 else 2 * steps_per_epoch):
            start = run.progress.position.step % steps_per_epoch * size
            run.step(parts.order.array[start : start + size])

    assert peak(steps) < 4_000 + 16 * size  # softmax and argmax take numbers a row


@pytest.mark.parametrize(
    ("make", "cost"),
    [(samples.prices, None), (samples.prices, "huber"), (samples.prices, "mae"),
     (samples.labels, None), (samples.weighted, None)],
)  # fmt: skip
def test_steps_of_other_tasks_allocate_nothing(tmp_path, peak, make, cost):
    """Neither scaled targets, the count of right labels nor weights need memory."""
    path = make(tmp_path / "d.h5", {"train": 2000})
    config = Config(
        data=str(path), out=str(tmp_path / "run"), cost=cost, quiet=True, batch_size=500, shards=1
    )
    parts = assemble(config, Topology())
    parts.order.start(0, 0)
    run = Run(parts)

    def steps():
        for start in range(0, 2000, 500):
            run.step(parts.order.array[start : start + 500])

    # Softmax and argmax, of classes, take numbers a row.
    assert peak(steps) < 4_000 + 16 * 500 * (make is samples.weighted)


# Scaled targets, and several labels a row.


def test_scaled_targets_change_the_units_alone(tmp_path, run, data):
    """The run is that on targets which were standardized before; costs are in other units."""
    path, file = data("prices"), DataSet(data("prices"))
    y = {name: split.targets() for name, split in file.splits.items()}
    scaled = {
        name: (split.x.view(split.x_dtype), (y[name] - file.target.shift) * file.target.scale)
        for name, split in file.splits.items()
    }
    plain = samples.write(tmp_path / "plain.h5", scaled, file.scaling)
    options = {"hidden": (9,), "epochs": 3, "quiet": True, "learning_rate": 0.01}
    expected = train(Config(data=str(plain), out=str(tmp_path / "p"), **options), comm=Topology())
    found = train(Config(data=str(path), out=str(tmp_path / "s"), **options), comm=Topology())
    assert [r["digest"] for r in found.history] == [r["digest"] for r in expected.history]
    accuracies = [[r["test_accuracy"] for r in result.history] for result in (found, expected)]
    assert accuracies[0] == pytest.approx(accuracies[1], rel=1e-6)
    # Nearly all of the cost is that of the first target, which is that large.
    assert found.history[-1]["train_cost"] > 1e7 > 10 > expected.history[-1]["train_cost"]


@pytest.mark.parametrize("name", ["prices", "labels"])
def test_runs_of_other_tasks_are_resumed(run, name):
    """With the same bits, and accuracies between 0 and 1."""
    whole, stopped = run(name, epochs=4), run(name, epochs=2)
    assert timeless(resumed(stopped.path, epochs=4).history) == timeless(whole.history)
    for record in whole.history:
        accuracy = record["train_accuracy"]
        assert accuracy is None if name == "prices" else 0.4 < accuracy <= 1


@pytest.mark.parametrize("cost", ["huber", "mae"])
def test_costs_of_a_regression_are_in_the_users_units(run, data, cost):
    """That of the test set follows from the predictions, with the targets as they are."""
    result = run("prices", cost=cost, epochs=20, learning_rate=0.03)
    file = DataSet(data("prices"))
    x, _ = rows(data("prices"), "test")
    y, units = file.splits["test"].targets(), file.target.units
    errors = np.abs(file.target.to_user_units(result.network.feedforward(x)) - y)
    if cost == "huber":
        errors = np.where(errors <= units, errors**2 / 2, units * (errors - units / 2))
    last = result.history[-1]
    assert last["test_cost"] == pytest.approx(errors.sum(axis=1).mean(), rel=1e-4)
    assert last["test_accuracy"] > 0.8
    assert last["train_cost"] < 0.7 * result.history[0]["train_cost"]


def test_a_resumed_run_needs_targets_of_the_same_scale(tmp_path, run):
    """Data of the same rows, but standardized otherwise, are other data."""
    source = tmp_path / "d.npz"
    np.savez(source, x=np.eye(9), y=np.arange(9) + 0.5)
    import_data(source, tmp_path / "d.h5")
    config = Config(data=str(tmp_path / "d.h5"), out=str(tmp_path / "run"), epochs=1, quiet=True)
    train(config, comm=Topology())
    import_data(source, tmp_path / "d.h5", ImportOptions(target_scaling="none"))
    with pytest.raises(ConfigError, match="is not the data set that"):
        resumed(tmp_path / "run", epochs=2)


def test_the_accuracy_of_multilabel(run, data):
    """It is the fraction of all labels, during the epoch and after it."""
    result = run("labels", optimizer="adam", epochs=30, learning_rate=0.01)
    x, y = rows(data("labels"), "train")
    found = np.mean((result.network.feedforward(x) > 0.5) == (y == 1))
    assert found > 0.95
    assert result.history[-1]["train_accuracy"] == pytest.approx(found, abs=0.02)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_in_the_writer_thread_ends_the_run(run, monkeypatch):
    """Whatever exception ends the thread that writes checkpoints ends the run too."""

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(run_directory, "write_checkpoint", fail)
    with pytest.raises(MemoryError, match="no room"):
        run()


def test_a_newer_checkpoint_is_not_overwritten(run, monkeypatch):
    """Another process resumed the run and ended, after this one read the checkpoint."""
    path = run().path
    open_data = setup.open_data

    def slow(*words):
        monkeypatch.undo()
        resumed(path, epochs=5)
        return open_data(*words)

    monkeypatch.setattr("distbp.training.setup.open_data", slow)
    with pytest.raises(CheckpointError, match="another run has written a newer checkpoint"):
        resumed(path, epochs=4)
    assert len(resumed(path, epochs=6).history) == 6
