"""Open data sets and models on all ranks, with the same result or the same error on each."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from distbp import own_parts
from distbp.data.arrays import Arrays, distribute_data, make_data_set, share_on_nodes
from distbp.data.dataset import DataSet, check_readable
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError
from distbp.parallel import host
from distbp.parallel.rank_errors import collective_errors, run_on_rank_0
from distbp.parallel.shared_array import filled_shared_array
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint, read_checkpoint
from distbp.storage.run_directory import find_newest_checkpoint
from distbp.training.config import Config
from distbp.training.config_file import check_paths_given

logger = logging.getLogger(__name__)

# Without the names of datasets in a file.
_IMPORT_OPTIONS = {
    one.name for one in fields(ImportOptions) if one.metadata["group"] != "HDF5 files"
}


def open_data(path: Path, comm: Topology, is_streamed: bool | None = None) -> DataSet:
    """Open a data set on all ranks; arrays that cannot be mapped are read once per node.

    Collective. `is_streamed` is that of `DataSet`.

    Raises
    ------
    DataError
        On all ranks, if one of them cannot read the data set.
    """
    with collective_errors(comm):
        check_readable(path)
    return DataSet(path, partial(filled_shared_array, comm), is_streamed)


def import_options(given: Mapping[str, Any]) -> ImportOptions:
    """Return options of an import that were given by their names in Python.

    Raises
    ------
    ConfigError
        There is no such option.
    """
    for name in given:
        if name not in _IMPORT_OPTIONS:
            raise ConfigError(
                f"{name!r} is neither an option of `distbp.Config` nor of an import. Correct it."
            )
    return ImportOptions(**given)


def open_arrays(
    arrays: Arrays, options: ImportOptions, comm: Topology, distribute: bool
) -> DataSet:
    """Return the data set of arrays on all ranks; collective.

    Parameters
    ----------
    arrays : Arrays
        With `distribute` those of rank 0 are used. Otherwise each rank uses its own, so that
        nothing is copied unless they have to be converted.
    options : ImportOptions
    comm : Topology
    distribute : bool

    Raises
    ------
    ConfigError, DataError
        On all ranks: an array is not what it should be, or not the same on all ranks.
    """
    data, is_copied = None, False
    with collective_errors(comm):
        if comm.rank == 0 or not distribute:
            if arrays.is_empty:
                raise ConfigError("There are no arrays x and y to train on. Pass them.")
            data, is_copied = make_data_set(arrays, options)
    if distribute or data is None:
        return distribute_data(comm, data)
    _check_same_arrays(comm, data)
    # Arrays that are the caller's own stay where they are.
    return share_on_nodes(comm, data) if any(comm.world.allgather(is_copied)) else data


def _check_same_arrays(comm: Topology, data: DataSet) -> None:
    """Raise DataError on all ranks unless they have the same arrays."""
    identities = comm.world.allgather([data.identity, data.classes])
    for rank, identity in enumerate(identities):
        if identity != identities[0]:
            raise DataError(
                f"The arrays of rank {rank} are not those of rank 0. Pass the same on all ranks, "
                "or those of rank 0 alone with distribute=True."
            )


def open_model(model: str, comm: Topology) -> Checkpoint:
    """Read a checkpoint, or the newest valid one of a run, on all ranks; collective.

    Rank 0 logs a warning for each newer checkpoint that is damaged.

    Raises
    ------
    CheckpointError
        On all ranks, if there is no valid checkpoint.
    """

    def choose() -> list[Any]:
        found, problems = find_newest_checkpoint(model)
        return [str(found), problems]

    # On a network file system another rank may see another one as the newest, or none yet.
    chosen, problems = run_on_rank_0(comm, choose)
    with collective_errors(comm):
        checkpoint = read_checkpoint(Path(chosen))
    if comm.rank == 0:
        for text in problems:
            logger.warning("%s", text)
        for name in own_parts.changed(checkpoint.about.get("own_parts")):
            logger.warning(
                "The source of %s has changed since %s was trained: results may differ. Restore "
                "it.",
                name, model,
            )  # fmt: skip
    return checkpoint


def open_model_for_rows(model: str, comm: Topology) -> Checkpoint:
    """Read a model as `open_model` does, and let BLAS use its number of threads; collective."""
    checkpoint = open_model(model, comm)
    with collective_errors(comm):
        host.set_blas_threads(checkpoint.about["config"]["threads"])
    return checkpoint


def open_model_and_data(model: str, path: str, comm: Topology) -> tuple[Checkpoint, DataSet]:
    """Open a model, and a data set that fits it, on all ranks; collective.

    BLAS uses the model's number of threads from then on: the same bits as in training.

    Raises
    ------
    DistbpError
        On all ranks, if one of them cannot be read or they do not fit.
    """
    data = open_data(Path(path), comm)
    checkpoint = open_model(model, comm)
    with collective_errors(comm):
        host.set_blas_threads(checkpoint.about["config"]["threads"])
        _check_fits(checkpoint, data)
    trained, used = checkpoint.about["config"].get("kernels"), host.kernels_in_use()
    if comm.rank == 0 and trained not in (None, used, host.loaded_kernels()):
        logger.warning(
            "%s was trained with the kernels %s, and is used with %s: last bits may differ. Use "
            "it within the directory of its run, or set no OPENBLAS_CORETYPE.",
            model, trained, used,
        )  # fmt: skip
    return checkpoint, data


def _check_fits(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raise ConfigError unless inputs, task, outputs and classes of model and data agree."""
    sizes, task = checkpoint.network.sizes, checkpoint.about["task"]
    if data.n_in != sizes[0]:
        raise ConfigError(
            f"The model takes rows of {sizes[0]} numbers; {data.name} has rows of {data.n_in}."
        )
    if data.task != task or data.n_out != sizes[-1]:
        raise ConfigError(
            f"The model is for {task} with {sizes[-1]} outputs; {data.name} is for {data.task} "
            f"with {data.n_out}."
        )
    if data.classes != checkpoint.about["classes"]:
        raise ConfigError(
            f"The classes of {data.name} are not those of the model, or in another order. Import "
            f"it with the labels that the model was trained on."
        )
    trained, found = checkpoint.preprocessing, data.preprocessing
    if trained is None or found is None:  # of arrays, or of an older version
        return
    if (trained.input_names, trained.target_transform) != (
        found.input_names,
        found.target_transform,
    ):
        raise ConfigError(
            f"The columns, categories or transformed targets of {data.name} are not those of the "
            "model. Import the table with the options of the training data, or use the table "
            "itself."
        )


def check_source(
    config: Config, arrays: Arrays, resume: bool, is_enough: bool, options: dict[str, Any]
) -> None:
    """Raise ConfigError if `train` was not given what it needs, or anything without effect.

    `is_enough` says that neither arrays nor paths in `config` are needed.
    """
    if resume and not config.out:
        raise ConfigError("resume=True needs the run's directory: Config(out=...).")
    if resume and not config.data and arrays.is_empty and not is_enough:
        raise ConfigError(
            f"{config.out} was trained on arrays. Pass them to distbp.train again, or name a data "
            "set of the same rows."
        )
    if arrays.is_empty and not is_enough:
        check_paths_given(config)
    without_effect = [*arrays.given, *options]
    if config.data and without_effect:
        raise ConfigError(
            f"{without_effect[0]!r} is for arrays; there is a data set, {config.data}. Give one of "
            "them."
        )
    import_options(options)


def check_same_source(comm: Topology, own: list[bool]) -> None:
    """Raise ConfigError on all ranks unless they get their data in the same way; collective."""
    ways = comm.world.allgather(own)
    if any(way != ways[0] for way in ways):  # compared alike on all ranks
        raise ConfigError(
            "Some ranks pass arrays and others none. Pass the same on all ranks, or those of rank "
            "0 alone with distribute=True on all."
        )
