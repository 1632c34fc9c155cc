"""Training on arrays, and models in memory: no files, the same bits as from a file."""

import copy
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas
import pytest

from distbp import Config
from distbp.data import shuffle
from distbp.data.importing import import_data
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError, DivergedError
from distbp.parallel import host
from distbp.parallel.environment import _LAUNCHER_PREFIXES
from distbp.storage.checkpoint import read_checkpoint
from distbp.training.array_fit import fit
from distbp.training.callbacks import STOP, Callback
from distbp.training.loop import Run, train
from distbp.training.model import Model, evaluate, load_model, predict
from distbp.training.recovery import Diagnosis, Fault

RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(211, 5))
CLASSES = np.where(X[:, 0] > 0.3, "yes", np.where(X[:, 1] > 0, "no", "maybe"))
TARGETS = np.stack([X[:, 0] * 2e5, X[:, 1] + 7], axis=1)
SEVERAL = (X[:, :3] > 0).astype(int)
FRAME = pandas.DataFrame(X, columns=list("abcde")).assign(
    kind=RANDOM.choice(["bus", "car"], len(X)), price=1e5 + 2e4 * X[:, 2]
)
# As `mpirun pytest` sets it for this process.
LAUNCHED_BY_NOBODY = {
    name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_PREFIXES)
}
SHORT = {"hidden": (8,), "epochs": 2, "batch_size": 50}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Nothing is written to the current folder, or anywhere that these tests could see."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.listdir("/dev/shm") or not [
        name for name in os.listdir("/dev/shm") if f"distbp-{os.getpid()}-" in name
    ]


@pytest.mark.parametrize("shuffle_", ["full", "blocks"])
@pytest.mark.parametrize("y", [CLASSES, TARGETS, SEVERAL], ids=["classes", "targets", "several"])
def test_arrays_give_the_digest_of_a_file(tmp_path, monkeypatch, y, shuffle_):
    """And every number of the history, whatever the shuffle."""
    monkeypatch.setattr(shuffle, "BLOCK_BYTES", 200)
    np.savez("d.npz", x_train=X[50:], y_train=y[50:], x_test=X[:50], y_test=y[:50])
    import_data("d.npz", "d.h5", ImportOptions(validation_fraction=0.2))
    options = SHORT | {"shuffle": shuffle_, "optimizer": "adam", "quiet": True}
    expected = train(Config(data="d.h5", out="run", **options))
    files = set(os.listdir())
    result = train(
        Config(**options), X[50:], y[50:], test=(X[:50], y[:50]), validation_fraction=0.2
    )
    assert result.digest == expected.digest
    times = {"seconds", "samples_per_s"}
    for one, other in zip(result.history, expected.history, strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {
            k: v for k, v in other.items() if k not in times
        }
    assert result.path is None
    assert set(os.listdir()) == files
    for model in (result.model, load_model("run"), expected.model):
        np.testing.assert_array_equal(predict(model, X), predict("run", X))
        assert model.digest == expected.digest


def test_fit_is_silent_and_writes_nothing(capfd, tmp_path):
    """Log records are the caller's to show."""
    model = fit(X, CLASSES, **SHORT)
    assert isinstance(model, Model)
    assert capfd.readouterr() == ("", "")
    assert os.listdir() == []


def test_fit_logs(caplog):
    """With the logger `distbp`, unless it is to be quiet."""
    caplog.set_level(logging.INFO, "distbp")
    fit(X, CLASSES, **SHORT)
    assert "epoch 1/2" in caplog.text
    assert "digest" in caplog.text
    assert ".h5" not in caplog.text
    caplog.clear()
    fit(X, CLASSES, **SHORT, quiet=True)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (CLASSES, ["maybe", "no", "yes"]), ((X[:, 0] > 0) * 5 - 2.0, [-2.0, 3.0]),
        ((X[:, 0] > 0) * 3 + 4, [4, 7]), (X[:, 0] > 0, [False, True]),
        (pandas.Series(CLASSES, dtype="category"), ["maybe", "no", "yes"]),
        (list(CLASSES), ["maybe", "no", "yes"]), (np.eye(2)[(X[:, 0] > 0) * 1], [0, 1]),
    ],
)  # fmt: skip
def test_predictions_are_labels_as_they_were(tmp_path, labels, expected):
    """Of the same type, also after the model was saved."""
    model = fit(X, labels, **SHORT, task="classification")
    assert model.classes.tolist() == expected
    flat = np.asarray(labels).argmax(axis=1) if np.ndim(labels) == 2 else np.asarray(labels)
    found = model.predict(X)
    assert set(found.tolist()) <= set(expected)
    score = model.evaluate(X, labels)
    assert score["rows"] == 211
    assert score["accuracy"] == score["f1_micro"] == np.mean(found == flat)
    assert len(score["classes"]) == len(expected)
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.classes[probabilities.argmax(axis=1)], found)
    model.save("model.h5")
    again = load_model("model.h5")
    np.testing.assert_array_equal(again.predict(X), found, strict=True)
    assert evaluate("model.h5", X, labels) == score
    assert read_checkpoint(Path("model.h5")).about["progress"]["epoch"] == 2


def test_a_model_of_a_regression():
    """Values are in the units of the targets, a vector for one of them."""
    model = fit(X, TARGETS, **SHORT, optimizer="adam")
    assert model.predict(X).shape == (211, 2)
    residual = ((model.predict(X) - TARGETS) ** 2).sum(axis=0)
    variation = ((TARGETS - TARGETS.mean(axis=0)) ** 2).sum(axis=0)
    score = model.evaluate(X, TARGETS)
    assert score["r2"] == pytest.approx((1 - residual / variation).mean(), rel=1e-4)
    error = np.abs(model.predict(X) - TARGETS).mean(axis=0)
    assert score["mae"] == pytest.approx(error.mean())
    assert [one["mae"] for one in score["targets"]] == pytest.approx(error.tolist())
    assert fit(X, TARGETS[:, 0], **SHORT).predict(X).shape == (211,)
    assert model.classes.tolist() == []
    with pytest.raises(ConfigError, match="A regression has no probabilities"):
        model.predict_proba(X)


def test_a_model_of_several_labels():
    """Each is 0 or 1; a row may have all or none."""
    model = fit(X, SEVERAL, **SHORT)
    np.testing.assert_array_equal(model.predict(X), model.predict_proba(X) > 0.5)
    assert model.evaluate(X, SEVERAL)["accuracy"] == np.mean(model.predict(X) == SEVERAL)
    assert model.evaluate(X[:1], [[0, 0, 1]])["rows"] == 1
    assert fit(X, SEVERAL, **SHORT, classes=["a", "b", "c"]).classes.tolist() == ["a", "b", "c"]


def test_a_model_of_a_frame(tmp_path):
    """It finds the columns by their names; its labels may be in the frame or not."""
    model = fit(FRAME, "price", **SHORT, optimizer="adam")
    reordered = FRAME[FRAME.columns[::-1]]
    np.testing.assert_array_equal(model.predict(FRAME), model.predict(reordered))
    score = model.evaluate(FRAME)
    assert model.evaluate(FRAME.drop(columns="price"), FRAME.price) == score
    assert model.evaluate(FRAME, "price") == score
    with pytest.raises(DataError, match="'kind'"):
        model.predict(FRAME.drop(columns="kind"))
    odd = FRAME.assign(kind="tram")
    with pytest.raises(DataError, match="tram"):
        model.predict(odd)
    assert len(model.predict(odd, unknown="ignore")) == 211
    log = fit(FRAME, "price", **SHORT, target_transform="log")
    score = log.evaluate(FRAME)
    assert score == log.evaluate(FRAME, FRAME.price)
    error = log.predict(FRAME) - FRAME.price
    assert score["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()))
    assert score["r2"] == pytest.approx(1 - np.square(error).mean() / FRAME.price.var(ddof=0))
    assert [one["name"] for one in score["targets"]] == ["price"]
    with pytest.raises(DataError, match="no logarithm"):
        log.evaluate(FRAME, -FRAME.price)
    booleans = fit(FRAME, FRAME.price > 1e5, **SHORT)
    assert booleans.predict(FRAME).dtype == bool


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, 1:], CLASSES, "the model takes rows of 5 numbers"),
        (X, CLASSES[1:], "x has 211 rows, y 210"),
        (X[:1], ["perhaps"], "the label perhaps is not one of the 3 classes"),
        (X[:0], CLASSES[:0], "x has 0 rows"),
    ],
)
def test_rows_that_a_model_does_not_take(x, y, message):
    with pytest.raises(DataError, match=message):
        fit(X, CLASSES, **SHORT).evaluate(x, y)


def test_a_model_can_be_copied():
    """Also by pickle, as joblib does; θ and its layers stay the same memory."""
    model = fit(X, TARGETS, **SHORT)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert again.digest == model.digest
        assert again.evaluate(X, TARGETS) == model.evaluate(X, TARGETS)
        again.network.theta[...] = 0
        assert not again.network.weights[0].any()
        assert model.network.theta.any()


# Directories, resuming, and faults.


def test_a_run_on_arrays_may_have_a_directory():
    """It is an ordinary run: it resumes, on the same arrays only."""
    options = SHORT | {"out": "run", "quiet": True}
    result = train(Config(**options | {"epochs": 1}), X, CLASSES, validation=(X[:9], CLASSES[:9]))
    assert result.path == Path("run")
    assert (result.path / "last.h5").exists()
    config = Config(**options)
    with pytest.raises(ConfigError, match="is not the data set that run was trained on"):
        train(config, X + 1, CLASSES, resume=True, validation=(X[:9], CLASSES[:9]))
    with pytest.raises(ConfigError, match="run was trained on arrays"):
        train(config, resume=True)
    result = train(config, X, CLASSES, resume=True, validation=(X[:9], CLASSES[:9]))
    whole = fit(X, CLASSES, **SHORT, validation=(X[:9], CLASSES[:9]))
    assert result.digest == whole.digest
    assert load_model("run").classes.tolist() == ["maybe", "no", "yes"]
    assert [one["epoch"] for one in load_model("run").history] == [1, 2]


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (Config(), {}, "distbp train needs a data set"),
        (Config(data="d.h5"), {}, "distbp train needs a directory"),
        (Config(data="d.h5", out="run"), {"task": "regression"}, "'task' is for arrays; there is"),
        (Config(data="d.h5"), {"x": X, "y": CLASSES}, "'x' is for arrays; there is a data set, d"),
        (Config(data="d.h5"), {"x": "e.h5"}, "There are two data sets, d.h5 and e.h5"),
        (Config(), {"x": "e.h5", "y": CLASSES}, "'y' is for arrays; there is a data set, e.h5"),
        (Config(), {"x": X, "y": CLASSES, "resume": True}, "resume=True needs the run's directory"),
        (Config(), {"x": X, "y": CLASSES, "colour": 1}, "'colour' is neither an option of"),
        (Config(), {"x": X, "y": CLASSES, "x_test": "a"}, "'x_test' is neither an option of"),
        (Config(), {"x": X, "y": CLASSES, "missing": "drop"}, "`--missing` does not apply to arr"),
        (Config(validation=0.1), {"x": X, "y": CLASSES, "validation": (X, CLASSES)},
         "the data has a validation split"),
        (Config(cost="log-likelihood"), {"x": X, "y": TARGETS}, "the data is for regression"),
        (Config(), {"x": X, "y": CLASSES, "validation": X}, r"a ndarray; expected a pair"),
        (Config(), {"distribute": True}, "There are no arrays x and y to train on"),
    ],
)  # fmt: skip
def test_calls_that_are_refused(config, given, message):
    with pytest.raises(ConfigError, match=message):
        train(config, **given)


def test_a_data_set_may_be_passed_in_place_of_arrays():
    """Without a directory it leaves no files either."""
    np.savez("d.npz", x=X, y=CLASSES)
    import_data("d.npz", "d.h5")
    expected = fit(X, CLASSES, **SHORT)
    assert fit("d.h5", **SHORT).digest == expected.digest
    result = train(Config(**SHORT), Path("d.h5"))
    assert (result.digest, result.path) == (expected.digest, None)
    assert set(os.listdir()) == {"d.npz", "d.h5"}


def test_patience_keeps_the_best_model():
    """Which is not the last one."""
    options = {"epochs": 300, "patience": 3, "optimizer": "adam", "learning_rate": 0.01}
    noise = np.random.default_rng(0).normal(size=(211, 2)) * 1e3
    result = train(Config(**options, validation=0.3), X, noise)
    costs = [record["validation_cost"] for record in result.history]
    best = int(np.argmin(costs))
    assert best < len(costs) - 1
    assert result.best.digest == result.history[best]["digest"] != result.digest
    assert result.best.evaluate(X, noise)["cost"] > 1e5  # in the units of the targets
    assert len(result.best.history) == best + 1
    assert train(Config(**SHORT), X, TARGETS).best is None


def test_a_fraction_or_a_set_for_validation():
    """`fit` takes both by one name."""
    assert fit(X, CLASSES, **SHORT, validation=0.2).history[0]["validation_cost"] is not None
    history = fit(X, CLASSES, **SHORT, validation=(X[:9], CLASSES[:9])).history
    assert history[0]["validation_accuracy"] in np.arange(10) / 9


def test_a_time_limit_ends_a_run_in_memory():
    """Its model is what it has reached."""
    result = train(Config(**SHORT, time_limit="0s"), X, CLASSES)
    assert result.history == []
    assert result.model.checkpoint.about["progress"]["step"] == 1
    assert result.model.predict(X).shape == (211,)


def test_a_run_in_memory_rolls_back_to_a_checkpoint_in_memory():
    """As one with a directory does."""
    options = {"hidden": (), "batch_size": 10, "epochs": 1, "learning_rate": 1e3, "quiet": True}
    result = train(Config(**options, on_nan="rollback"), X, TARGETS[:, 0])
    assert result.history[0]["learning_rate"] < 1e3
    on_disk = train(Config(**options, on_nan="rollback", out="run"), X, TARGETS[:, 0])
    assert result.digest == on_disk.digest
    with pytest.raises(DivergedError, match="not a finite number"):
        train(Config(**options), X, TARGETS[:, 0])


def test_fractions_are_no_positions_of_classes():
    """They are not cut to integers."""
    with pytest.raises(DataError, match=r"the label 0\.2 is not one of the 2 classes"):
        fit(X[:4], [0.2, 0.9, 1.0, 1.7], classes=["no", "yes"], **SHORT)


def test_text_that_looks_like_numbers_stays_text():
    """01 is not 1."""
    y = np.array(["01", "02"])[np.arange(len(X)) % 2]
    model = fit(X, y, **SHORT)
    assert model.evaluate(X, y)["accuracy"] == (model.predict(X) == y).mean()
    with pytest.raises(DataError, match="the label 1 is not one of the 2 classes"):
        model.evaluate(X, np.array(["1"] * len(X)))


def test_a_run_in_memory_without_a_checkpoint_begins_again(monkeypatch):
    """Where parameters differ between ranks; the second time it ends."""
    expected = fit(X, CLASSES, **SHORT).digest
    fault, found = Diagnosis(Fault.NOT_CORRECTED, "They differ."), []

    def compare(_, progress):
        found.append(progress.position.updates)
        return fault if len(found) == 1 or is_permanent else None

    monkeypatch.setattr("distbp.training.recovery.FaultDetector.compare_replicas", compare)
    is_permanent = False
    assert fit(X, CLASSES, **SHORT).digest == expected
    assert found == [5, 5, 10]
    found.clear()
    is_permanent = True
    with pytest.raises(DivergedError, match="the second time at this step"):
        fit(X, CLASSES, **SHORT)
    assert found == [5, 5]


def test_an_interrupt_ends_a_run_in_memory_at_once(monkeypatch):
    """Ctrl-C is the caller's: there is nothing to save."""

    def interrupt(*_):
        os.kill(os.getpid(), 2)

    monkeypatch.setattr(Run, "_end_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(X, CLASSES, **SHORT)


# The process that calls.


def test_many_fits_leave_nothing_behind():
    """No file descriptor, thread or memory."""

    def state():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/fd")), threading.active_count(), pages

    for _ in range(3):
        fit(X, CLASSES, **SHORT)
    before = state()
    for _ in range(100):
        fit(X, CLASSES, **SHORT).predict(X)
    after = state()
    assert after[:2] == before[:2]
    assert (after[2] - before[2]) * os.sysconf("SC_PAGE_SIZE") < 8 << 20


@pytest.mark.parametrize(
    "options", [{}, {"engine": "compiled"}, {"engine": "compiled", "combine": "allreduce"}]
)
def test_a_fit_is_freed_without_the_garbage_collector(options):
    """Not even a reference cycle keeps the arrays of the caller."""
    fit(X, CLASSES, **SHORT, **options)  # which may compile
    x = X.copy()
    gc.collect()
    gc.disable()
    try:
        count = sys.getrefcount(x)
        fit(x, CLASSES, **SHORT, **options)
        assert sys.getrefcount(x) == count
    finally:
        gc.enable()


def test_threads_fit_at_the_same_time():
    """With the same bits; the number of BLAS threads is as before."""
    host.set_blas_threads(2)
    expected, found = fit(X, CLASSES, **SHORT).digest, []
    workers = [
        threading.Thread(
            target=lambda: found.extend(fit(X, CLASSES, **SHORT).digest for _ in range(5))
        )
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 15
    assert set(host._blas_thread_counts().values()) == {2}
    host.set_blas_threads(1)


WORKERS = """
import multiprocessing, sys
import numpy as np
from distbp import fit

def digest(seed):
    x = np.arange(60.0).reshape(20, 3) % 7
    return fit(x, x[:, 0] > 2, seed=seed, epochs=1).digest, "mpi4py.MPI" in sys.modules

if __name__ == "__main__":
    expected = [digest(0), digest(1)]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(digest, range(2)) == expected, method
    print(expected[0] != expected[1], any(has_mpi for _, has_mpi in expected))
"""


def test_workers_fit_without_mpi(tmp_path):
    """Forked, or started anew."""
    (tmp_path / "workers.py").write_text(WORKERS)
    run = subprocess.run(
        [sys.executable, "workers.py"], env=LAUNCHED_BY_NOBODY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert run.stdout.split() == ["True", "False"], run.stderr


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_of_rows_that_are_not_finite_are_refused(bad):
    """The largest of outputs that are NaN would be a class all the same."""
    model, x = fit(X, CLASSES, **SHORT), X[:9].copy()
    x[7, 2] = bad
    for use in (model.predict, model.predict_proba, lambda x: model.evaluate(x, CLASSES[:9])):
        with pytest.raises(DataError, match=rf"x, row 7, column 2: .* found {bad}"):
            use(x)


def test_classes_beyond_int64():
    y = np.where(X[:, 0] > 0, 2**64 - 1, 2**63).astype(np.uint64)
    found = fit(X, y, **SHORT).predict(X)
    assert found.dtype == np.uint64
    assert set(found) <= set(y)


def test_fit_takes_callbacks_of_all_kinds():
    """A function, an object or a class, alone or several."""

    class Stop(Callback):
        def __call__(self, record, network):
            return STOP

    for callbacks in (Stop, [Stop], [Stop()], lambda *_: STOP, (lambda *_: None, Stop)):
        assert len(fit(X, CLASSES, **SHORT, callbacks=callbacks).history) == 1
    assert len(train(Config(**SHORT), X, CLASSES, callbacks=[Stop]).history) == 1
    with pytest.raises(ConfigError, match="The callback 3 is not a function"):
        fit(X, CLASSES, **SHORT, callbacks=[3])


def test_messages_call_arrays_the_data():
    for options in ({"metrics": "f1"}, {"monitor": "validation_f1"}):
        with pytest.raises(ConfigError, match="the data has n"):
            fit(X, CLASSES, **SHORT, **options)


def test_another_label_than_that_of_the_model_is_not_evaluated():
    model = fit(FRAME, "price", **SHORT)
    assert model.evaluate(FRAME, "price") == model.evaluate(FRAME)
    with pytest.raises(DataError, match="'a' is not what the model was trained for, which is 'pri"):
        model.evaluate(FRAME, "a")
