"""Checks that all ranks, and a run that is resumed, train the same network on the same data."""

from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.options import flag
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint
from distbp.training.config import Config
from distbp.version import __version__


def check_identical_on_all_ranks(comm: Topology, config: Config, data: DataSet) -> None:
    """Raise ConfigError on all ranks if one of them was started for something else.

    A data set may have another name on another node, but not other content.
    """
    own = {flag(name): value for name, value in config.to_dict().items() if name != "data"}
    own |= {"the data set": data.identity, "distbp": __version__}
    all_settings = comm.world.allgather(own)
    for rank, settings in enumerate(all_settings):
        for name, value in settings.items():
            if value != all_settings[0].get(name):
                raise ConfigError(
                    f"rank {rank} was started with {name} {value!r}, rank 0 with "
                    f"{all_settings[0].get(name)!r}. Start all ranks with the same."
                )


def check_same_run(config: Config, data: DataSet, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if `config` or `data` change what makes a run what it is."""
    # First, as options that were left open depend on the data.
    check_same_data(config, data, checkpoint)
    before = Config.read(checkpoint.about["config"], config.out)
    before.resumed(config.to_dict() | {"hidden": config.hidden, "metrics": config.metrics})


def check_same_data(config: Config, data: DataSet, checkpoint: Checkpoint) -> None:
    """Raise ConfigError unless the run was trained on this data set."""
    if checkpoint.about["data"] != data.identity:
        raise ConfigError(
            f"{data.name} is not the data set that {config.out} was trained on. "
            f"{'Pass the same arrays' if data.is_in_memory else 'Name that one'}."
        )
