"""What `MLPClassifier` and `MLPRegressor` have in common: from a call of `fit` to the attributes.

A call checks its arguments on each rank, agrees with the other ranks, and lets `fitting` train.
Afterwards `coefs_` and `intercepts_` alone determine what is predicted.
"""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from distbp.data.labels import number_name
from distbp.network.network import Network
from distbp.network.parameters import digest
from distbp.parallel.topology import Topology, connect
from distbp.sklearn.fitting import (
    FitRequest,
    FitState,
    check_same_on_all_ranks,
    errors_on_all_ranks,
    train_network,
)
from distbp.sklearn.parameters import check_parameters, cost_of, is_integer, layer_sizes
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.training.evaluation import EVALUATION_ROWS
from distbp.training.model import Model

_LABEL_TYPES = {"b": "bool", "i": "int", "u": "int", "f": "float"}
_COSTS = {"classification": "log-likelihood", "multilabel": "cross-entropy"}


class BaseMLP(BaseEstimator):
    """What both estimators share; parameters are attributes of the same names."""

    classes_: np.ndarray
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_loss_: float | None
    best_validation_score_: float | None
    t_: int
    _state: FitState

    # Fitting

    def _fit(self, x: Any, y: Any, sample_weight: Any, is_partial: bool, classes: Any) -> Self:
        comm = connect() if self.use_mpi is True else Topology()
        continues = hasattr(self, "coefs_") and (is_partial or self.warm_start is True)
        with errors_on_all_ranks(comm):
            check_parameters(self.get_params(deep=False))
            if is_partial and self.early_stopping:
                raise ValueError("partial_fit does not support early_stopping=True.")
            x, y, task = self._check_rows(x, y, classes, continues)
            if is_partial and not continues and task == "classification" and classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            weights = self._check_weights(sample_weight, x, y, task)
            draw, seed = self._make_seed()
        own = {k: repr(v) for k, v in self.get_params(deep=False).items() if k != "random_state"}
        own |= {"continues": repr(continues), "task": task, "rows": repr(x.shape)}
        check_same_on_all_ranks(comm, own)
        draw, seed = comm.world.broadcast([draw, seed])
        with errors_on_all_ranks(comm):
            request = self._make_request(x, y, weights, task, continues, is_partial, draw)
        if not continues:
            self._forget()
        best = np.inf if self.best_loss_ is None else self.best_loss_
        state, convergence, network = train_network(request, comm, seed, best, self.t_)
        self._keep(state, network)
        self.loss_curve_ += convergence.losses
        self.loss_, self.best_loss_ = self.loss_curve_[-1], convergence.best_loss
        self.n_iter_ = len(convergence.losses)
        self.t_ += self.n_iter_ * len(request.x)
        if request.validation is not None:
            self.validation_scores_ = convergence.scores
            self.best_validation_score_, self.best_loss_ = convergence.best_score, None
        if not is_partial and not convergence.has_converged:
            warnings.warn(
                f"The training has not converged in max_iter={self.max_iter} epochs. Raise "
                "max_iter, or the learning rate.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _make_seed(self) -> tuple[int, int]:
        """Return the seeds of the split and of the training; a whole number is used as it is."""
        random = check_random_state(self.random_state)
        draw = int(random.randint(2**31 - 1))
        return draw, int(self.random_state) if is_integer(self.random_state) else draw

    def _check_rows(
        self, x: Any, y: Any, classes: Any, continues: bool
    ) -> tuple[np.ndarray, np.ndarray, str]:
        raise NotImplementedError

    def _check_weights(
        self, sample_weight: Any, x: np.ndarray, y: np.ndarray, task: str
    ) -> np.ndarray | None:
        """Return the weights of the rows (n,), but for balanced classes; None if all are 1."""
        if sample_weight is None:
            return None
        weights = _check_sample_weight(
            sample_weight, x, dtype=np.float64, ensure_non_negative=True, copy=True
        )
        if not weights.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return np.asarray(weights)

    def _make_request(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        task: str,
        continues: bool,
        is_partial: bool,
        draw: int,
    ) -> FitRequest:
        """Return what to train on; with early stopping some rows are set aside."""
        validation = None
        if self.early_stopping:
            x, y, weights, validation = self._split(x, y, weights, task, draw)
        if self.batch_size != "auto" and self.batch_size > len(x):
            warnings.warn(
                f"batch_size={self.batch_size} is larger than the training set of {len(x)} rows; "
                "each epoch is one batch of all rows.",
                stacklevel=2,
            )
        names, kind = [], "float"
        if task != "regression":
            kind = self.classes_.dtype.kind
            names = [number_name(one) if kind in "iuf" else str(one) for one in self.classes_]
        theta = self._network().theta if continues else None
        hidden = [len(b) for b in self.intercepts_[:-1]] if continues else []
        if continues and hidden != list(layer_sizes(self.hidden_layer_sizes)):
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes!r}: the network that is trained "
                f"further has {hidden}. Set warm_start=False for another one."
            )
        return FitRequest(
            self.get_params(deep=False), task, self._cost(task), names,
            _LABEL_TYPES.get(kind, "text"), x, y, weights, validation,
            self._state if continues else None, theta, is_partial,
        )  # fmt: skip

    def _split(
        self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, task: str, draw: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[np.ndarray, np.ndarray]]:
        """Set rows aside for validation, class by class."""
        numbers, held = train_test_split(
            np.arange(len(x)), random_state=draw, test_size=self.validation_fraction,
            stratify=y if task == "classification" else None,
        )  # fmt: skip
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        kept = None if weights is None else weights[numbers]
        if kept is not None and not kept.any():
            raise ValueError("The sample weights of all rows to train on are zero.")
        return x[numbers], y[numbers], kept, (x[held], y[held])

    def _cost(self, task: str) -> str:
        """Return the name of the cost."""
        return cost_of(self.loss) if task == "regression" else _COSTS[task]

    # The fitted network

    def _forget(self) -> None:
        self.loss_curve_, self.t_ = [], 0
        self.validation_scores_ = self.best_validation_score_ = None
        self.best_loss_ = np.inf

    def _keep(self, state: FitState, network: Network) -> None:
        """Set the attributes that describe the network."""
        self._state = state
        self.coefs_ = [w.T.copy() for w in network.weights]
        self.intercepts_ = [b.copy() for b in network.biases]
        self.n_layers_, self.n_outputs_ = len(network.sizes), network.sizes[-1]
        output = network.output
        self.out_activation_ = {"linear": "identity", "sigmoid": "logistic"}.get(output, output)
        self.digest_ = digest(network.theta)

    def _network(self) -> Network:
        """Return the network of `coefs_` and `intercepts_`."""
        about = self._state.about["network"]
        sizes = [len(self.coefs_[0]), *map(len, self.intercepts_)]
        dtype = self.coefs_[0].dtype.name
        theta = np.concatenate(
            [part for w, b in zip(self.coefs_, self.intercepts_, strict=True)
             for part in (w.T.ravel(), b)]
        )  # fmt: skip
        return Network(sizes, about["activation"], about["cost"], about["output"],
                       dtype=dtype, theta=theta)  # fmt: skip

    def _outputs(self, x: Any) -> np.ndarray:
        """Return the outputs for rows (n, n_0), in the user's units: (n, n_L)."""
        check_is_fitted(self)
        x = validate_data(self, x, dtype=(np.float64, np.float32), reset=False)
        network, state = self._network(), self._state
        found = np.empty((len(x), network.sizes[-1]), network.dtype)
        work = network.workspace(min(EVALUATION_ROWS, len(x)))
        for start in range(0, len(x), EVALUATION_ROWS):
            rows = x[start : start + EVALUATION_ROWS]
            if state.shift.any() or (state.scale != 1).any():
                rows = (rows - state.shift) * state.scale
            short = len(rows) < len(work.a[-1])
            found[start : start + len(rows)] = network.feedforward(rows, None if short else work)
        if state.target is None:
            return found
        return TargetScaling(*state.target).to_user_units(found)

    def to_model(self) -> Model:
        """Return a `distbp.Model`, which can be saved as a file for `distbp predict` and `export`.

        It takes the same rows as `predict`, and data frames by the names of the columns if the
        estimator was fitted on one.
        """
        check_is_fitted(self)
        state = self._state
        about = dict(state.about)
        if (names := getattr(self, "feature_names_in_", None)) is not None:
            features = tuple(Feature(str(name)) for name in names)
            about["preprocessing"] = Preprocessing(features, ("y",)).to_json()
        target = None if state.target is None else TargetScaling(*state.target)
        return Model(
            Checkpoint(
                self._network(), state.optimizer, Scaling(state.shift, state.scale), about,
                state.history, target,
            )
        )  # fmt: skip
