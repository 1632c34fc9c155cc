"""The configuration of a run: one frozen `Config`, the only list of its options.

Each field of `Config` is an option of `distbp train`, a key of a TOML file and an entry of
a checkpoint, under the same name (with `-` for `_` outside Python). Options that are None
are derived by `defaults.resolve` from the data and from each other, never from the number
of ranks: that is what makes a run independent of it. How an option is put into practice
is not known here.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network.activations import HIDDEN
from distbp.network.costs import COSTS
from distbp.network.network import DTYPES, INITS
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.schedules import SCHEDULES
from distbp.options import (
    check_option,
    flag,
    option,
    parse_names,
    parse_sizes,
    python_number,
    toml_value,
)
from distbp.parallel.shards import check_shards
from distbp.training.folds import check_fold

# The groups of `distbp train --help`, in order.
GROUPS = (
    "data", "network", "optimization", "run and checkpoints", "parallelism", "robustness",
)  # fmt: skip
# The names of `parallel.reduction_factory.REDUCTIONS`, which is not imported because it loads the
# communicator. Exact ones give the same bits, so a resumed run may change between them.
EXACT_REDUCTIONS = ("node", "tree")
REDUCTION_NAMES = (*EXACT_REDUCTIONS, "allreduce")
# Every checkpoint holds the records of all epochs, so their number has to be bounded.
_MAX_EPOCHS = 100_000

# What decided which epoch is best before there was a choice: the validation cost or, without a
# validation set, the training cost, in the user's units.
FIRST_MONITOR = "cost"

AUTO = "auto"  # of `shuffle` and `checkpoint_every`
_SHUFFLES = ("full", "blocks")
ENGINES = (AUTO, "numpy", "compiled")
_SECONDS_PER_UNIT = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Config:
    """How to train, and on which data; see `distbp train --help` for each option.

    Raises
    ------
    ConfigError
        The value of an option is not allowed, or two options contradict each other.
    """

    # The order of the fields is that of `config.toml` and of a checkpoint's configuration.
    data: str = option(
        "", "data set, written by distbp import", group="data", metavar="DATA.h5",
        may_change_on_resume=True,
    )  # fmt: skip
    out: str = option(
        "", "directory of a new run: checkpoints, metrics.jsonl, config.toml",
        group="run and checkpoints", is_common=True, metavar="RUN", default_text="none",
        may_change_on_resume=True,
    )  # fmt: skip
    hidden: tuple[int, ...] = option(
        (100,), "sizes of the hidden layers, such as 100,50; '' for none", parse_sizes,
        group="network", is_common=True, metavar="LIST",
    )  # fmt: skip
    activation: str = option(
        "relu", "activation function of the hidden layers; like cost, optimizer and schedule, one "
        "of these or module:Name for your own class (python -m pydoc distbp.own_parts)",
        group="network", choices=HIDDEN, has_own_parts=True,
    )  # fmt: skip
    cost: str | None = option(
        None, "cost function", group="network", choices=tuple(COSTS), has_own_parts=True,
        default_text="by the data: log-likelihood for classes, cross-entropy for multilabel, "
        "quadratic for regression",
    )  # fmt: skip
    init: str = option(
        "scaled", "initial weights: N(0, gain/n_in), with the activation's gain (2 into relu), or "
        "N(0, 1)", group="network", choices=INITS,
    )  # fmt: skip
    optimizer: str = option(
        "sgd", "update rule", group="optimization", is_common=True, choices=tuple(OPTIMIZERS),
        has_own_parts=True,
    )  # fmt: skip
    learning_rate: float | None = option(
        None, "learning rate", float, group="optimization", is_common=True, least=0.0,
        default_text="0.1; 0.01 for scaled targets; 0.001 for adam, adamw, nadam and rmsprop",
    )  # fmt: skip
    momentum: float = option(
        0.9, "momentum coefficient of momentum and nesterov", float, group="optimization",
        least=0.0, below=1.0,
    )  # fmt: skip
    schedule: str = option(
        "constant", "learning rate schedule", group="optimization", choices=SCHEDULES,
        has_own_parts=True,
    )  # fmt: skip
    warmup_epochs: float = option(
        0.0, "epochs of linear warm-up of the learning rate", float, group="optimization",
        least=0.0,
    )  # fmt: skip
    decay: float = option(
        0.5, "factor on the learning rate of the schedules step and plateau", float,
        group="optimization", least=0.0, below=1.0,
    )  # fmt: skip
    decay_epochs: int = option(
        5, "step: epochs between decays; plateau: epochs without improvement before one", int,
        group="optimization", least=1,
    )  # fmt: skip
    l2: float = option(
        0.0, "L2 penalty λ: adds λ/(2n)·Σw² to the cost", float, group="optimization", least=0.0
    )
    l1: float = option(
        0.0, "L1 penalty λ: adds λ/n·Σ|w| to the cost", float, group="optimization", least=0.0
    )
    weight_decay: float = option(
        0.01, "weight decay λ of adamw: multiplies weights by 1 − ηλ in each step", float,
        group="optimization", least=0.0,
    )  # fmt: skip
    dropout: float = option(
        0.0, "probability that a hidden unit is dropped in a step", float, group="network",
        least=0.0, below=1.0,
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "ε of label smoothing: targets of classes are (1 − ε)·y + ε/k in training, and so in "
        "train_cost", float,
        group="optimization", least=0.0, below=1.0,
    )  # fmt: skip
    ema: float = option(
        0.0, "β of an exponential moving average of the weights, such as 0.999, which is what is "
        "evaluated, saved as the model and used for predictions; 0 for none", float,
        group="optimization", least=0.0, below=1.0,
    )  # fmt: skip
    class_weight: str = option(
        "none", "weights of the rows by their class: balanced gives each class the same total "
        "weight, n/(k·count); for classification",
        group="optimization", choices=("none", "balanced"),
    )  # fmt: skip
    clip_norm: float | None = option(
        None, "scale the gradient down to this L2 norm if it is larger", float,
        group="optimization", least=1e-9,
    )  # fmt: skip
    batch_size: int = option(
        256, "rows in the global mini-batch, over all ranks", int, group="optimization",
        is_common=True, least=1,
    )  # fmt: skip
    epochs: int = option(
        30, "passes over the training set", int, group="optimization", is_common=True,
        least=1, below=_MAX_EPOCHS + 1, may_change_on_resume=True,
    )  # fmt: skip
    patience: int | None = option(
        None, "stop early after N epochs without a better score (see --monitor)", int,
        group="optimization", least=1, may_change_on_resume=True,
    )  # fmt: skip
    metrics: tuple[str, ...] = option(
        (), "metrics to compute for validation and test after each epoch, such as f1,roc-auc; "
        "f1:NAME is that of one class; an unknown name lists all", parse_names,
        group="run and checkpoints", metavar="LIST", default_text="none",
        may_change_on_resume=True,
    )  # fmt: skip
    callbacks: tuple[str, ...] = option(
        (), "callbacks of your own, module:Name, that are called after each epoch", parse_names,
        group="run and checkpoints", metavar="LIST", default_text="none",
        may_change_on_resume=True,
    )  # fmt: skip
    tensorboard: bool = option(
        False, "also write the numbers of metrics.jsonl for TensorBoard, to RUN/tensorboard",
        group="run and checkpoints", may_change_on_resume=True,
    )  # fmt: skip
    monitor: str | None = option(
        None, "what decides which epoch is best, for best.h5, --patience and the schedule plateau: "
        "a key of metrics.jsonl, such as validation_f1 or train_cost; an unknown name lists all",
        group="optimization", metavar="NAME",
        default_text="validation_cost; train_cost without a validation set; "
        "validation_standardized_cost for several scaled targets",
    )  # fmt: skip
    validation: float = option(
        0.0, "fraction of the training rows to hold out for validation, if the data set has no "
        "validation split", float,
        group="data", least=0.0, below=1.0,
    )  # fmt: skip
    fold: str | None = option(
        None, "fold of the training rows to hold out for validation, such as 2/5: each has the "
        "same share of each class", group="data", metavar="FOLD",
    )  # fmt: skip
    shards: int | None = option(
        None, "shards per mini-batch, the units that are spread over ranks; part of what "
        "determines the result's bits", int,
        group="parallelism", least=1, default_text="by batch size and network",
    )  # fmt: skip
    combine: str = option(
        "node", "gradient reduction: in shared memory within a node, by messages only, or by "
        "MPI_Allreduce, whose result depends on the number of ranks",
        group="parallelism", choices=REDUCTION_NAMES,
    )  # fmt: skip
    threads: int = option(
        1, "BLAS threads per rank; part of what determines the result's bits", int,
        group="parallelism", least=1,
    )  # fmt: skip
    kernels: str = option(
        "native", "BLAS kernels, part of what determines the result's bits: native, the fastest "
        "for the CPUs; portable, those of Haswell, the same bits on all x86-64 CPUs since 2013; "
        "or a name known to OpenBLAS",
        group="parallelism", metavar="NAME", may_change_on_resume=True,
    )  # fmt: skip
    engine: str = option(
        "auto", "what makes the steps, part of what determines the result's bits: numpy, or "
        "compiled, machine code made by numba, which distbp[fast] installs",
        group="parallelism", choices=ENGINES,
        default_text="compiled where numba is installed on all ranks, otherwise numpy",
    )  # fmt: skip
    blas: str | None = option(
        None, "library with the CBLAS interface whose matrix products the compiled engine uses, "
        "such as libmkl_rt.so.3; part of what determines the result's bits",
        group="parallelism", metavar="FILE", default_text="that of NumPy",
    )  # fmt: skip
    dtype: str = option(
        "float32", "type of parameters, activations and gradients", group="network",
        choices=DTYPES,
    )  # fmt: skip
    shuffle: str = option(
        AUTO, "how the training rows are shuffled in an epoch: full, all of them at random; or "
        "blocks, for data larger than memory: blocks of rows at random, read while the training "
        "runs, and rows within some hundred blocks; part of what determines the result's bits",
        group="data", choices=(AUTO, *_SHUFFLES),
        default_text="by the data: blocks from 4 GiB on, otherwise full",
    )  # fmt: skip
    seed: int = option(
        0, "seed of initial weights, shuffling and dropout", int, group="optimization",
        least=0, below=2**63,
    )  # fmt: skip
    checkpoint_every: str = option(
        AUTO, "checkpoint interval, such as 1epoch, 500steps or 60s; auto: after each epoch, but "
        "at most one a second; the last and the best are always saved",
        group="run and checkpoints", metavar="INTERVAL", may_change_on_resume=True,
    )  # fmt: skip
    keep: int = option(
        3, "checkpoints to keep, besides best.h5 and last.h5", int, group="run and checkpoints",
        least=1, may_change_on_resume=True,
    )  # fmt: skip
    time_limit: str | None = option(
        None, "stop with a checkpoint after this time, such as 90s, 30min or 2h",
        group="run and checkpoints", metavar="DURATION", may_change_on_resume=True,
    )  # fmt: skip
    stall_limit: str = option(
        "10min", "kill a rank that makes no progress for this time",
        group="robustness", metavar="DURATION", may_change_on_resume=True,
    )  # fmt: skip
    check_every: int = option(
        1000, "steps between checks for silent data corruption; 0 for none", int,
        group="robustness", least=0, may_change_on_resume=True,
    )  # fmt: skip
    on_nan: str = option(
        "stop", "if a cost or gradient is not finite: stop, skip the step, or roll back to the "
        "last checkpoint and halve the learning rate",
        group="robustness", choices=("stop", "skip", "rollback"), may_change_on_resume=True,
    )  # fmt: skip
    profile: str | None = option(
        None, "trace of what each rank does when, .json or .json.gz, for ui.perfetto.dev",
        group="run and checkpoints", metavar="FILE", may_change_on_resume=True,
    )  # fmt: skip
    init_from: str | None = option(
        None, "checkpoint or run to take the initial weights from", group="network",
        metavar="FILE",
    )  # fmt: skip
    quiet: bool = option(
        False, "print only warnings and errors", group="run and checkpoints",
        may_change_on_resume=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        hidden: Any = self.hidden  # the size of a single layer may be given as a number
        hidden = (hidden,) if isinstance(hidden, str) or not hasattr(hidden, "__iter__") else hidden
        object.__setattr__(self, "hidden", tuple(map(python_number, hidden)))
        for name in ("metrics", "callbacks"):
            names: Any = getattr(self, name)
            names = (names,) if isinstance(names, type) else names
            names = parse_names(names) if isinstance(names, str) else map(own_parts.name_of, names)
            object.__setattr__(self, name, tuple(names))
        for name in ("activation", "cost", "optimizer", "schedule"):
            object.__setattr__(self, name, own_parts.name_of(getattr(self, name)))
        if isinstance(self.monitor, type):
            object.__setattr__(self, "monitor", f"validation_{own_parts.name_of(self.monitor)}")
        for name in ("data", "out", "init_from", "profile"):  # Path objects are accepted as well
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else os.fspath(value))
        for one in fields(self):
            value = python_number(getattr(self, one.name))
            object.__setattr__(self, one.name, value)
            if value is None and one.default is not None:
                raise ConfigError(f"{flag(one.name)} None: expected a value.")
            check_option(flag(one.name), value, one.metadata)
        if any(type(n) is not int or n < 1 for n in self.hidden):
            raise ConfigError(f"--hidden {self.hidden!r}: expected whole numbers of at least 1.")
        if any(type(name) is not str for name in self.metrics):
            raise ConfigError(f"--metrics {self.metrics!r}: expected names such as f1,roc-auc.")
        if not all(type(name) is str and own_parts.is_own(name) for name in self.callbacks):
            raise ConfigError(
                f"--callbacks {self.callbacks!r}: expected names such as my_parts:Log."
            )
        if not re.fullmatch(r"\w+", self.kernels, re.ASCII):
            raise ConfigError(
                f"--kernels {self.kernels!r}: expected native, portable or a name such as SkylakeX."
            )
        check_shards(self.shards, self.batch_size)
        check_fold(self.fold, self.validation)
        self.interval()
        for name in ("time_limit", "stall_limit"):
            self.seconds(name)

    @classmethod
    def read(cls, options: Mapping[str, Any], source: str) -> "Config":
        """Return the configuration stored in a checkpoint of `source`.

        Raises
        ------
        ConfigError
            The options are not those of a configuration.
        """
        try:
            # Runs of older versions, which had no other shuffle or engine, and no monitor.
            before = {"shuffle": "full", "monitor": FIRST_MONITOR, "engine": "numpy"}
            return cls(**before | dict(options))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{source} holds no configuration of a run: {error}.") from error

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
        return float(match[1]) * _SECONDS_PER_UNIT[match[2]]

    def interval(self) -> tuple[int, str]:
        """Return `checkpoint_every` as a number and its unit: 'epoch', 'step' or 's'."""
        text = "1epoch" if self.checkpoint_every == AUTO else self.checkpoint_every
        match = re.fullmatch(r"([1-9]\d{0,8}) ?(epoch|step|s)s?", text)
        if match is None:
            raise ConfigError(
                f"--checkpoint-every {self.checkpoint_every!r}: expected a number and a unit, "
                f"such as 1epoch, 500steps or 60s, or auto."
            )
        return int(match[1]), match[2]

    def resumed(self, changes: Mapping[str, Any]) -> "Config":
        """Return the configuration with `changes`, for a run that is resumed.

        Raises
        ------
        ConfigError
            A change would make it another run, with another result.
        """
        for one in fields(self):
            before = getattr(self, one.name)
            if one.name not in changes or changes[one.name] == before:
                continue
            after = changes[one.name]
            is_exact = one.name == "combine" and {before, after} <= set(EXACT_REDUCTIONS)
            # A cosine ends at the last epoch, so the number of epochs changes every step.
            is_fixed = one.name == "epochs" and self.schedule == "cosine"
            if is_fixed or not (one.metadata["may_change_on_resume"] or is_exact):
                raise ConfigError(
                    f"{flag(one.name)} {after!r} cannot be changed on resume: the run was started "
                    f"with {before!r}. Leave it out, or start a new run with --init-from."
                )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, with values that JSON can represent."""
        return asdict(self) | {
            name: list(getattr(self, name)) for name in ("hidden", "metrics", "callbacks")
        }

    def to_toml(self) -> str:
        """Return the options that are not None, without `quiet`, as the text of a TOML file."""
        return "".join(
            f"{name.replace('_', '-')} = {toml_value(value)}\n"
            for name, value in self.to_dict().items()
            if value is not None and name != "quiet"
        )
