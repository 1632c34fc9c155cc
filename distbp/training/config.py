"""The description of a run: one frozen `Config`, one list of its options.

Each field of `Config` is an option of `distbp train`, a key of a TOML file and an
entry of a checkpoint, under the same name (with `-` for `_` outside Python). Its
metadata hold what the command line needs: a help text, choices, a check. Options
that are None are settled by `Config.resolved`, from the data and from each other,
never from the number of ranks.
"""

import json
import os
import re
import tomllib
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from distbp.data.dataset import DataSet
from distbp.errors import ConfigError
from distbp.network.activations import HIDDEN
from distbp.network.costs import COSTS
from distbp.network.network import DTYPES, INITS
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.schedules import SCHEDULES
from distbp.parallel.shards import default_shards
from distbp.training.options import check, flag, option

# The names of `parallel.reduction.REDUCTIONS`, which is not imported because it loads the
# communicator. Exact ones give the same bits, so a resumed run may change between them.
EXACT_REDUCTIONS = ("node", "tree")
REDUCTION_NAMES = (*EXACT_REDUCTIONS, "allreduce")


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the layer sizes in '100,50'; '' means no hidden layer."""
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError as failure:
        raise ArgumentTypeError(f"{text!r}; expected sizes such as 100,50") from failure


def check_shards(shards: int | None, batch_size: int) -> None:
    """Raise ConfigError where a batch has not a row for each shard."""
    if shards is not None and shards > batch_size:
        raise ConfigError(
            f"--shards {shards} cuts a batch of {batch_size} rows too small: a shard "
            f"has at least 1 row. Use at most {batch_size}."
        )


@dataclass(frozen=True)
class Config:
    """How to train, on what; see `distbp train --help` for each option.

    Raises
    ------
    ConfigError
        An option has a value that is not allowed, or two contradict each other.
    """

    data: str = option("", "the data set", may_change_on_resume=True)
    out: str = option("", "the run's directory", may_change_on_resume=True)
    hidden: tuple[int, ...] = option(
        (100,), "sizes of the hidden layers, as in 100,50; '' for none", parse_sizes
    )
    activation: str = option("relu", "of the hidden layers", choices=HIDDEN)
    cost: str | None = option(
        None, "log-likelihood for classes, quadratic for numbers", choices=tuple(COSTS)
    )
    init: str = option("scaled", "the first weights: N(0, 1/n_in) or N(0, 1)", choices=INITS)
    optimizer: str = option("sgd", "how θ follows the gradient", choices=tuple(OPTIMIZERS))
    learning_rate: float | None = option(None, "0.1; 0.001 for adam", float, least=0.0)
    momentum: float = option(0.9, "of momentum and nesterov", float, least=0.0, below=1.0)
    schedule: str = option("constant", "how the learning rate changes", choices=SCHEDULES)
    warmup_epochs: float = option(0.0, "linear rise of the learning rate", float, least=0.0)
    decay: float = option(
        0.5, "factor on the learning rate, of step and plateau", float, least=0.0, below=1.0
    )
    decay_epochs: int = option(
        5, "epochs from one step to the next, or waited on a plateau", int, least=1
    )
    l2: float = option(0.0, "the book's λ: adds λ/(2n)·Σw² to the cost", float, least=0.0)
    l1: float = option(0.0, "adds λ/n·Σ|w| to the cost", float, least=0.0)
    dropout: float = option(
        0.0, "share of the hidden units left out of a step", float, least=0.0, below=1.0
    )
    clip_norm: float | None = option(None, "largest norm of the gradient", float, least=1e-9)
    batch_size: int = option(256, "rows of the global mini-batch", int, least=1)
    epochs: int = option(  # a checkpoint has a record of each
        30, "passes over the training set", int, least=1, below=100_001, may_change_on_resume=True
    )
    patience: int | None = option(
        None, "stop after that many epochs without a better score", int,
        least=1, may_change_on_resume=True,
    )  # fmt: skip
    validation: float = option(
        0.0, "part of train held out where the file has no validation", float, least=0.0, below=1.0
    )
    shards: int | None = option(None, "pieces of a mini-batch; fixes the bits", int, least=1)
    combine: str = option(
        "node", "how gradients are summed; allreduce is not exact", choices=REDUCTION_NAMES
    )
    threads: int = option(1, "BLAS threads a rank; part of the bits", int, least=1)
    dtype: str = option("float32", "of all numbers", choices=DTYPES)
    seed: int = option(0, "of weights, order and dropout", int, least=0, below=2**63)
    checkpoint_every: str = option(
        "1epoch", "such as 1epoch, 500steps or 60s", may_change_on_resume=True
    )
    keep: int = option(3, "checkpoints to keep, beside best and last", int,
        least=1, may_change_on_resume=True,
    )  # fmt: skip
    time_limit: str | None = option(
        None, "stop with a checkpoint after, such as 90s, 30min or 2h", may_change_on_resume=True
    )
    stall_limit: str = option(
        "10min", "end a rank that keeps the others waiting for longer", may_change_on_resume=True
    )
    check_every: int = option(
        1000, "steps between two checks for bits that changed by themselves; 0 for none", int,
        least=0, may_change_on_resume=True,
    )  # fmt: skip
    on_nan: str = option(
        "stop", "if a cost or a gradient is not finite: stop, skip the step, or roll back to the "
        "last checkpoint and halve the learning rate",
        choices=("stop", "skip", "rollback"), may_change_on_resume=True,
    )  # fmt: skip
    init_from: str | None = option(None, "a model whose weights to start from")
    quiet: bool = option(False, "print nothing but warnings and errors", may_change_on_resume=True)

    def __post_init__(self) -> None:
        hidden: Any = self.hidden  # a single layer may be given by its size
        object.__setattr__(
            self, "hidden", (hidden,) if isinstance(hidden, int | str) else tuple(hidden)
        )
        for name in ("data", "out", "init_from"):  # paths are welcome too
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else os.fspath(value))
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.default is not None:
                raise ConfigError(f"{flag(one.name)} None: expected a value.")
            check(flag(one.name), value, one.metadata)
        if any(type(n) is not int or n < 1 for n in self.hidden):
            raise ConfigError(f"--hidden {self.hidden!r}: expected whole numbers of at least 1.")
        check_shards(self.shards, self.batch_size)
        self.interval()
        for name in ("time_limit", "stall_limit"):
            self.seconds(name)

    @classmethod
    def read(cls, options: Mapping[str, Any], source: str) -> "Config":
        """Return the configuration that a checkpoint of `source` holds.

        Raises
        ------
        ConfigError
            It is none.
        """
        try:
            return cls(**options)
        except (TypeError, ValueError) as failure:
            raise ConfigError(f"{source} holds no configuration of a run: {failure}.") from failure

    def seconds(self, name: str) -> float | None:
        """Return `time_limit` or `stall_limit` in seconds."""
        text = getattr(self, name)
        if text is None:
            return None
        match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?) ?(s|min|h)", text)
        if match is None:
            raise ConfigError(
                f"{flag(name)} {text!r}: expected a number and a unit, such as 90s, 30min or 2h."
            )
        return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]

    def interval(self) -> tuple[int, str]:
        """Return `checkpoint_every` as a number and 'epoch', 'step' or 's'."""
        match = re.fullmatch(r"([1-9]\d{0,8}) ?(epoch|step|s)s?", self.checkpoint_every)
        if match is None:
            raise ConfigError(
                f"--checkpoint-every {self.checkpoint_every!r}: expected a number and a unit, "
                f"such as 1epoch, 500steps or 60s."
            )
        return int(match[1]), match[2]

    def resolved(self, data: DataSet) -> "Config":
        """Return the configuration with nothing left open.

        Raises
        ------
        ConfigError
            The cost does not go with the data.
        """
        is_regression = data.task == "regression"
        cost = self.cost or ("quadratic" if is_regression else "log-likelihood")
        if is_regression and cost != "quadratic":
            raise ConfigError(
                f"--cost {cost} is for classes, but {data.path} has numbers to predict. "
                f"Use --cost quadratic."
            )
        sizes = (data.n_in, *self.hidden, data.n_out)
        rate = self.learning_rate
        return replace(
            self,
            cost=cost,
            learning_rate=(0.001 if self.optimizer == "adam" else 0.1) if rate is None else rate,
            shards=self.shards or default_shards(self.batch_size, sizes),
        )

    def resumed(self, changes: Mapping[str, Any]) -> "Config":
        """Return this run's configuration with some options changed.

        Raises
        ------
        ConfigError
            A change would make it another run.
        """
        for one in fields(self):
            before = getattr(self, one.name)
            if one.name not in changes or changes[one.name] == before:
                continue
            after = changes[one.name]
            is_exact_sum = one.name == "combine" and all(
                name in EXACT_REDUCTIONS for name in (before, after)
            )
            moves_end = one.name == "epochs" and self.schedule == "cosine"
            if moves_end or not (one.metadata["may_change_on_resume"] or is_exact_sum):
                raise ConfigError(
                    f"{flag(one.name)} {after!r} cannot be changed when a run is resumed: it was "
                    f"begun with {before!r}. Leave it out, or begin a new run with --init-from."
                )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, as JSON can hold them."""
        return asdict(self) | {"hidden": list(self.hidden)}

    def to_toml(self) -> str:
        """Return the options that are set, but for `quiet`, as the text of a TOML file."""
        return "".join(
            f"{name.replace('_', '-')} = {toml_value(value)}\n"
            for name, value in self.to_dict().items()
            if value is not None and name != "quiet"
        )


def check_paths_given(config: Config) -> None:
    """Raise ConfigError unless the configuration names a data set and a directory."""
    if not config.data:
        raise ConfigError("distbp train needs a data set: distbp train DATA.h5 --out RUN.")
    if not config.out:
        raise ConfigError("distbp train needs a directory for the run: --out RUN.")


def toml_value(value: Any) -> str:
    """Return a value in TOML, which is that of JSON but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_useful(given: Mapping[str, Any], from_file: Mapping[str, Any]) -> None:
    """Raise ConfigError if an option was given that would have no effect.

    Only options of the command line: a file may be the record of another run.
    """
    values = {one.name: one.default for one in fields(Config)} | dict(from_file) | dict(given)
    for name, other, allowed in (
        ("momentum", "optimizer", ("momentum", "nesterov")),
        ("decay", "schedule", ("step", "plateau")),
        ("decay_epochs", "schedule", ("step", "plateau")),
    ):
        if name in given and values[other] not in allowed:
            raise ConfigError(
                f"{flag(name)} has no effect with {flag(other)} {values[other]}; it goes with "
                f"{' or '.join(allowed)}."
            )
    if given.get("dropout") and not values["hidden"]:
        raise ConfigError(
            "--dropout has no effect without hidden layers, whose units it leaves out."
        )
    if given.get("check_every") and values["combine"] == "allreduce":
        raise ConfigError(
            "--check-every has no effect with --combine allreduce, whose sums nobody can repeat."
        )
    if "init" in given and values["init_from"]:
        raise ConfigError("--init has no effect with --init-from, which has the first weights.")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file, by field name.

    Raises
    ------
    ConfigError
        The file cannot be read, or names something that is not an option.
    """
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(f"{path} cannot be read: {failure}.") from failure
    except tomllib.TOMLDecodeError as failure:
        raise ConfigError(f"{path} is not TOML: {failure}.") from failure
    known = {one.name.replace("_", "-"): one for one in fields(Config)}
    for name, value in options.items():
        if name not in known:
            right = name.replace("_", "-")
            hint = (
                f"Its name is {right!r}."
                if right in known
                else (
                    "Its place is the command line."
                    if right in ("ranks", "restarts", "resume")
                    else "distbp train --help lists them."
                )
            )
            raise ConfigError(f"{path}: {name!r} is not an option that a file can have. {hint}")
        check_type(f"{path}: {name}", value, known[name].type)
    return {name.replace("-", "_"): value for name, value in options.items()}


def check_type(name: str, value: Any, declared: Any) -> None:
    """Raise ConfigError unless a TOML value has the kind that a field is declared with."""
    kinds: dict[Any, tuple[type, ...]] = {
        str: (str,),
        int: (int,),
        float: (int, float),
        bool: (bool,),
        tuple[int, ...]: (list,),
    }
    allowed = next(types for kind, types in kinds.items() if declared in (kind, kind | None))
    is_int_list = isinstance(value, list) and all(type(item) is int for item in value)
    if type(value) not in allowed or (isinstance(value, list) and not is_int_list):
        expected = " or ".join(kind.__name__ for kind in allowed)
        expected += " of whole numbers" if list in allowed else ""
        raise ConfigError(f"{name} = {value!r}: expected a {expected}.")
