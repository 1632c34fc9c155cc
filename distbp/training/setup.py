"""The parts of a run that are made from its configuration and its data."""

import json
import math
from typing import Any

import numpy as np

from distbp.data.dataset import DataSet, Split
from distbp.errors import CheckpointError, ConfigError
from distbp.network import rng
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.schedules import cosine_factor, step_factor, warmup_factor
from distbp.network.update import Update
from distbp.parallel.shared_array import filled_shared_array
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.run_directory import load
from distbp.training.config import Config
from distbp.training.options import flag
from distbp.training.state import History, Progress
from distbp.version import __version__


def check_places(config: Config) -> None:
    """Raise ConfigError unless the configuration names a data set and a directory."""
    if not config.data:
        raise ConfigError("distbp train needs a data set: distbp train DATA.h5 --out RUN.")
    if not config.out:
        raise ConfigError("distbp train needs a directory for the run: --out RUN.")


def check_identical_on_all_ranks(comm: Topology, config: Config, data: DataSet) -> None:
    """Raise ConfigError on all ranks if one of them was started for something else.

    A data set may have another name on another node, but not other content.
    """
    mine = {flag(name): value for name, value in config.to_dict().items() if name != "data"}
    mine |= {"the data set": data.identity, "distbp": __version__}
    known = comm.world.allgather(mine)
    for rank, other in enumerate(known):
        for name, value in other.items():
            if value != known[0].get(name):
                raise ConfigError(
                    f"rank {rank} was started with {name} {value!r}, rank 0 with "
                    f"{known[0].get(name)!r}: all ranks need the same."
                )


def check_resumed(config: Config, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if going on with `config` would make it another run."""
    before = Config.read(checkpoint.about["config"], config.out)
    before.resumed(config.to_dict() | {"hidden": config.hidden})


def make_network(config: Config, data: DataSet, has_weights: bool) -> Network:
    """Return the network to start from; its weights do not matter if a checkpoint has them.

    Raises
    ------
    ConfigError
        `init_from` names a model of another shape.
    """
    sizes = (data.n_in, *config.hidden, data.n_out)
    network = Network(
        sizes,
        config.activation,
        config.cost or "",
        "linear" if data.task == "regression" else None,
        config.init,
        config.seed,
        config.dtype,
    )
    if config.init_from and not has_weights:
        first = load(config.init_from)
        if first.sizes != network.sizes:
            raise ConfigError(
                f"{config.init_from} was written for sizes {first.sizes}; "
                f"this run asks for {sizes}."
            )
        np.copyto(network.theta, first.theta)
    return network


def make_update(config: Config, network: Network, rows: int) -> Update:
    """Return what turns gradients into new parameters; `rows` is the book's n."""
    return Update(
        network,
        OPTIMIZERS[config.optimizer](config.momentum),
        l1=config.l1 / rows,
        l2=config.l2 / rows,
        clip_norm=config.clip_norm,
    )


def learning_rate(config: Config, progress: Progress, step: int, batches: int) -> float:
    """Return η for a step of an epoch of `batches` steps."""
    epoch = progress.epoch + step / batches
    factor = warmup_factor(epoch, 1 / batches, config.warmup_epochs) * progress.rate_factor
    if config.schedule == "step":
        factor *= step_factor(progress.epoch, config.decay, config.decay_epochs)
    elif config.schedule == "cosine":
        factor *= cosine_factor(epoch, config.epochs)
    elif config.schedule == "plateau":
        factor *= progress.history.plateau_factor(config.decay, config.decay_epochs)
    return (config.learning_rate or 0.0) * factor


def split_validation(config: Config, data: DataSet, comm: Topology) -> tuple[Split, Split | None]:
    """Return the training rows and the validation rows, held out of train if asked for.

    Raises
    ------
    ConfigError
        There is a validation set already, or a part would be empty.
    """
    train = data.split("train")
    if not config.validation:
        return train, data.splits.get("validation")
    if "validation" in data.splits:
        raise ConfigError(f"--validation {config.validation}: {data.path} has a validation split.")
    n = len(train)
    held = round(n * config.validation)
    if not 0 < held < n:
        raise ConfigError(
            f"--validation {config.validation} of {n} rows leaves {n - held} to train on and "
            f"{held} to validate with; both need at least 1."
        )

    def choose(rows: np.ndarray) -> None:
        chosen = rng.permutation(n, config.seed, rng.HOLDOUT)
        rows[: n - held], rows[n - held :] = np.sort(chosen[held:]), np.sort(chosen[:held])

    rows = filled_shared_array(comm, (n,), np.dtype(np.int64), choose)
    return train.subset(rows[: n - held]), train.subset(rows[n - held :])


def restore(
    checkpoint: Checkpoint, config: Config, data: DataSet, network: Network, update: Update
) -> Progress:
    """Bring network and update to where a checkpoint was written; return where that is.

    Raises
    ------
    ConfigError
        The run was trained on other data.
    """
    about = checkpoint.about
    if about["data"] != data.identity:
        raise ConfigError(
            f"{data.path} is not the data set that {config.out} was trained on. Name that one."
        )
    np.copyto(network.theta, checkpoint.network.theta)
    for name, array in update.state.items():
        np.copyto(array, checkpoint.state[name])
    progress, update.steps = where(about["progress"], checkpoint.history, config.out)
    return progress


def where(position: dict[str, Any], lines: list[str], source: str) -> tuple[Progress, int]:
    """Return where a run was, and how many steps it had made.

    `lines` are those of metrics.jsonl.

    Raises
    ------
    CheckpointError
        That is not what the checkpoint says.
    """
    start = Progress().position() | {"steps": 0}
    if position.keys() != start.keys() or any(
        type(value) is not type(start[name])
        or not 0 <= value < (math.inf if isinstance(value, float) else 2**63)
        for name, value in position.items()
    ):
        raise CheckpointError(f"{source}: the checkpoint does not say where the run was.")
    try:
        history = History(map(json.loads, lines))
    except (ValueError, LookupError, TypeError, RecursionError) as failure:
        raise CheckpointError(f"{source}: the checkpoint's history is not one.") from failure
    if len(history) != position["epoch"]:
        raise CheckpointError(f"{source}: the checkpoint has not one record an epoch.")
    rest = {name: value for name, value in position.items() if name != "steps"}
    return Progress(**rest, history=history), position["steps"]
