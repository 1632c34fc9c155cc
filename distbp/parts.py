"""The parts of a run that are made from its configuration and its data."""

import numpy as np

from distbp import __version__, philox
from distbp.checkpoint import Checkpoint, load
from distbp.comm import Comm
from distbp.config import Config, flag
from distbp.data import DataSet, Split
from distbp.errors import ConfigError
from distbp.journal import Progress
from distbp.network import Network
from distbp.optimizers import OPTIMIZERS, Update


def check_places(config: Config) -> None:
    """Raise ConfigError unless the configuration names a data set and a directory."""
    if not config.data:
        raise ConfigError("distbp train needs a data set: distbp train DATA.h5 --out RUN.")
    if not config.out:
        raise ConfigError("distbp train needs a directory for the run: --out RUN.")


def check_alike(comm: Comm, config: Config, data: DataSet) -> None:
    """Raise ConfigError on all ranks if one of them was started for something else.

    A data set may have another name on another node, but not other content.
    """
    mine = {flag(name): value for name, value in config.to_dict().items() if name != "data"}
    mine |= {"the data set": data.identity, "distbp": __version__}
    known = comm.gather(mine)
    for rank, other in enumerate(known):
        for name, value in other.items():
            if value != known[0].get(name):
                raise ConfigError(
                    f"rank {rank} was started with {name} {value!r}, rank 0 with "
                    f"{known[0].get(name)!r}: all ranks need the same."
                )


def check_resumed(config: Config, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if going on with `config` would make it another run."""
    Config(**checkpoint.about["config"]).resumed(config.to_dict() | {"hidden": config.hidden})


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


def hold_out(config: Config, data: DataSet, comm: Comm) -> tuple[Split, Split | None]:
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
        chosen = philox.permutation(n, config.seed, philox.HOLDOUT)
        rows[: n - held], rows[n - held :] = np.sort(chosen[held:]), np.sort(chosen[:held])

    rows = comm.fill_node_array((n,), np.dtype(np.int64), choose)
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
    position = dict(about["progress"])
    update.steps = position.pop("steps")
    return Progress(**position, history=about["history"])
