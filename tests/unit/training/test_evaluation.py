"""Scores and predictions: each row counts once, in an order independent of the ranks."""

from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import samples

from distbp.cli.main import parse_command_line, run_verb
from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet
from distbp.errors import ConfigError, DataError
from distbp.network.network import Network
from distbp.parallel import host
from distbp.parallel.topology import Topology
from distbp.storage import hdf5_file
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.storage.run_directory import read_newest_checkpoint
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.training.accuracy import count_correct
from distbp.training.config import Config
from distbp.training.evaluation import EVALUATION_ROWS, Evaluator, _tree_sum
from distbp.training.inputs import _check_fits, open_data, open_model_and_data
from distbp.training.loop import train
from distbp.training.measurement import Measured
from distbp.training.metric_names import all_metrics
from distbp.training.model import predict
from distbp.training.prediction import write_predictions

ROWS = 3 * EVALUATION_ROWS + 17  # a last block that is not full


def network_for(data, dtype="float64"):
    """Return an untrained network for a data set."""
    is_regression = data.task == "regression"
    return Network(
        (data.n_in, 8, data.n_out),
        cost="quadratic" if is_regression else "log-likelihood",
        output="linear" if is_regression else None,
        dtype=dtype,
    )


def evaluator_of(path, network, comm=None):
    data = DataSet(path)
    split = data.splits["test"]
    return Evaluator(comm or Topology(), network, split, data.scaling, data.task, data.target)


def in_one_pass(path, network):
    """Return all outputs, y and the mean cost, without blocks."""
    data = DataSet(path)
    split = data.splits["test"]
    x, y, _ = BatchLoader(split, data.scaling, len(data.classes), len(split), network.dtype).load(
        np.arange(len(split))
    )
    work = network.workspace(len(x))
    a = network.feedforward(x, work)
    return a, y, network.cost.fn(work.z[-1], a, y) / len(x)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return samples.digits(tmp_path_factory.mktemp("d") / "d.h5", {"train": 7, "test": ROWS})


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return samples.numbers(tmp_path_factory.mktemp("n") / "n.h5", {"train": 7, "test": ROWS})


def test_score_of_classes(digits):
    """Cost and accuracy are means over all rows, including the partial last block."""
    network = network_for(DataSet(digits))
    score = evaluator_of(digits, network).score()
    a, y, cost = in_one_pass(digits, network)
    assert score.rows == ROWS
    assert score.cost == pytest.approx(cost, rel=1e-12)
    assert score.accuracy == np.mean(a.argmax(axis=1) == y.argmax(axis=1))


def test_score_of_numbers(numbers):
    """R² is scikit-learn's, the mean over the outputs."""
    metrics = pytest.importorskip("sklearn.metrics")
    network = network_for(DataSet(numbers))
    score = evaluator_of(numbers, network).score()
    a, y, cost = in_one_pass(numbers, network)
    assert score.cost == pytest.approx(cost, rel=1e-12)
    assert score.accuracy == pytest.approx(metrics.r2_score(y, a), rel=1e-11)


def test_score_of_scaled_targets(tmp_path):
    """Cost and R² are those of the predictions in the user's units."""
    path, run = tmp_path / "d.h5", tmp_path / "run"
    data = DataSet(samples.prices(path))
    train(Config(data=path, out=run, epochs=2, quiet=True), comm=Topology())
    network = read_newest_checkpoint(run)[0].network
    score = evaluator_of(path, network).score()
    split = data.splits["test"]
    error = predict(run, split.x.view(split.x_dtype)) - split.targets()
    assert score.cost == pytest.approx(0.5 * np.square(error).sum() / len(error), rel=1e-5)
    r2 = 1 - np.square(error).mean(axis=0) / split.targets().var(axis=0)
    assert score.accuracy == pytest.approx(r2.mean(), abs=1e-5)


def test_score_of_logarithms(tmp_path):
    """The cost is that of ln y, as it is learned; R² is that of y, also if an output overflows."""
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 3))
    y = np.exp(x @ np.array([[2.0], [1.0], [0.5]]) + 12 + 0.1 * random.normal(size=(ROWS, 1)))
    features = tuple(Feature(name) for name in "abc")
    scaling = Scaling(np.zeros(1), np.ones(1))
    for target in (None, TargetScaling(np.log(y).mean(axis=0), 1 / np.log(y).std(axis=0))):
        path = samples.write(
            tmp_path / "d.h5", {"train": (x[:99], np.log(y[:99])), "test": (x, np.log(y))}, scaling,
            target=target, preprocessing=Preprocessing(features, ("y",), "log"),
        )  # fmt: skip
        data = DataSet(path)
        network = Network((3, 1), cost="quadratic", output="linear", dtype="float64")
        network.theta[...] = [2.1, 0.9, 0.4, 12.0]  # the bias is the last
        a = x @ np.array([[2.1], [0.9], [0.4]]) + 12
        if target is not None:
            network.theta[-1] -= target.shift[0]
            network.theta *= target.scale[0]
            network.use_target_units(target.units)
        split = data.splits["test"]
        score = Evaluator(
            Topology(), network, split, scaling, "regression", data.target, data.preprocessing
        ).score()
        assert score.cost == pytest.approx(0.5 * np.square(a - np.log(y)).mean(), rel=1e-9)
        r2 = 1 - np.square(np.exp(a) - y).sum() / np.square(y - y.mean()).sum()
        assert score.accuracy == pytest.approx(r2, rel=1e-9)
        network.theta[-1] = 1e6
        worst = Evaluator(
            Topology(), network, split, scaling, "regression", data.target, data.preprocessing
        ).score()
        assert worst.accuracy == -1e300


def test_score_of_multilabel(tmp_path):
    """Accuracy is the fraction of all labels that are right; 0 is predicted from ½ downwards."""
    data = DataSet(samples.labels(tmp_path / "d.h5"))
    network = Network((data.n_in, 8, data.n_out), cost="cross-entropy", init="large")
    score = evaluator_of(data.path, network).score()
    split = data.splits["test"]
    a = network.feedforward(split.x.view(split.x_dtype) / 255)
    assert score.accuracy == pytest.approx(np.mean((a > 0.5) == (split.targets() == 1)))
    assert 0.2 < score.accuracy < 0.8
    half, y = np.full((2, 3), 0.5), np.array([[0, 0, 1], [0, 1, 1.0]])
    assert count_correct("multilabel", half, y, y) == 3
    assert count_correct("multilabel", np.nextafter(half, 1), y, y) == 3
    assert count_correct("multilabel", y, y, y) == 6
    assert count_correct("multilabel", np.full((2, 3), np.nan), y, y) == 0


@pytest.mark.parametrize(("error", "r2"), [(0.0, 1.0), (1.0, 0.0)])
def test_r2_of_a_target_that_does_not_vary(tmp_path, error, r2):
    """R² is 1 if it is predicted exactly, otherwise 0; nothing is divided by 0."""
    x, y = np.ones((5, 2)), np.full((5, 1), 3.0)
    scaling = Scaling(np.zeros(1), np.ones(1))
    path = samples.write(tmp_path / "d.h5", {"train": (x, y), "test": (x, y)}, scaling)
    network = Network((2, 1), cost="quadratic", output="linear", dtype="float64")
    network.theta[...] = [0, 0, 3 + error]
    assert evaluator_of(path, network).score().accuracy == r2


def test_r2_of_whole_numbers(tmp_path):
    """Integer targets with several values per row are not labels."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2)), rng.integers(0, 9, (9, 2))
    path = tmp_path / "d.h5"
    scaling = Scaling(np.zeros(1), np.ones(1))
    floats = x, y.astype(float)
    samples.write(path, {"train": floats, "test": floats}, scaling)
    network = network_for(DataSet(path))
    expected = evaluator_of(path, network).score()
    samples.write(path, {"train": (x, y), "test": (x, y)}, scaling)
    assert evaluator_of(path, network).score() == expected


@pytest.mark.parametrize("transform", ["none", "log"])
def test_metrics_of_targets_are_in_the_units_of_the_user(tmp_path, transform):
    """Those of `predict`, also where the model has learned the logarithm; R² is that of y."""
    random, path, run = np.random.default_rng(6), tmp_path / "d.h5", tmp_path / "run"
    x = random.normal(size=(ROWS, 2))
    y = 5.0 + x @ [[1.0, 0.1], [-0.5, 0.2]]
    table = Preprocessing((Feature("a"), Feature("b")), ("price", "size"), transform)
    target = TargetScaling(y.mean(axis=0), 1 / y.std(axis=0))
    scaling = Scaling(np.zeros(1), np.ones(1))
    samples.write(path, {"train": (x, y)}, scaling, target=target, preprocessing=table)
    train(Config(data=path, out=run, epochs=1, quiet=True), comm=Topology())
    checkpoint, data = open_model_and_data(str(run), str(path), Topology())
    score = Evaluator(
        Topology(), checkpoint.network, data.split("train"), data.scaling, data.task, data.target,
        data.preprocessing,
    ).score(all_metrics("regression", table.labels), has_parts=True)  # fmt: skip
    found = score.to_dict("regression", table.labels)
    error = predict(run, x) - (np.exp(y) if transform == "log" else y)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-12)
    assert [one["rmse"] for one in found["targets"]] == pytest.approx(
        np.sqrt(np.square(error).mean(axis=0)), rel=1e-12
    )
    assert [one["name"] for one in found["targets"]] == ["price", "size"]
    assert found["r2"] == np.mean([one["r2"] for one in found["targets"]]) == score.accuracy


def test_a_score_with_metrics_is_the_score_without(digits):
    """Bit for bit; its metrics are in the order of their names."""
    evaluator = evaluator_of(digits, network_for(DataSet(digits)))
    names = [f"class {i}" for i in range(5)]
    score = evaluator.score(all_metrics("classification", names))
    assert replace(score, measured=Measured()) == evaluator.score()
    assert score.to_dict("classification", names).keys() >= {"rows", "cost", "accuracy", "f1"}
    assert score.measured.values["f1_micro"] == score.accuracy


def test_the_standardized_cost(tmp_path):
    """That of the scaled targets; the cost itself stays in the user's units."""
    data = DataSet(samples.prices(tmp_path / "d.h5"))
    network, split = network_for(data), data.split("test")
    arguments = split, data.scaling, data.task, data.target
    plain = Evaluator(Topology(), network, *arguments).score()
    assert plain.standardized_cost is None
    network.use_target_units(data.target.units)
    score = Evaluator(Topology(), network, *arguments, has_standardized_cost=True).score()
    assert score.standardized_cost == plain.cost
    assert score.cost > 1e6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_blocks_of_all_ranks_are_those_of_one(digits, size, dtype):
    """The sums of the ranks' blocks, joined, are those of one rank, bit for bit."""
    network = network_for(DataSet(digits), dtype)
    whole = evaluator_of(digits, network).run()[2]
    parts = [
        evaluator_of(digits, network, SimpleNamespace(rank=rank, size=size)).run()
        for rank in range(size)
    ]
    assert [first for first, _, _ in parts[1:]] == [stop for _, stop, _ in parts[:-1]]
    np.testing.assert_array_equal(np.concatenate([sums for _, _, sums in parts]), whole)


def test_evaluating_twice_gives_the_same(digits):
    """Buffers that are reused carry nothing over."""
    evaluator = evaluator_of(digits, network_for(DataSet(digits), "float32"))
    assert evaluator.score() == evaluator.score()


def test_tree_sum_is_the_tree():
    """The order of addition is that of shards: ((0 + 1) + (2 + 3)) + 4."""
    v = np.array([[1e16], [1.0], [-1e16], [1.0], [1.0]])
    assert _tree_sum(v) == (((v[0] + v[1]) + (v[2] + v[3])) + v[4])
    assert _tree_sum(v[:1]) == v[0]
    assert _tree_sum(v) != v.sum()  # or the order would not show


def test_predictions_are_in_the_order_of_the_rows(digits, tmp_path):
    """The file holds the output and label of each row, and identifies the data set."""
    data = DataSet(digits)
    network = network_for(data, "float32")
    checkpoint = Checkpoint(network, {}, data.scaling, {})
    write_predictions(Topology(), checkpoint, data, "test", tmp_path / "p.h5")
    a, _, _ = in_one_pass(digits, network)
    with h5py.File(tmp_path / "p.h5") as file:
        np.testing.assert_allclose(file["output"][...], a, atol=1e-5)
        np.testing.assert_array_equal(file["label"][...], file["output"][...].argmax(axis=1))
        about = hdf5_file.read_json(file, "about")
    assert about == {"classes": data.classes, "split": "test", "data": data.identity}


def test_predictions_of_numbers_have_no_label(numbers, tmp_path):
    """The file of a regression holds the output only."""
    data = DataSet(numbers)
    checkpoint = Checkpoint(network_for(data), {}, data.scaling, {})
    write_predictions(Topology(), checkpoint, data, "train", tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        assert set(file) == {"about", "output"}
        assert file["output"].shape == (7, 3)


def test_predictions_of_multilabel(tmp_path):
    """The file holds 0 or 1 for each label."""
    data = DataSet(samples.labels(tmp_path / "d.h5"))
    network = Network((data.n_in, 8, data.n_out), cost="cross-entropy")
    write_predictions(
        Topology(), Checkpoint(network, {}, data.scaling, {}), data, "test", tmp_path / "p.h5"
    )
    with h5py.File(tmp_path / "p.h5") as file:
        expected = (file["output"][...] > 0.5).astype(np.uint8)
        np.testing.assert_array_equal(file["label"][...], expected, strict=True)


@pytest.mark.parametrize("make", [samples.prices, samples.labels])
def test_predict_has_the_bits_of_the_file(tmp_path, make):
    """Also for scaled targets, in float64, and for multilabel."""
    path, run = tmp_path / "d.h5", tmp_path / "run"
    make(path)
    train(Config(data=path, out=run, epochs=1, quiet=True), comm=Topology())
    checkpoint, data = open_model_and_data(str(run), str(path), Topology())
    write_predictions(Topology(), checkpoint, data, "test", tmp_path / "p.h5")
    split = data.split("test")
    with h5py.File(tmp_path / "p.h5") as file:
        output = file["output"][...]
    np.testing.assert_array_equal(predict(run, split.x.view(split.x_dtype)), output, strict=True)
    assert output.dtype == ("float64" if make is samples.prices else "float32")


def test_predictions_of_transformed_targets(tmp_path):
    """The model has learned the logarithm of y; its predictions are in the unit of y."""
    random, path, run = np.random.default_rng(6), tmp_path / "d.h5", tmp_path / "run"
    x = random.normal(size=(90, 2))
    y = 9.0 + x @ [[1.0], [-2.0]]
    table = Preprocessing((Feature("a"), Feature("b")), ("price",), "log")
    target = TargetScaling(y.mean(axis=0), 1 / y.std(axis=0))
    scaling = Scaling(np.zeros(1), np.ones(1))
    samples.write(path, {"train": (x, y)}, scaling, target=target, preprocessing=table)
    train(Config(data=path, out=run, epochs=90, batch_size=30, quiet=True), comm=Topology())
    checkpoint, data = open_model_and_data(str(run), str(path), Topology())
    assert checkpoint.preprocessing == data.preprocessing == table
    output = predict(run, x)
    np.testing.assert_allclose(output, np.exp(y), rtol=0.5)
    write_predictions(Topology(), checkpoint, data, "train", tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        np.testing.assert_array_equal(file["output"][...], output, strict=True)
    other = replace(table, features=(Feature("a"), Feature("c")))
    samples.write(path, {"train": (x, y)}, scaling, target=target, preprocessing=other)
    with pytest.raises(ConfigError, match="are not those of the model"):
        open_model_and_data(str(run), str(path), Topology())


@pytest.mark.parametrize("rows", [2, 7, EVALUATION_ROWS + 5])
def test_predict_takes_unscaled_rows(tmp_path, rows):
    """It scales them, and returns the bits that `distbp predict` writes."""
    rng, path, run = np.random.default_rng(3), tmp_path / "d.h5", tmp_path / "run"
    x = rng.integers(0, 256, (rows, 4, 3), dtype=np.uint8)
    scaling = Scaling(rng.normal(size=12), rng.uniform(0.1, 2, 12))
    samples.write(path, {"train": (x, np.arange(rows) % 2)}, scaling, classes=2)
    train(Config(data=path, out=run, epochs=1, quiet=True), comm=Topology())
    checkpoint, data = open_model_and_data(str(run), str(path), Topology())
    write_predictions(Topology(), checkpoint, data, "train", tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        np.testing.assert_array_equal(predict(run, x), file["output"][...], strict=True)
    assert predict(run, x[:0]).shape == (0, 2)
    for bad, message in (
        (x[:, :3], "takes rows of 12 numbers"),
        (x.astype(str), "an array of text; expected numbers"),
        (3.0, "a float; expected an array of rows"),
    ):
        with pytest.raises(DataError, match=message):
            predict(run, bad)


@pytest.fixture
def two_threads():
    """The host process uses 2 BLAS threads, a number that is not the default of --threads."""
    with host.preserve_blas_threads():
        host.set_blas_threads(2)
        yield
        assert set(host._blas_thread_counts().values()) == {2}


def test_training_and_predicting_leave_the_threads_of_the_host_process(
    tmp_path, monkeypatch, two_threads
):
    """They use their own number meanwhile: `predict` has the bits of `write_predictions`."""
    monkeypatch.setattr("distbp.parallel.topology.connect", Topology)  # without starting MPI
    rng, path, run = np.random.default_rng(1), tmp_path / "d.h5", tmp_path / "run"
    x = rng.integers(0, 256, (300, 8, 8), dtype=np.uint8)
    samples.write(
        path, {"train": (x, np.arange(300) % 2)}, Scaling(np.zeros(1), np.ones(1)), classes=2
    )
    train(Config(data=path, out=run, epochs=1, quiet=True), comm=Topology())
    assert set(host._blas_thread_counts().values()) == {2}
    output = predict(run, x)
    assert set(host._blas_thread_counts().values()) == {2}
    for verb in ("evaluate", "predict"):
        out = ["--out", str(tmp_path / "p.h5")] if verb == "predict" else []
        words = [verb, str(run), str(path), "--split", "train", *out]
        assert run_verb(parse_command_line(words)) == 0
        assert set(host._blas_thread_counts().values()) == {2}
    with h5py.File(tmp_path / "p.h5") as file:
        np.testing.assert_array_equal(output, file["output"][...], strict=True)


def test_a_failure_restores_the_threads_too(tmp_path, two_threads):
    """Also where the number was changed before the error."""
    config = Config(data=tmp_path / "no.h5", out=tmp_path / "run", threads=1)
    with pytest.raises(DataError):
        train(config, comm=Topology())


def test_a_model_on_data_that_does_not_fit(digits, numbers):
    """Different inputs, task or classes are refused before anything is computed."""
    data = DataSet(digits)

    def model(sizes=(48, 5), task="classification", classes=None):
        about = {"task": task, "classes": data.classes if classes is None else classes}
        return Checkpoint(Network(sizes), {}, data.scaling, about)

    _check_fits(model(), data)
    with pytest.raises(ConfigError, match=r"takes rows of 47 numbers; .*d\.h5 has rows of 48"):
        _check_fits(model((47, 5)), data)
    with pytest.raises(ConfigError, match=r"for classification with 4 outputs; .* with 5"):
        _check_fits(model((48, 4)), data)
    with pytest.raises(ConfigError, match=r"for regression"):
        _check_fits(model(task="regression"), data)
    with pytest.raises(ConfigError, match="are not those of the model, or in another order"):
        _check_fits(model(classes=data.classes[::-1]), data)


def test_opening_a_file_that_is_not_a_data_set(tmp_path):
    """The message names the path."""
    (tmp_path / "d.h5").write_bytes(b"no")
    with pytest.raises(DataError, match=r"d\.h5 cannot be read"):
        open_data(tmp_path / "d.h5", Topology())
