"""Estimators for scikit-learn: `MLPClassifier` and `MLPRegressor`.

    pip install 'distbp[sklearn]'

    from distbp.sklearn import MLPClassifier
    model = MLPClassifier((100,), early_stopping=True).fit(x, y)   # as scikit-learn's
    model.predict_proba(x_new)
    model.to_model().save("model.h5")         # for `distbp predict`, and for `distbp export`

They work in `Pipeline`, `GridSearchCV` (also with `n_jobs`), `cross_val_score` and `clone`, and are
saved by pickle and joblib. Parameters have scikit-learn's names where they mean the same. What
differs from `sklearn.neural_network`:

    activation        no 'identity': use hidden_layer_sizes=(); further ones of distbp, such as
                      'gelu'
    solver            no 'lbfgs', and no max_fun; further ones of distbp. 'sgd' is plain with
                      momentum=0
    learning_rate     applies to every solver; also 'cosine', which ends at 0 after max_iter epochs
    alpha             L2 penalty α/(2m)·Σw² of a batch of m rows, as there; but m is that of a full
                      batch for a shorter last one, too, and losses are shown without the penalty
    initial weights   N(0, 2/n_in) into relu, otherwise N(0, 1/n_in), and biases 0; there uniform
                      by Glorot and Bengio, biases too. Other random numbers: an equal random_state
                      is another network
    two classes       two outputs with softmax, not one with the logistic function
    loss              'squared_error', 'huber' or 'absolute_error', no 'poisson'; loss_ is the sum
                      over several outputs, not their mean
    target_scaling    'standardize' (the default of MLPRegressor) learns targets of mean 0 and
                      variance 1, while loss_ and predictions are in their units; `tol` is for
                      targets of variance 1. 'none' is as there
    sample_weight     as there, but validation scores do not use weights
    class_weight      None, 'balanced' or a dict of classes; not there
    early_stopping    the score of several labels a row is the fraction of right labels
    partial_fit       k calls on the same rows are k epochs of `fit`, to the bit; scalings are those
                      of the first call
    scaling           'standardize' brings inputs to mean 0 and variance 1 within the estimator, so
                      that a saved or exported model has it; 'none' (the default) leaves that to a
                      Pipeline, as there
    dropout           probability that a hidden unit is dropped in a step
    dtype             'float32' or 'float64'; by default float32 if x is, otherwise float64, as
                      there
    options           a dict of other options of `distbp.Config`, such as {'clip_norm': 1.0,
                      'threads': 4}; BLAS has 1 thread otherwise
    sparse x          refused: use x.toarray()
    digest_           SHA-256 of all parameters: the same for any number of ranks

**MPI.** In a program that mpirun or srun has started, all ranks call `fit` with the same arrays and
parameters, and train together; the result is the same on every rank and for any number of them,
bit for bit. Whatever is wrong on one rank, such as an array of another shape, is raised on all.
Each rank keeps the arrays that it passes; `distbp.fit(…, distribute=True)` has one copy a node.
With `use_mpi=False`, and in worker processes of joblib, each process fits by itself. A fitted
estimator holds plain arrays; `predict` never communicates.

Modules in reading order: `parameters`, `convergence`, `fitting`, `base`, `estimators`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distbp.sklearn.estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'distbp.sklearn' has no attribute {name!r}")
    try:
        from distbp.sklearn import estimators
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        raise ImportError(
            "distbp.sklearn needs scikit-learn: pip install 'distbp[sklearn]'."
        ) from error
    return getattr(estimators, name)
