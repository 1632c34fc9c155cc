"""Perceptrons of scikit-learn: taken as fitted objects."""

import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from distbp import Model, predict
from distbp.errors import ConfigError, DataError
from distbp.interop import from_sklearn

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(5, 3, size=(80, 4)).astype(np.float32)
LABELS = {
    "three classes": RANDOM.integers(0, 3, 80),
    "words": np.array(["a", "b", "c"])[RANDOM.integers(0, 3, 80)],
    "two classes": RANDOM.integers(0, 2, 80),
    "two words": np.array(["no", "yes"])[RANDOM.integers(0, 2, 80)],
    "numbers with a point": np.array([1.0, 2.0])[RANDOM.integers(0, 2, 80)],
    "truths": RANDOM.random(80) > 0.5,
    "several labels": RANDOM.integers(0, 2, (80, 3)),
    "a number": X[:, 0] * 2,
    "two numbers": X[:, :2] * 2,
}


def fitted(y, activation="relu", scaler=None):
    """Return a perceptron that was fitted for a moment, perhaps behind a scaler."""
    is_regression = np.asarray(y).dtype.kind == "f" and len(np.unique(y)) > 2
    kind = MLPRegressor if is_regression else MLPClassifier
    model = kind(hidden_layer_sizes=(6, 5), activation=activation, max_iter=3, random_state=0)
    model = model if scaler is None else make_pipeline(scaler, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        return model.fit(X, y)


def expected_outputs(model):
    """Return what the estimator predicts, as distbp has it."""
    if hasattr(model, "predict_proba"):
        return model.predict_proba(X)
    return model.predict(X).reshape(len(X), -1)


@pytest.mark.parametrize("scaler", [None, StandardScaler(), MinMaxScaler()], ids=str)
@pytest.mark.parametrize("labels", LABELS)
def test_fitted_estimators(tmp_path, labels, scaler):
    model = fitted(LABELS[labels], scaler=scaler)
    found = from_sklearn(model, tmp_path / "model.h5")
    assert predict(tmp_path / "model.h5", X) == pytest.approx(expected_outputs(model), abs=1e-5)
    labels = Model(found).predict(X)
    if hasattr(model, "classes_"):
        assert (labels == model.predict(X)).all()
        assert labels.dtype.kind in (model.predict(X).dtype.kind, "u")  # of several labels


@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_activations(tmp_path, activation):
    model = fitted(LABELS["three classes"], activation)
    from_sklearn(model, tmp_path / "model.h5")
    assert predict(tmp_path / "model.h5", X) == pytest.approx(model.predict_proba(X), abs=1e-5)


@pytest.mark.parametrize(
    ("estimator", "error", "words"),
    [
        (MLPClassifier(), DataError, "The MLPClassifier is not fitted"),
        (LogisticRegression(), DataError, "is not an MLPClassifier or MLPRegressor"),
        ("model.pkl", DataError, "str is not an MLPClassifier"),
        (fitted(LABELS["words"], "identity"), DataError, "has no activation; distbp has"),
        (fitted(LABELS["words"], scaler=PCA(3)), ConfigError, "The pipeline has PCA before"),
        (fitted(LABELS["words"], scaler=MinMaxScaler(clip=True)), ConfigError, "clips"),
    ],
    ids=["not fitted", "another kind", "a file", "identity", "another step", "clip"],
)  # fmt: skip
def test_what_is_refused(estimator, error, words):
    with pytest.raises(error, match=words):
        from_sklearn(estimator)


def test_names_of_the_package():
    from distbp import interop

    with pytest.raises(AttributeError, match="no attribute 'from_keras'"):
        interop.from_keras  # noqa: B018
