"""Estimators on several ranks: the same bits as on one, and every error on all ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from distbp.sklearn import MLPClassifier, MLPRegressor

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

RANK = MPI.COMM_WORLD.rank
X = np.random.default_rng(0).normal(size=(90, 4))
Y = np.array(["a", "b", "c"])[(X[:, 0] > 0) + (X[:, 1] > 0.5).astype(int)]
WEIGHTS = np.random.default_rng(1).integers(0, 5, 90) / 3


def make(**parameters):
    defaults = {"hidden_layer_sizes": (7,), "max_iter": 3, "random_state": 3, "batch_size": 40}
    return MLPClassifier(**defaults | parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {"options": {"shards": 5}, "early_stopping": True, "class_weight": "balanced"},
        {"options": {"shards": 4}, "shuffle": False, "learning_rate": "adaptive", "tol": 1.0},
    ],
    ids=["early stopping", "in order"],
)
def test_bits_of_one_rank(everywhere, parameters):
    """In fit and in partial_fit."""
    together, alone = make(**parameters), make(**parameters, use_mpi=False)
    for estimator in (together, alone):
        estimator.fit(X, Y, sample_weight=WEIGHTS)
    assert everywhere(together.digest_) == [alone.digest_] * MPI.COMM_WORLD.size
    assert everywhere(together.loss_curve_) == [alone.loss_curve_] * MPI.COMM_WORLD.size
    assert everywhere(together.predict(X).tolist())[0] == alone.predict(X).tolist()
    for estimator in (together, alone):
        estimator.set_params(early_stopping=False).partial_fit(X, Y)
    assert everywhere(together.digest_) == [alone.digest_] * MPI.COMM_WORLD.size


def test_a_random_seed_is_that_of_one_rank(everywhere):
    found = everywhere(make(random_state=None).fit(X, Y).digest_)
    assert len(set(found)) == 1


def failure(estimator, *arguments, **more):
    """Return what fit raises on this rank."""
    try:
        estimator.fit(*arguments, **more)
    except Exception as error:
        return type(error).__name__, str(error)
    return None


ONLY_1 = RANK == 1
# What is wrong on rank 1 alone, and a part of what its message says.
CASES = {
    "rows": (lambda: failure(make(), X[: 90 - ONLY_1], Y), "inconsistent numbers"),
    "no array": (lambda: failure(make(), None if ONLY_1 else X, Y), "2D array"),
    "other rows": (lambda: failure(make(), X + ONLY_1, Y), "the data set"),
    "weights": (lambda: failure(make(), X, Y, sample_weight=np.ones(90) * (RANK != 1)), "zero"),
    "a value": (lambda: failure(make(alpha=-float(ONLY_1)), X, Y), "rank 1: alpha=-1.0"),
    "parameters": (lambda: failure(make(alpha=0.1 * ONLY_1), X, Y), "rank 1 has alpha=0.1, rank 0"),
    "divergence": (
        lambda: failure(make(solver="sgd", learning_rate_init=1e200), X * 1e100, Y), "has diverged",
    ),
}  # fmt: skip


if MPI.COMM_WORLD.size > 1:

    @pytest.mark.parametrize("name", CASES)
    def test_an_error_of_one_rank_is_raised_on_all(everywhere, name):
        """As an exception that a program can catch."""
        fail, message = CASES[name]
        found = everywhere(fail())
        assert all(one is not None for one in found), found
        assert {kind for kind, _ in found} == {"ValueError"}, found
        assert any(message in text for _, text in found), found


def test_each_rank_may_fit_its_own(everywhere):
    """With other parameters, without a message."""
    own = MLPRegressor(max_iter=2, random_state=RANK, use_mpi=False).fit(X, X[:, 0])
    assert len(set(everywhere(own.digest_))) == MPI.COMM_WORLD.size
