"""The estimators by scikit-learn's own checks, against its networks, and in its tools."""

import pickle
import re
import warnings
from itertools import pairwise
from unittest import SkipTest

import joblib
import numpy as np
import pandas
import pytest
import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import distbp
from distbp.sklearn import MLPClassifier, MLPRegressor
from distbp.sklearn.parameters import make_config

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Checks of what these estimators, and their counterparts in scikit-learn, do not have.
NOT_APPLICABLE = {
    "check_array_api_input", "check_classifiers_multilabel_output_format_decision_function",
}  # fmt: skip
X = np.random.default_rng(0).normal(size=(60, 4))
CLASSES = np.array(["a", "b", "c"])[(X[:, 0] > 0) + (X[:, 1] > 0.5).astype(int)]
TARGETS = X @ [1.0, -2.0, 0.5, 0.0] * 1000 + 5000
LABELS = (X[:, :3] > 0).astype(int)
WEIGHTS = np.random.default_rng(1).integers(0, 5, 60) / 3


def name_of(check):
    return getattr(check, "func", check).__name__


CHECKS = [
    pytest.param(one, check, id=f"{type(one).__name__}-{name_of(check)}-{number}")
    for one in (MLPClassifier(max_iter=60), MLPRegressor(max_iter=60))
    for number, (_, check) in enumerate(estimator_checks_generator(one))
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_checks_of_scikit_learn(estimator, check):
    """Without an expected failure."""
    try:
        with np.errstate(all="warn"):
            check(estimator)
    except SkipTest:
        assert name_of(check) in NOT_APPLICABLE


def small(**parameters):
    defaults = {"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 3}
    return MLPClassifier(**defaults | parameters)


def small_regressor(**parameters):
    defaults = {"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 3}
    return MLPRegressor(**defaults | parameters)


# Against scikit-learn's.


@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "sgd", "momentum": 0.0, "alpha": 3.0},
        {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False, "activation": "tanh"},
        {"solver": "sgd", "momentum": 0.7, "alpha": 0.5, "batch_size": 20},
        {"solver": "sgd", "momentum": 0.5, "alpha": 0.0, "batch_size": 25},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "activation": "logistic"},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1},
        {"solver": "adam", "beta_1": 0.8, "beta_2": 0.9, "alpha": 0.1, "epsilon": 1e-14},
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("kind", ["classes", "labels", "targets"])
def test_the_training_is_that_of_scikit_learn(kind, parameters, has_weights):
    """From the same weights and with rows in order: penalties, weights, rules and schedules."""
    is_regression, common = kind == "targets", {"shuffle": False, "warm_start": True}
    common |= {"hidden_layer_sizes": (5, 4), "random_state": 0, **parameters}
    y = {"classes": CLASSES, "labels": LABELS, "targets": TARGETS / 1000}[kind]
    # In each batch the same sum, as ours is divided by the mean over all rows.
    weights = np.tile([0.5, 2.0, 1.0, 0.0, 1.5], 12) if has_weights else None
    if is_regression:
        other = theirs.MLPRegressor(max_iter=1, **common)
        own = MLPRegressor(max_iter=1, target_scaling="none", **common)
    else:
        other = theirs.MLPClassifier(max_iter=1, **common)
        own = MLPClassifier(max_iter=1, **common)
    other.fit(X, y)
    own.fit(X, y)
    own.coefs_ = [w.copy() for w in other.coefs_]
    own.intercepts_ = [b.copy() for b in other.intercepts_]
    for one in (own, other):
        one.t_ = 0
        one.set_params(max_iter=7).fit(X, y, sample_weight=weights)
    assert own.n_iter_ == other.n_iter_
    for a, b in zip(own.coefs_ + own.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(own._outputs(X), other._forward_pass_fast(X), rtol=1e-5, atol=1e-7)


def test_digits_as_well_as_scikit_learn():
    """At the same settings; the initial weights are others."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x / 16, y, random_state=0)
    parameters = {"hidden_layer_sizes": (40,), "max_iter": 25, "learning_rate_init": 0.005}
    parameters["random_state"] = 1
    own = MLPClassifier(**parameters).fit(x, y).score(x_test, y_test)
    assert own > theirs.MLPClassifier(**parameters).fit(x, y).score(x_test, y_test) - 0.01
    assert own > 0.95


def test_diabetes_better_than_scikit_learn():
    """Which does not standardize targets."""
    x, y = load_diabetes(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, random_state=0)
    own = MLPRegressor(random_state=0).fit(x, y)
    assert own.score(x_test, y_test) > 0.3
    assert own.loss_ == pytest.approx(np.square(own.predict(x) - y).mean() / 2, rel=0.05)


# What the calls do.


@pytest.mark.parametrize("has_weights", [False, True])
def test_partial_fit_continues(has_weights):
    """k calls on the same rows are k epochs, to the bit; also for standardized targets."""
    for estimator, y in ((small(), CLASSES), (small_regressor(), TARGETS), (small(), LABELS)):
        estimator.set_params(batch_size=16)
        weights = WEIGHTS if has_weights else None
        whole = clone(estimator).fit(X, y, sample_weight=weights)
        more = {"classes": np.unique(y)} if y is CLASSES else {}
        for _ in range(4):
            estimator.partial_fit(X, y, sample_weight=weights, **more)
        assert estimator.digest_ == whole.digest_
        assert estimator.loss_curve_ == whole.loss_curve_
        assert (estimator.n_iter_, estimator.t_) == (1, 4 * 60)


def test_partial_fit_with_the_classes_of_later_rows():
    estimator = small().partial_fit(X[:1], ["c"], classes=["b", "c", "a"])
    assert estimator.classes_.tolist() == ["a", "b", "c"]
    assert estimator.partial_fit(X, CLASSES).predict_proba(X).shape == (60, 3)
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`, such as"):
        estimator.partial_fit(X[:1], ["d"])
    with pytest.raises(ValueError, match="not the same as on the last call"):
        estimator.partial_fit(X, CLASSES, classes=["a"])
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        small().partial_fit(X, CLASSES)
    with pytest.raises(ValueError, match="does not support early_stopping"):
        small(early_stopping=True).partial_fit(X, CLASSES, classes=["a", "b", "c"])


def test_warm_start():
    """Goes on from the weights, with a new state of the solver."""
    estimator = small(warm_start=True).fit(X, CLASSES)
    first = estimator.loss_curve_[:]
    estimator.set_params(random_state=8).fit(X, CLASSES)
    assert estimator.loss_curve_[:4] == first
    assert len(estimator.loss_curve_) == 8
    assert max(estimator.loss_curve_[4:]) < min(first)
    assert estimator.n_iter_ == 4
    with pytest.raises(ValueError, match="classes not in"):
        estimator.fit(X, np.where(CLASSES == "a", "d", CLASSES))
    assert small_regressor(warm_start=True).fit(X, TARGETS).fit(X, TARGETS).loss_ > 0


def test_early_stopping():
    """The weights are those of the best score, on rows that were set aside class by class."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:300] / 16, y[:300]
    estimator = MLPClassifier(early_stopping=True, random_state=0, validation_fraction=0.2).fit(
        x, y
    )
    scores = estimator.validation_scores_
    assert estimator.best_validation_score_ == max(scores)
    assert len(scores) == estimator.n_iter_ == len(estimator.loss_curve_) < 200
    draw = np.random.RandomState(0).randint(2**31 - 1)
    _, held = train_test_split(np.arange(300), test_size=0.2, random_state=draw, stratify=y)
    assert estimator.score(x[held], y[held]) == pytest.approx(max(scores))
    with pytest.raises(ValueError, match=r"least populated class|too small"):
        small(early_stopping=True).fit(X[:4], ["a", "b", "c", "d"])


def test_convergence():
    """By tol, n_iter_no_change and max_iter, with scikit-learn's warning."""
    estimator = small(max_iter=100, tol=1.0, n_iter_no_change=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimator.fit(X, CLASSES).n_iter_ == 4
    with pytest.warns(ConvergenceWarning, match="not converged in max_iter=3"):
        estimator.set_params(max_iter=3).fit(X, CLASSES)
    # In units of standardized targets, whatever theirs are.
    counts = {
        small_regressor(max_iter=300, tol=0.01).fit(X, TARGETS * scale).n_iter_
        for scale in (1e-6, 1, 1e6)
    }
    assert len(counts) == 1
    assert counts != {300}


def test_class_weights():
    """A dict is a weight of the rows; balanced is n/(k·count)."""
    by_class = {"a": 2.0, "c": 0.5}
    by_hand = np.array([by_class.get(one, 1.0) for one in CLASSES])
    given = small(class_weight=by_class).fit(X, CLASSES, sample_weight=WEIGHTS)
    assert given.digest_ == small().fit(X, CLASSES, sample_weight=by_hand * WEIGHTS).digest_
    counts = np.unique(CLASSES, return_counts=True)[1][np.searchsorted([*"abc"], CLASSES)]
    balanced = small(class_weight="balanced").fit(X, CLASSES)
    expected = small().fit(X, CLASSES, sample_weight=60 / (3 * counts))
    np.testing.assert_allclose(balanced.coefs_[0], expected.coefs_[0])
    for bad in ("even", {"d": 1.0}, {"a": -1.0}, {"a": 0, "b": 0, "c": 0}):
        with pytest.raises(ValueError, match="class_weight"):
            small(class_weight=bad).fit(X, CLASSES)
    with pytest.raises(ValueError, match="one class a row"):
        small(class_weight="balanced").fit(X, LABELS)


def test_several_labels():
    """Each has its probability."""
    estimator = small(max_iter=300, learning_rate_init=0.02).fit(X, LABELS)
    assert (estimator.predict(X) == LABELS).mean() > 0.9
    assert ((estimator.predict_proba(X) > 0.5) == estimator.predict(X)).all()
    assert estimator.out_activation_ == "logistic"


def test_several_targets_of_different_units():
    y = np.stack([TARGETS, X[:, 3] / 1e6, np.full(60, 7.0)], axis=1)
    estimator = small_regressor(max_iter=300, learning_rate_init=0.02).fit(X, y)
    found = estimator.predict(X)
    assert found.shape == (60, 3)
    assert np.abs(found[:, 2] - 7).max() < 0.5
    assert estimator.score(X[:, :], y) > 0.6


@pytest.mark.parametrize("shape", [(), (6,), (7, 3)])
def test_attributes(shape):
    """Of shapes and types as scikit-learn's."""
    x = X.astype(np.float32)
    estimator = small(hidden_layer_sizes=shape).fit(x, CLASSES)
    sizes = [4, *shape, 3]
    assert [w.shape for w in estimator.coefs_] == list(pairwise(sizes))
    assert [b.shape for b in estimator.intercepts_] == [(n,) for n in sizes[1:]]
    assert estimator.n_layers_ == len(sizes)
    assert {w.dtype for w in estimator.coefs_} == {np.dtype("f4")}
    assert small(dtype="float64").fit(x, CLASSES).coefs_[0].dtype == np.float64
    assert small().fit(pandas.DataFrame(X, columns=[*"wxyz"]), CLASSES).feature_names_in_.tolist() \
        == [*"wxyz"]  # fmt: skip
    probabilities = estimator.predict_proba(X)
    np.testing.assert_allclose(np.exp(estimator.predict_log_proba(X)), probabilities, rtol=1e-5)


def test_verbose(capsys):
    estimator = small(verbose=True, early_stopping=True).fit(X, CLASSES)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Iteration 1, loss = {estimator.loss_curve_[0]:.8f}"
    assert lines[1] == f"Validation score: {estimator.validation_scores_[0]:f}"


def test_verbose_without_an_output(monkeypatch):
    """A full disk or a closed pipe ends no training."""

    def write(text):
        raise OSError("No space left on device")

    monkeypatch.setattr("sys.stdout.write", write)
    assert small(verbose=True).fit(X, CLASSES).n_iter_ == 4


def test_options_of_distbp():
    """Those that no parameter stands for; a plain run has the same bits."""
    options = {"l1": 0.5, "clip_norm": 0.1, "shards": 3, "warmup_epochs": 2.0}
    estimator = small(solver="sgd", momentum=0, options=options, alpha=0, dropout=0.2, max_iter=5)
    numbers = np.searchsorted(["a", "b", "c"], CLASSES)
    config = distbp.Config(
        hidden=(5,), epochs=5, batch_size=60, seed=3, learning_rate=0.001, dtype="float64",
        dropout=0.2, quiet=True, **options,
    )  # fmt: skip
    found = distbp.train(config, X, numbers, scaling="none")
    assert estimator.fit(X, CLASSES).digest_ == found.digest
    assert small(learning_rate="cosine").fit(X, CLASSES).loss_ > 0


def test_alpha_is_the_l2_of_the_book():
    """λ/n = α/m, and with weights α/(m·mean)."""
    config = make_config(small(alpha=0.2).get_params(), 1000, 2.5, "float64", 0)
    assert config.l2 / 1000 == pytest.approx(0.2 / 200 / 2.5)


# What is refused.


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "lbfgs"}, "solver='lbfgs': expected one of 'sgd', 'adam'.*data-parallel"),
        ({"activation": "identity"}, r"activation='identity': .*use hidden_layer_sizes=\(\)"),
        ({"activation": ["relu"]}, "activation="),
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes=.5, 0.: expected whole numbers"),
        ({"hidden_layer_sizes": "5"}, "hidden_layer_sizes='5'"),
        ({"alpha": -1.0}, "alpha=-1.0: expected a number of at least 0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"batch_size": 0}, "batch_size=0: expected 'auto' or a whole number"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate_init": 0}, "learning_rate_init=0: expected a number above 0"),
        ({"max_iter": 1.5}, "max_iter=1.5: expected a whole number of at least 1"),
        ({"shuffle": "no"}, "shuffle='no': expected True or False"),
        ({"momentum": 1.0}, "momentum=1.0: expected a number of at least 0 and below 1"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"options": {"epochs": 3}}, "options={'epochs': …}: expected options of distbp.Config"),
        ({"options": {"clip_norm": "a"}}, "--clip-norm 'a': expected a number"),
        ({"options": 3}, "options=3: expected None or a dict"),
    ],
)  # fmt: skip
def test_parameters_that_are_refused(parameters, message):
    """When fitted, under scikit-learn's names."""
    with pytest.raises(ValueError, match=message):
        small(**parameters).fit(X, CLASSES)


def test_rows_that_are_refused():
    with pytest.raises(ValueError, match="Unknown label type"):
        small().fit(X, TARGETS)
    with pytest.raises(ValueError, match="Several labels a row that are not 0 or 1"):
        small().fit(X, np.stack([np.arange(60) % 3] * 2, axis=1))
    with pytest.raises(ValueError, match="too large to standardize"):
        small_regressor().fit(X, TARGETS * 1e300)
    with pytest.raises(ValueError, match="has diverged: a number is not finite"):
        small_regressor(solver="sgd", learning_rate_init=1e9, max_iter=50).fit(X, TARGETS)
    with pytest.warns(UserWarning, match="batch_size=61 is larger than"):
        small(batch_size=61).fit(X, CLASSES)


# In scikit-learn's tools.


def test_clone_pickle_and_joblib(tmp_path):
    """A copy predicts the same, continues the same, and holds arrays alone."""
    for estimator, y in ((small(), CLASSES), (small_regressor(), TARGETS)):
        estimator.fit(X, y)
        assert not hasattr(clone(estimator), "coefs_")
        content = pickle.dumps(estimator)
        assert not re.search(rb"mpi4py|distbp\.parallel|Topology", content)
        joblib.dump(estimator, tmp_path / "model.joblib")
        for copy in (pickle.loads(content), joblib.load(tmp_path / "model.joblib")):  # noqa: S301
            np.testing.assert_array_equal(copy.predict(X), estimator.predict(X))
            more = copy.partial_fit(X, y).digest_
        assert more == estimator.partial_fit(X, y).digest_


def test_pipelines_and_searches():
    """Also in processes of joblib."""
    pipeline = make_pipeline(StandardScaler(), small(max_iter=30, learning_rate_init=0.02))
    grid = {"mlpclassifier__alpha": [1e-4, 100.0], "mlpclassifier__random_state": [0]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, CLASSES)
    assert search.best_params_["mlpclassifier__alpha"] == 1e-4
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, CLASSES)
    assert search.best_estimator_[-1].digest_ == alone.best_estimator_[-1].digest_
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    regressor = small_regressor(max_iter=100, learning_rate_init=0.05)
    assert cross_val_score(regressor, X, TARGETS, cv=3).min() > 0.8


def test_standardized_inputs_are_those_of_a_pipeline():
    """They are part of the estimator, also in later calls."""
    x = X * [1, 1e3, 1e-3, 1] + 50
    own = small(scaling="standardize").fit(x, CLASSES)
    other = make_pipeline(StandardScaler(), small()).fit(x, CLASSES)
    np.testing.assert_allclose(own.predict_proba(x), other.predict_proba(x), rtol=1e-6)
    shift = own._state.shift
    own.partial_fit(x + 5, CLASSES)
    np.testing.assert_array_equal(own._state.shift, shift)


@pytest.mark.parametrize("kind", ["classes", "targets", "labels"])
def test_models_as_files(tmp_path, kind):
    """For the command line, and without scikit-learn."""
    y = {"classes": CLASSES, "targets": TARGETS, "labels": LABELS}[kind]
    estimator = small_regressor() if kind == "targets" else small(scaling="standardize")
    estimator.fit(X, y).to_model().save(tmp_path / "model.h5")
    model = distbp.load_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    if kind != "targets":
        np.testing.assert_array_equal(model.predict_proba(X), estimator.predict_proba(X))
    assert model.digest == estimator.digest_
    assert len(model.history) == 4


def test_classes_that_are_floats_have_the_names_of_a_data_set(tmp_path):
    """0 for 0.0, as `distbp import` writes them."""
    y = (X[:, 0] > 0).astype(float)
    small().fit(X, y).to_model().save(tmp_path / "model.h5")
    model = distbp.load_model(tmp_path / "model.h5")
    assert model.checkpoint.about["classes"] == ["0", "1"]
    assert model.predict(X).dtype == np.float64
    assert model.evaluate(X, y) == model.evaluate(X, y.astype(int))


def test_another_network_is_not_trained_further():
    model = MLPClassifier((5,), max_iter=1, warm_start=True).fit(X, X[:, 0] > 0)
    model.set_params(hidden_layer_sizes=(7,))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(7,\): the network .* has \[5\]"):
        model.fit(X, X[:, 0] > 0)


def test_a_model_finds_the_columns_of_a_frame():
    """By their names, in any order, as the estimator does."""
    frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])])
    estimator = MLPClassifier((5,), max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = estimator.fit(frame, CLASSES).to_model()
    expected = estimator.predict(frame)
    assert (model.predict(frame[frame.columns[::-1]]) == expected).all()
    assert (model.predict(X) == expected).all()
