"""`MLPClassifier` and `MLPRegressor`, by the conventions of scikit-learn's estimators.

What differs from those of `sklearn.neural_network` is listed in the docstring of `distbp.sklearn`.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from distbp.sklearn.base import BaseMLP


class MLPClassifier(ClassifierMixin, BaseMLP):
    """A classifier, of one class a row or of several labels.

    See `distbp.sklearn` for what differs from `sklearn.neural_network.MLPClassifier`, whose
    documentation describes the parameters.

    Attributes
    ----------
    classes_ : (k,) array
    coefs_, intercepts_ : lists of (n_in, n_out) and (n_out,) arrays
    loss_, best_loss_, best_validation_score_ : float
    loss_curve_, validation_scores_ : list of float
    n_iter_, n_layers_, n_outputs_, t_, n_features_in_ : int
    feature_names_in_ : (n_0,) array
    out_activation_, digest_ : str
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        class_weight: Any = None,
        scaling: str = "none",
        dropout: float = 0.0,
        dtype: str | None = None,
        use_mpi: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        # scikit-learn reads the parameters from this signature, and clones with the same objects.
        parameters = dict(locals())
        for name in self._get_param_names():
            setattr(self, name, parameters[name])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803 - scikit-learn's
        """Train on rows (n, n_0) with classes (n,), or labels (n, k) of 0 and 1."""
        return self._fit(X, y, sample_weight, False, None)

    def partial_fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
    ) -> Self:
        """Make one epoch over rows; the first call needs all `classes`."""
        return self._fit(X, y, sample_weight, True, classes)

    def _check_rows(
        self, x: Any, y: Any, classes: Any, continues: bool
    ) -> tuple[np.ndarray, np.ndarray, str]:
        x, y = validate_data(
            self, x, y, multi_output=True, dtype=(np.float64, np.float32), reset=not continues
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind.startswith("multiclass-multi"):
            raise ValueError("Several labels a row that are not 0 or 1 are not supported.")
        if kind == "multilabel-indicator":
            return x, self._check_labels(y, continues), "multilabel"
        return x, self._check_classes(y, classes, continues), "classification"

    def _check_labels(self, y: np.ndarray, continues: bool) -> np.ndarray:
        if self.class_weight is not None:
            raise ValueError("class_weight is for one class a row. Use sample_weight instead.")
        if continues and self._state.about["task"] != "multilabel":
            raise ValueError("y has several labels a row, unlike in the previous call.")
        if continues and y.shape[1] != len(self.classes_):
            raise ValueError(f"y has {y.shape[1]} labels a row; expected {len(self.classes_)}.")
        self.classes_ = np.arange(y.shape[1])
        return (y != 0).astype(np.uint8)

    def _check_classes(self, y: np.ndarray, classes: Any, continues: bool) -> np.ndarray:
        """Return the numbers of the classes of y, and set `classes_`."""
        if continues and self._state.about["task"] != "classification":
            raise ValueError("y has one class a row, unlike in the previous call.")
        if not continues:
            self.classes_ = np.unique(y if classes is None else classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes={classes!r} is not the same as on the last call, {self.classes_!r}."
            )
        numbers = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        bad = self.classes_[numbers] != y
        if bad.any():
            raise ValueError(
                f"`y` has classes not in `self.classes_`, such as {y[bad][0]!r}; "
                f"`self.classes_` is {self.classes_}."
            )
        return np.asarray(numbers, np.int64)

    def _check_weights(
        self, sample_weight: Any, x: np.ndarray, y: np.ndarray, task: str
    ) -> np.ndarray | None:
        weights = super()._check_weights(sample_weight, x, y, task)
        given = self.class_weight
        if given is None or (isinstance(given, str) and given == "balanced"):
            return weights
        if not isinstance(given, Mapping):
            raise ValueError(f"class_weight={given!r}: expected None, 'balanced' or a dict.")
        unknown = [one for one in given if one not in self.classes_.tolist()]
        if unknown:
            raise ValueError(f"class_weight: {unknown[0]!r} is not one of {self.classes_}.")
        by_class = np.array([given.get(one, 1.0) for one in self.classes_.tolist()], np.float64)
        if not (np.isfinite(by_class) & (by_class >= 0)).all():
            raise ValueError(f"class_weight={given!r}: expected weights of at least 0.")
        weights = by_class[y] * (1.0 if weights is None else weights)
        if not weights.any():
            raise ValueError("The weights of all rows are zero, by sample_weight or class_weight.")
        return weights

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the class of each row (n,), or its labels (n, k)."""
        found = self._outputs(X)
        if self._state.about["task"] == "multilabel":
            return (found > 0.5).astype(self.classes_.dtype)
        return np.asarray(self.classes_[found.argmax(axis=1)])

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the probability of each class, or of each label: (n, k)."""
        return self._outputs(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))


class MLPRegressor(RegressorMixin, BaseMLP):
    """A regression of one or several targets.

    See `distbp.sklearn` for what differs from `sklearn.neural_network.MLPRegressor`, whose
    documentation describes the parameters. Attributes are those of `MLPClassifier` without classes.
    """

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        scaling: str = "none",
        target_scaling: str = "standardize",
        dropout: float = 0.0,
        dtype: str | None = None,
        use_mpi: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        parameters = dict(locals())
        for name in self._get_param_names():
            setattr(self, name, parameters[name])

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803 - scikit-learn's
        """Train on rows (n, n_0) with targets (n,) or (n, k)."""
        return self._fit(X, y, sample_weight, False, None)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Make one epoch over rows."""
        return self._fit(X, y, sample_weight, True, None)

    def _check_rows(
        self, x: Any, y: Any, classes: Any, continues: bool
    ) -> tuple[np.ndarray, np.ndarray, str]:
        x, y = validate_data(
            self, x, y, multi_output=True, y_numeric=True, dtype=(np.float64, np.float32),
            reset=not continues,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = np.asarray(y, np.float64).reshape(len(y), -1)
        if continues and y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} targets; expected {self.n_outputs_}.")
        return x, y, "regression"

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the value of each row (n,), or its values (n, k)."""
        found = self._outputs(X)
        return found[:, 0] if found.shape[1] == 1 else found
