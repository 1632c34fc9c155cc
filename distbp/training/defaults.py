"""The options that are left open, derived from the data and from each other.

Never from the number of ranks, their memory or their speed: what is derived is part of what
determines the bits of a run.
"""

from dataclasses import replace

from distbp import own_parts
from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.network.costs import find_cost
from distbp.network.optimizers import find_optimizer
from distbp.parallel.shards import default_shards
from distbp.training.config import AUTO, Config

# From this size of train/x on, `--shuffle auto` reads it in blocks: a matter of the data alone,
# for the order of the rows must not depend on the memory of a machine.
BLOCK_SHUFFLE_BYTES = 4 << 30
# The costs that go with a task of a data set; the first is the default.
_COSTS_OF_TASKS = {
    "classification": ("log-likelihood", "cross-entropy", "quadratic"),
    "multilabel": ("cross-entropy", "quadratic"),
    "regression": ("quadratic", "huber", "mae"),
}


def chosen_shuffle(shuffle: str, train_bytes: int) -> str:
    """Return `full` or `blocks` for a data set with so many bytes of train/x."""
    if shuffle != AUTO:
        return shuffle
    return "blocks" if train_bytes >= BLOCK_SHUFFLE_BYTES else "full"


def resolve(config: Config, data: DataSet) -> Config:
    """Return the configuration with what is left open derived from the data and the rest.

    Raises
    ------
    ConfigError
        The cost function or label smoothing does not fit the task of the data set.
    """
    costs = _COSTS_OF_TASKS[data.task]
    cost = config.cost or costs[0]
    known = {task: cost in its for task, its in _COSTS_OF_TASKS.items()}
    if own_parts.is_own(cost):
        known = {task: task in find_cost(cost).tasks for task in _COSTS_OF_TASKS}
    if not known[data.task]:
        tasks = " or ".join(task for task, is_for in known.items() if is_for)
        raise ConfigError(
            f"--cost {cost} is for {tasks}, but {data.name} is for {data.task}. "
            f"Use --cost {' or '.join(costs)}."
        )
    if config.label_smoothing and data.task != "classification":
        raise ConfigError(
            f"--label-smoothing is for classification, but {data.name} is for {data.task}. "
            f"Leave it out."
        )
    if config.class_weight != "none" and data.task != "classification":
        raise ConfigError(
            f"--class-weight {config.class_weight} is for classification, but {data.name} is "
            f"for {data.task}. Give rows weights instead: distbp import --weight NAME."
        )
    sizes = (data.n_in, *config.hidden, data.n_out)
    rate = config.learning_rate
    return replace(
        config,
        cost=cost,
        learning_rate=_default_rate(config, data) if rate is None else rate,
        shuffle=chosen_shuffle(config.shuffle, data.train_bytes),
        shards=config.shards or default_shards(config.batch_size, sizes),
    )


def _default_rate(config: Config, data: DataSet) -> float:
    """Return η for an optimizer on this data."""
    fixed = find_optimizer(config.optimizer).default_rate
    if fixed is not None:
        return fixed
    # With linear outputs for targets of variance 1, 100 hidden units diverge above about 0.06,
    # and 300 above 0.02.
    return 0.1 if data.target is None else 0.01
