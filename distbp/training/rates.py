"""The learning rate of a step, from the configuration, its position and the scores so far.

Computed anew in every step: it has no state of its own that a checkpoint would have to hold.
"""

from functools import cache

from distbp import own_parts
from distbp.network.schedules import (
    Schedule,
    cosine_factor,
    find_schedule,
    step_factor,
    warmup_factor,
)
from distbp.training.config import Config
from distbp.training.state import Progress


def learning_rate(config: Config, progress: Progress, step: int, steps_per_epoch: int) -> float:
    """Return η for a step of the epoch under way."""
    done = progress.position.epoch
    epoch = done + step / steps_per_epoch
    factor = progress.rate_factor
    if config.warmup_epochs:
        factor *= warmup_factor(epoch, 1 / steps_per_epoch, config.warmup_epochs)
    if config.schedule == "step":
        factor *= step_factor(done, config.decay, config.decay_epochs)
    elif config.schedule == "cosine":
        factor *= cosine_factor(epoch, config.epochs)
    elif config.schedule == "plateau":
        factor *= progress.history.plateau_factor(config.decay, config.decay_epochs)
    elif own_parts.is_own(config.schedule):
        schedule = _make_schedule(find_schedule(config.schedule))
        factor *= schedule.factor(epoch, config.epochs, progress.history.scores)
    return (config.learning_rate or 0.0) * factor


def learning_rates(
    config: Config, progress: Progress, count: int, steps_per_epoch: int
) -> list[float]:
    """Return η of the next `count` steps."""
    first = progress.position.step
    if config.schedule in ("constant", "step", "plateau") and not config.warmup_epochs:
        return [learning_rate(config, progress, first, steps_per_epoch)] * count
    return [learning_rate(config, progress, first + i, steps_per_epoch) for i in range(count)]


@cache
def _make_schedule(kind: type[Schedule]) -> Schedule:
    """Return a user's own schedule, made once."""
    return kind()
