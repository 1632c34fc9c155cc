"""Open data sets and models on all ranks."""

import logging
from functools import partial
from pathlib import Path

from distbp.data.dataset import DataSet, check_readable
from distbp.errors import ConfigError
from distbp.parallel import host
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.shared_array import filled_shared_array
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint, read_checkpoint
from distbp.storage.run_directory import find_newest_checkpoint

logger = logging.getLogger(__name__)


def open_data(path: Path, comm: Topology) -> DataSet:
    """Open a data set on all ranks; what cannot be mapped is read once a node. Collective."""
    with collective_errors(comm):
        check_readable(path)
    return DataSet(path, partial(filled_shared_array, comm))


def open_model(model: str, comm: Topology) -> Checkpoint:
    """Read a checkpoint, or the newest valid one of a run, on all ranks; collective.

    Rank 0 warns of newer ones that are not.
    """
    with collective_errors(comm):
        mine, troubles = find_newest_checkpoint(model)
    # On another rank the file system may have had a bad moment: all take the same file.
    chosen = Path(comm.world.broadcast(str(mine)))
    with collective_errors(comm):
        checkpoint = read_checkpoint(chosen)
    if comm.rank == 0:
        for text in troubles:
            logger.warning("%s", text)
    return checkpoint


def open_model_and_data(model: str, path: str, comm: Topology) -> tuple[Checkpoint, DataSet]:
    """Open a model and a data set that it can be used on, on all ranks; collective."""
    data = open_data(Path(path), comm)
    checkpoint = open_model(model, comm)
    with collective_errors(comm):
        host.set_blas_threads(checkpoint.about["config"]["threads"])
        check_fits(checkpoint, data)
    return checkpoint, data


def check_fits(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raise ConfigError unless the model can be used on the data."""
    sizes = checkpoint.network.sizes
    if data.n_in != sizes[0]:
        raise ConfigError(f"The model takes {sizes[0]} numbers a row; {data.path} has {data.n_in}.")
    if data.task != checkpoint.about["task"] or data.n_out != sizes[-1]:
        raise ConfigError(
            f"The model is for {checkpoint.about['task']} with {sizes[-1]} outputs; {data.path} "
            f"is for {data.task} with {data.n_out}."
        )
    if data.classes != checkpoint.about["classes"]:
        raise ConfigError(
            f"The classes of {data.path} are not those of the model, or not in order."
        )
