"""The parts of a run, made from its configuration, its data and perhaps a checkpoint.

`assemble` makes them all, as `RunParts`, in one collective call. The parts know nothing of each
other but what they are given here; the loop moves them, and whatever changes from step to step is
in θ, the optimizer's state and the `Progress`. `restore` brings θ and state to a checkpoint.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distbp import kernels
from distbp.data.dataset import DataSet, Split
from distbp.data.shuffle import FullShuffle
from distbp.data.streaming import BlockShuffle
from distbp.errors import ConfigError
from distbp.network.network import Network
from distbp.network.optimizers import find_optimizer
from distbp.network.parameter_store import AVERAGE
from distbp.network.update import Update
from distbp.parallel import host
from distbp.parallel.environment import LaunchEnvironment
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.reduction import GradientReduction
from distbp.parallel.reduction_factory import make_reduction
from distbp.parallel.topology import Topology
from distbp.parallel.watchdog import Watchdog
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.run_directory import load_checkpoint
from distbp.training.callbacks import Call, agree_on_callbacks, make_callbacks
from distbp.training.checkpoint_schedule import CheckpointSchedule
from distbp.training.checkpoint_writer import CheckpointBuilder
from distbp.training.compiled_engine import CompiledEngine, choose_engine
from distbp.training.config import AUTO, Config
from distbp.training.defaults import resolve
from distbp.training.engine import Engine, NumpyEngine
from distbp.training.evaluation import Evaluator
from distbp.training.gradient import BatchGradient
from distbp.training.holdout import split_validation
from distbp.training.inputs import open_data
from distbp.training.messages import RankInfo, about_targets, introduction, warnings
from distbp.training.monitor import EpochMetrics, plan_metrics, with_monitor
from distbp.training.part_checks import check_parts, check_sources
from distbp.training.recorder import MemoryRecorder, NullRecorder, RunRecorder
from distbp.training.row_weights import scaled_weights
from distbp.training.run_checks import (
    check_identical_on_all_ranks,
    check_same_data,
    check_same_run,
)
from distbp.training.sdc_check import SdcCheck
from distbp.training.state import Progress, read_progress
from distbp.training.step_binding import StepParts
from distbp.training.stop_request import StopRequest

# Whether chunks of the data set stay in the file; None: if they are large, for the shuffle is then
# in blocks.
IS_STREAMED = {"full": False, "blocks": True, "auto": None}


@dataclass(frozen=True)
class RunParts:
    """What a run consists of.

    Attributes
    ----------
    comm : Topology
    config : Config
        With nothing left open.
    data : DataSet
    network, update, reduction, gradient, engine
        θ, and what a step does to it.
    sdc_check : SdcCheck
    rows : Split
        To train on: the training set without the rows held out for validation.
    order : FullShuffle or BlockShuffle
        The rows of each batch.
    steps_per_epoch : int
    evaluators : dict of Evaluator
        By the name of the split: validation and test, as far as there are such splits.
    metrics : EpochMetrics
    watchdog : Watchdog
    stop_request : StopRequest
    schedule : CheckpointSchedule
    builder : CheckpointBuilder
    recorder : NullRecorder
        A RunRecorder on rank 0.
    callbacks : list of Call
    start : Progress
        Where the run starts.
    """

    comm: Topology
    config: Config
    data: DataSet
    network: Network
    update: Update
    reduction: GradientReduction
    gradient: BatchGradient
    engine: Engine
    sdc_check: SdcCheck
    rows: Split
    order: FullShuffle | BlockShuffle
    steps_per_epoch: int
    evaluators: dict[str, Evaluator]
    metrics: EpochMetrics
    watchdog: Watchdog
    stop_request: StopRequest
    schedule: CheckpointSchedule
    builder: CheckpointBuilder
    recorder: NullRecorder
    callbacks: list[Call]
    start: Progress


def assemble(
    config: Config,
    comm: Topology,
    checkpoint: Checkpoint | None = None,
    predecessor: RunParts | None = None,
    data: DataSet | None = None,
    callbacks: Sequence[Call] = (),
) -> RunParts:
    """Make the parts of a run; collective.

    Parameters
    ----------
    config : Config
    comm : Topology
    checkpoint : Checkpoint, optional
        Where to resume.
    predecessor : RunParts, optional
        Those of the same run before a rank failure; the checkpoint is then its state in memory.
    data : DataSet, optional
        By default that of `config.data`.
    callbacks : sequence of Call
        Besides those that the configuration names.

    Raises
    ------
    DistbpError
        On all ranks, if one of them cannot make its parts.
    """
    watchdog = Watchdog(comm, config.seconds("stall_limit") or math.inf)
    with watchdog:  # a rank may hang while it reads its data, too
        return _assemble(config, comm, watchdog, checkpoint, predecessor, data, callbacks)


def _assemble(
    config: Config,
    comm: Topology,
    watchdog: Watchdog,
    checkpoint: Checkpoint | None,
    predecessor: RunParts | None,
    data: DataSet | None,
    callbacks: Sequence[Call],
) -> RunParts:
    # What can fail on one rank alone fails inside `collective_errors`, before the next message:
    # a rank that raises by itself would leave the others waiting for it.
    with collective_errors(comm):
        _set_up_blas(config, checkpoint)
    if data is None:
        data = open_data(Path(config.data), comm, IS_STREAMED[config.shuffle])
    config = _with_engine(config, comm, data, checkpoint)
    with collective_errors(comm):
        config = with_monitor(resolve(config, data), data, checkpoint)
        if checkpoint is not None:
            check_same_run(config, data, checkpoint)
        metrics = plan_metrics(config, data)
        network = make_network(config, data, checkpoint is not None)
        sources = check_parts(config, network.output, data.task)
        if checkpoint is not None:
            check_sources(sources, checkpoint)
        calls = make_callbacks([*config.callbacks, *callbacks])
    check_identical_on_all_ranks(comm, config, data)
    config = _with_kernels(config, comm)
    rows, validation = split_validation(config, data, comm)
    order = _make_order(config, comm, data, rows)
    update = _make_update(config, network, len(rows))
    reduction, caution = make_reduction(config.combine, comm, config.shards or 1, update)
    weights = scaled_weights(comm, data, rows, config.class_weight)
    gradient = _make_gradient(config, network, reduction, data, order.split, weights)
    engine = _make_engine(StepParts(config, data, gradient, update), comm)
    sdc_check = SdcCheck(comm, update, engine)
    evaluators = _make_evaluators(comm, update.store.averaged, data, validation)
    start = Progress.at_start(metrics.monitor)
    with collective_errors(comm):
        if checkpoint is not None:
            start = restore(checkpoint, config, data, network, update)
    # Ranks' clocks differ; one of them decides when a checkpoint is due by time.
    schedule = CheckpointSchedule(
        *config.interval(), comm.rank == 0, is_limited=config.checkpoint_every == AUTO
    )
    builder = CheckpointBuilder(config, data, network, update, sources)
    with collective_errors(comm):
        recorder = _make_recorder(comm, config, network, builder, schedule, rows, data)
        recorder.open(start, is_new=checkpoint is None, is_on_disk=predecessor is None)
    parts = RunParts(
        comm, config, data, network, update, reduction, gradient, engine, sdc_check, rows, order,
        math.ceil(len(rows) / config.batch_size), evaluators, metrics, watchdog,
        predecessor.stop_request if predecessor else _make_stop_request(config),
        schedule, builder, recorder,
        agree_on_callbacks(comm, predecessor.callbacks if predecessor else calls), start,
    )  # fmt: skip
    if predecessor is None:  # survivors have introduced themselves already
        _introduce(parts, checkpoint, caution)
    return parts


def _set_up_blas(config: Config, checkpoint: Checkpoint | None) -> None:
    """Set the threads of BLAS, and check that it has the kernels that the user asks for."""
    host.set_blas_threads(config.threads)
    # Those of a run that is resumed may not be available here, which is only worth a warning.
    if checkpoint is None or config.kernels != checkpoint.about["config"].get("kernels"):
        host.check_kernels(config.kernels)


def _with_engine(
    config: Config, comm: Topology, data: DataSet, checkpoint: Checkpoint | None
) -> Config:
    """Return the configuration with an engine, that of a run that is resumed; collective."""
    if checkpoint is not None and config.engine == "auto":
        stored = Config.read(checkpoint.about["config"], config.out)
        config = replace(config, engine=stored.engine, blas=config.blas or stored.blas)
    return replace(config, engine=choose_engine(config, comm, data))


def _with_kernels(config: Config, comm: Topology) -> Config:
    """Return the configuration with the name of the kernels that rank 0 uses; collective."""
    if config.kernels == kernels.PORTABLE:
        return config
    used = comm.world.broadcast(host.kernels_in_use())
    return replace(config, kernels=used or kernels.NATIVE)


def _make_gradient(
    config: Config,
    network: Network,
    reduction: GradientReduction,
    data: DataSet,
    split: Split,
    weights: np.ndarray | None,
) -> BatchGradient:
    return BatchGradient(
        network, reduction, data, split, config.batch_size, config.shards or 1,
        config.dropout, config.label_smoothing, weights,
    )  # fmt: skip


def _make_engine(parts: StepParts, comm: Topology) -> Engine:
    if parts.config.engine == "compiled":
        return CompiledEngine(parts, comm)
    return NumpyEngine(parts.gradient)


def _make_stop_request(config: Config) -> StopRequest:
    # Without a directory nothing could be saved: a signal does what the program wants it to do.
    return StopRequest(config.seconds("time_limit"), catches_signals=bool(config.out))


def _make_recorder(
    comm: Topology,
    config: Config,
    network: Network,
    builder: CheckpointBuilder,
    schedule: CheckpointSchedule,
    rows: Split,
    data: DataSet,
) -> NullRecorder:
    """Return what records a run on this rank: in its directory, or in memory without one."""
    if not config.out:
        return MemoryRecorder(
            config, network, builder, schedule, comm.rank == 0, data.labels_per_row > 0
        )
    if comm.rank == 0:
        return RunRecorder(config, network, builder, schedule, len(rows), data.labels_per_row)
    return NullRecorder()


def _make_order(
    config: Config, comm: Topology, data: DataSet, rows: Split
) -> FullShuffle | BlockShuffle:
    if config.shuffle == "blocks" and data.is_in_memory:
        return FullShuffle(comm, rows, config.batch_size, config.seed, in_blocks=True)
    if config.shuffle == "blocks":
        return BlockShuffle(comm, data.path, rows, config.batch_size, config.seed, config.epochs)
    return FullShuffle(comm, rows, config.batch_size, config.seed)


def _make_evaluators(
    comm: Topology, network: Network, data: DataSet, validation: Split | None
) -> dict[str, Evaluator]:
    has_several_units = data.target is not None and data.target.has_several_units
    splits = {"validation": validation, "test": data.splits.get("test")}
    return {
        name: Evaluator(
            comm,
            network,
            split,
            data.scaling,
            data.task,
            data.target,
            data.preprocessing,
            has_standardized_cost=name == "validation" and has_several_units,
        )
        for name, split in splits.items()
        if split is not None
    }


def _introduce(parts: RunParts, checkpoint: Checkpoint | None, caution: str | None) -> None:
    """Log what is trained, on what, and what may not be as the user expects; collective."""
    comm, config, recorder = parts.comm, parts.config, parts.recorder
    native = kernels.native_kernels(kernels.Cpu.detect(os.environ))
    own = [comm.node_index, host.cpu_share(), host.numeric_platform(), native]
    ranks = [
        RankInfo(node, host.CpuShare(*cpu), bits, name)
        for node, cpu, bits, name in comm.world.allgather(own)
    ]
    if comm.rank == 0:
        epoch, step, _ = parts.start.position
        nodes = len({rank.node for rank in ranks})
        recorder.record("start", epoch=epoch, step=step, ranks=comm.size, nodes=nodes)
        for text in [*warnings(config, ranks, checkpoint), *([caution] if caution else [])]:
            recorder.warn(text)
        ulfm_enabled = LaunchEnvironment.from_environ().ulfm_enabled
        for text in introduction(
            config, parts.network, ranks, len(parts.rows), parts.start, ulfm_enabled
        ) + about_targets(parts.data, "validation" in parts.evaluators):
            recorder.info(text)


def make_network(config: Config, data: DataSet, has_weights: bool) -> Network:
    """Return the network to start from; a checkpoint, if there is one, will set its weights.

    Raises
    ------
    ConfigError
        `init_from` names a model of another shape, or of other columns.
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
    if data.target is not None:
        network.use_target_units(data.target.units)
    if config.init_from and not has_weights:
        np.copyto(network.theta, _first_weights(config.init_from, data, network))
    return network


def _first_weights(model: str, data: DataSet, network: Network) -> np.ndarray:
    """Return the parameters of another model, to start from.

    Raises
    ------
    ConfigError
        It is of another shape, or its inputs are other columns.
    """
    first = load_checkpoint(model, stacklevel=2)
    if first.network.sizes != network.sizes:
        raise ConfigError(
            f"{model} was written for sizes {first.network.sizes}; "
            f"this run asks for {network.sizes}."
        )
    trained, found = first.preprocessing, data.preprocessing
    if trained and found and trained.input_names != found.input_names:
        raise ConfigError(
            f"{model} was trained on other columns or categories than those of {data.name}, or in "
            "another order. Import the table with the options of that training data."
        )
    return first.network.theta


def _make_update(config: Config, network: Network, rows: int) -> Update:
    """Return the optimizer with its penalties; `rows` is the book's n, by which λ is divided."""
    return Update(
        network,
        find_optimizer(config.optimizer)(config.momentum),
        l1=config.l1 / rows,
        l2=config.l2 / rows,
        clip_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        ema=config.ema,
    )


def restart(config: Config, data: DataSet, network: Network, update: Update) -> Progress:
    """Bring network and update to the state at the beginning of a run; return its progress.

    Raises
    ------
    ConfigError, CheckpointError
        `init_from` is not what it was, or is not there any more.
    """
    np.copyto(network.theta, make_network(config, data, has_weights=False).theta)
    for name, array in update.store.state.items():
        np.copyto(array, network.theta if name == AVERAGE else 0.0)
    update.store.steps = 0
    return Progress.at_start(plan_metrics(config, data).monitor)


def restore(
    checkpoint: Checkpoint, config: Config, data: DataSet, network: Network, update: Update
) -> Progress:
    """Bring network and update to the state of a checkpoint; return its progress.

    Raises
    ------
    ConfigError
        The run was trained on other data.
    CheckpointError
        The checkpoint holds no valid progress.
    """
    about = checkpoint.about
    check_same_data(config, data, checkpoint)
    np.copyto(network.theta, checkpoint.theta)
    state = checkpoint.state | {AVERAGE: checkpoint.network.theta}
    for name, array in update.store.state.items():
        np.copyto(array, state[name])
    monitor = plan_metrics(config, data).monitor
    progress = read_progress(about["progress"], checkpoint.history, config.out, monitor)
    update.store.steps = progress.position.updates
    return progress
