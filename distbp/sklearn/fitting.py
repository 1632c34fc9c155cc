"""Training the network of an estimator, alone or on all ranks of an MPI program.

`FitRequest` is what one call of `fit` or `partial_fit` trains on, `FitState` what it leaves for the
next: plain arrays, so that an estimator can be pickled. `train_network` is collective:
under MPI all ranks call it with the same arrays. What a user can do wrong is checked on each rank
before that, inside `errors_on_all_ranks`, so that no rank waits for one that has raised.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distbp.data.dataset import DataSet, Split
from distbp.data.shuffle import FullShuffle
from distbp.errors import ConfigError, DataError, DivergedError
from distbp.network.network import Network
from distbp.parallel import host
from distbp.parallel.rank_errors import abort_on_error
from distbp.parallel.topology import Topology
from distbp.sklearn.convergence import Convergence
from distbp.sklearn.parameters import make_config
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.training.config import Config
from distbp.training.loop import Run
from distbp.training.setup import RunParts, assemble
from distbp.training.state import Position

# Exceptions that other ranks raise as the same; any other one is a RuntimeError there.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, AttributeError)
}


@contextmanager
def errors_on_all_ranks(comm: Topology) -> Iterator[None]:
    """Raise an exception of any rank inside the block on every rank, at its end; collective."""
    if comm.size == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, the other ranks must not wait for this one
        own = error
    found = comm.world.allgather(None if own is None else [type(own).__name__, str(own)])
    if own is not None:
        raise own
    first = next((rank for rank, one in enumerate(found) if one is not None), None)
    if first is not None:
        kind, text = found[first]
        raise _KINDS.get(kind, RuntimeError)(f"rank {first}: {text}")


def check_same_on_all_ranks(comm: Topology, settings: Mapping[str, str]) -> None:
    """Raise ValueError on all ranks unless they have the same settings; collective."""
    if comm.size == 1:
        return
    found = comm.world.allgather(dict(settings))
    for rank, own in enumerate(found):
        for name, value in own.items():
            if value != found[0].get(name):
                raise ValueError(
                    f"rank {rank} has {name}={value}, rank 0 {found[0].get(name)}. Under MPI all "
                    "ranks fit the same estimator on the same arrays; with use_mpi=False each fits "
                    "its own."
                )


@dataclass
class FitState:
    """What an estimator keeps from one call to the next.

    Attributes
    ----------
    optimizer : dict of (P,) arrays
        Its state, by name.
    epochs, updates : int
        Of all calls.
    shift, scale : (1,) or (n_0,) arrays
        Of the inputs.
    target : (shift, scale) of a regression, optional
        Each (n_L,).
    about : dict
        Of the last run, as checkpoints describe it.
    history : list of str
        Its records.
    """

    optimizer: dict[str, np.ndarray]
    epochs: int
    updates: int
    shift: np.ndarray
    scale: np.ndarray
    target: tuple[np.ndarray, np.ndarray] | None
    about: dict[str, Any]
    history: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FitRequest:
    """What a call trains on.

    Attributes
    ----------
    parameters : mapping
        Of the estimator.
    task : {'classification', 'multilabel', 'regression'}
    cost : str
        distbp's name.
    classes : list of str
        Names, as a data set stores them.
    label_type : str
        What the labels are: 'bool', 'int', 'float' or 'text'.
    x : (n, n_0) array
    y : (n,) class numbers, (n, k) uint8 labels, or (n, k) float64 targets
    weights : (n,) float64 array, optional
    validation : (x, y), optional
    before : FitState, optional
        Of the call before, if this one continues it.
    theta : (P,) array, optional
        What to start from; with `before` only.
    is_partial : bool
        Whether to make one epoch that continues the earlier ones.
    """

    parameters: Mapping[str, Any]
    task: str
    cost: str
    classes: list[str]
    label_type: str
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    validation: tuple[np.ndarray, np.ndarray] | None
    before: FitState | None
    theta: np.ndarray | None
    is_partial: bool

    @property
    def dtype(self) -> str:
        """The type of the network: by default that of x, float32 or else float64."""
        return self.parameters["dtype"] or ("float32" if self.x.dtype == np.float32 else "float64")


def _standardization(
    values: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return shift and scale to mean 0 and variance 1 of rows with weights; 1 for constants."""
    origin = values[:1].astype(np.float64)  # so that a constant has a variance of 0
    with np.errstate(over="ignore", invalid="ignore"):
        rest = values - origin
        mean = np.average(rest, axis=0, weights=weights)
        deviation = np.sqrt(np.average(np.square(rest - mean), axis=0, weights=weights))
    if not np.isfinite(deviation).all() or (deviation > 1e100).any():
        raise ValueError("The numbers are too large to standardize. Use other units.")
    return origin[0] + mean, 1.0 / np.where(deviation > 1e-150, deviation, 1.0)


def _make_data(request: FitRequest, comm: Topology) -> DataSet:
    """Return the arrays as a data set."""
    x, y, weights, before = request.x, request.y, request.weights, request.before
    target: tuple[np.ndarray, np.ndarray] | None = None
    if before is not None:
        scaling, target = Scaling(before.shift, before.scale), before.target
    else:
        scaling = Scaling(np.zeros(1), np.ones(1))
        if request.parameters["scaling"] == "standardize":
            scaling = Scaling(*_standardization(x, weights))
        if request.parameters.get("target_scaling") == "standardize":
            target = _standardization(y, weights)
    digest = hashlib.sha256()
    arrays = [x, y, *([] if weights is None else [weights]), *(request.validation or ())]
    for array in arrays if comm.size > 1 else ():  # ranks have to agree on them
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    about = {
        "task": request.task, "classes": request.classes, "label_type": request.label_type,
        "shape": [x.shape[1]], "scaling": request.parameters["scaling"], "split": "by the caller",
        "source": {"files": ["arrays"], "sha256": ""}, "digest": digest.hexdigest(),
    }  # fmt: skip
    splits = {"train": Split(np.ascontiguousarray(x), np.ascontiguousarray(y), weights=weights)}
    if request.validation is not None:
        splits["validation"] = Split(*map(np.ascontiguousarray, request.validation))
    return DataSet.in_memory(about, splits, scaling, TargetScaling(*target) if target else None)


class _InOrder(FullShuffle):
    """Takes batches from the rows as they are."""

    def start(self, epoch: int, step: int) -> None:
        def write(order: np.ndarray) -> None:
            order[...] = np.arange(len(order))

        self._shared.fill(write)


def _prepare(request: FitRequest, config: Config, comm: Topology, data: DataSet) -> RunParts:
    """Return the parts of a run that starts from the state of earlier calls; collective."""
    parts = assemble(config, comm, data=data)
    rule, parameters = parts.update.optimizer, request.parameters
    for name, ours in (("beta_1", "beta1"), ("beta_2", "beta2"), ("epsilon", "epsilon")):
        if hasattr(rule, ours):
            setattr(rule, ours, float(parameters[name]))
    if not parameters["shuffle"]:
        order = _InOrder(comm, parts.rows, parts.config.batch_size, parts.config.seed)
        parts = replace(parts, order=order)
    before = request.before
    if before is None or request.theta is None:
        return parts
    np.copyto(parts.network.theta, request.theta)
    if not request.is_partial:  # a warm start keeps θ alone
        return parts
    for name, array in parts.update.store.state.items():
        np.copyto(array, before.optimizer[name])
    parts.update.store.steps = before.updates
    position = Position(before.epochs, 0, before.updates)
    return replace(parts, start=parts.start._replace(position=position))


def _make_config(request: FitRequest, seed: int) -> Config:
    mean_weight = 1.0 if request.weights is None else float(request.weights.mean())
    config = make_config(request.parameters, len(request.x), mean_weight, request.dtype, seed)
    if request.is_partial:
        config = replace(config, epochs=1 + (request.before.epochs if request.before else 0))
    return replace(config, cost=request.cost)


def train_network(
    request: FitRequest, comm: Topology, seed: int, best_loss: float, rows_seen: int
) -> tuple[FitState, Convergence, Network]:
    """Train on all ranks; collective.

    Parameters
    ----------
    request : FitRequest
    comm : Topology
    seed : int
    best_loss, rows_seen : as for `Convergence`

    Raises
    ------
    ValueError
        On all ranks, if their parameters or arrays differ, or numbers become infinite.
    """
    with errors_on_all_ranks(comm):
        config, data = _make_config(request, seed), _make_data(request, comm)
    convergence = Convergence(
        request.parameters, request.is_partial, best_loss, rows_seen, len(request.x),
        bool(request.parameters["verbose"]) and comm.rank == 0,
    )  # fmt: skip
    try:
        with host.preserve_blas_threads(), abort_on_error(comm):
            run = Run(_prepare(request, config, comm, data))
            with run.parts.stop_request:
                result = run.train(convergence)
    except DivergedError as error:
        raise ValueError(
            "The training has diverged: a number is not finite. Scale the inputs, or use a smaller "
            "learning_rate_init."
        ) from error
    except (ConfigError, DataError) as error:
        raise ValueError(str(error)) from error
    checkpoint, position = result.model.checkpoint, run.progress.position
    network = checkpoint.network
    if convergence.best_theta is not None:
        network.bind(convergence.best_theta)
    pair = None if data.target is None else (data.target.shift, data.target.scale)
    state = FitState(
        checkpoint.state, position.epoch, position.updates, data.scaling.shift,
        data.scaling.scale, pair, checkpoint.about, list(checkpoint.history),
    )  # fmt: skip
    return state, convergence, network
