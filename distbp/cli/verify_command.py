"""The verb `verify`: the same bits on any number of ranks, on this machine and with this data."""

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distbp.cli.parser import Parser, Verb, add_options, drop_options, given_options
from distbp.errors import ConfigError, DistbpError
from distbp.options import check_option, flag, option, parse_sizes

if TYPE_CHECKING:
    from distbp.launch.verification import FirstDifference, Trace
    from distbp.training.gradient_check import GradientCheck
    from distbp.training.step_trace import FewSteps

logger = logging.getLogger(__name__)

_DEFAULT_RANKS = 3
_SIGNAL_STATUS = 128  # and the number of the signal, as of a shell
# These are about a run's directory, and there is none; the epochs follow from the steps.
_SKIPPED = (
    "data", "out", "epochs", "checkpoint_every", "keep", "time_limit", "profile", "tensorboard",
    "quiet",
)  # fmt: skip
_NOTES = """\
Trains a few steps on the first rows of the data at each number of ranks, as
train --ranks N does, in a folder for temporary files that is removed. All
weights, biases and states of the optimizer are compared after each step. Before
that, the gradient of the network and its cost is compared with finite
differences in float64, on a few rows.
Exit status: 0 all is equal and the gradient is right, 1 it is not."""


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify` that are not those of a training."""

    ranks: tuple[int, ...] | None = option(
        None, "numbers of ranks to compare, such as 1,2,4", parse_sizes, group="verification",
        is_common=True, metavar="LIST", default_text="1,2,3, as far as there are cores",
    )  # fmt: skip
    steps: int | None = option(
        None, "steps to train, at least", int, group="verification", is_common=True, least=1,
        below=100_000, default_text="20",
    )  # fmt: skip
    config: str | None = option(
        None, "TOML file with options, such as a run's config.toml; options given here take "
        "precedence",
        group="verification", is_common=True, metavar="FILE",
    )  # fmt: skip


def _declare(parser: Parser) -> None:
    from distbp.training.config import GROUPS, Config

    group = parser.group("verification")
    group.add_argument("data", metavar="DATA.h5", help="data set, written by distbp import")
    group.add_argument("--json", action="store_true", help="print one JSON object (default: off)")
    # What the ranks that are started here get.
    group.add_argument("--trace-to", metavar="FILE", help=argparse.SUPPRESS)
    for title in GROUPS:
        parser.group(title)
    add_options(parser, VerifyOptions, Config, skip=_SKIPPED)
    parser.epilog = f"{parser.epilog}\n\n{_NOTES}"


def _run_verify(arguments: argparse.Namespace) -> int:
    options = VerifyOptions(**given_options(arguments, VerifyOptions))
    for one in fields(options):
        check_option(flag(one.name), getattr(options, one.name), one.metadata)
    config, steps = _config(arguments, options), options.steps or 20
    if arguments.trace_to is not None:
        return _write_trace(config, steps, Path(arguments.trace_to))
    from distbp.launch.mpiexec import StopSignals

    ranks = _numbers_of_ranks(options.ranks)
    with StopSignals() as signals, tempfile.TemporaryDirectory(prefix="distbp_") as folder:
        plan, gradient = _check_gradient(config, steps)
        words = _words_for_ranks(arguments.argv)
        traces = []
        for i, n in enumerate(ranks):
            from distbp.launch.verification import run_trace

            trace = None if signals else run_trace(n, words, Path(folder, f"{i}.json"), signals)
            if trace is None:
                return _SIGNAL_STATUS + signals.received[0]
            traces.append(trace)
        return _report(arguments, plan, gradient, traces)


def _config(arguments: argparse.Namespace, options: VerifyOptions) -> Any:
    """Return the configuration that is verified."""
    from distbp.training.config import Config
    from distbp.training.config_file import check_useful, read_toml
    from distbp.training.part_checks import load_parts

    given = given_options(arguments, Config)
    load_parts(given)
    from_file = read_toml(Path(options.config)) if options.config else {}
    check_useful(given, from_file)
    return Config(**from_file | given)


def _numbers_of_ranks(given: tuple[int, ...] | None) -> list[int]:
    """Return the numbers of ranks to compare.

    Raises
    ------
    ConfigError
        They are not allowed, or this process is one of several ranks.
    """
    from distbp.parallel import host, mpi
    from distbp.parallel.environment import LaunchEnvironment

    if LaunchEnvironment.from_environ().ranks_started > 1:
        raise ConfigError(
            "distbp verify starts the ranks itself. Start it without a launcher, with --ranks."
        )
    if given is not None:
        if not given or min(given) < 1:
            raise ConfigError(
                f"--ranks {','.join(map(str, given))}: expected numbers of at least 1, such as "
                "1,2,4."
            )
        return list(given)
    if not mpi.library_version():
        logger.warning(
            "There is no MPI library: one rank is compared with itself. To compare numbers of "
            "ranks, install one: pip install mpich."
        )
        return [1, 1]
    return list(range(1, max(2, min(host.usable_cores(), _DEFAULT_RANKS)) + 1))


def _words_for_ranks(argv: Sequence[str]) -> list[str]:
    """Return the arguments of the ranks, which differ in their number alone."""
    return [word for word in drop_options(argv, "--ranks") if word != "--json"]


def _check_gradient(config: Any, steps: int) -> "tuple[FewSteps, GradientCheck]":
    """Return what is trained, and the check of its gradient."""
    from distbp.parallel import host
    from distbp.parallel.topology import Topology
    from distbp.training.gradient_check import check_gradient
    from distbp.training.part_checks import check_parts
    from distbp.training.row_weights import scaled_weights
    from distbp.training.setup import make_network
    from distbp.training.step_trace import plan_few_steps

    host.set_blas_threads(config.threads)
    comm = Topology()
    plan = plan_few_steps(config, steps, comm)
    network = make_network(plan.config, plan.data, has_weights=False)
    check_parts(plan.config, network.output, plan.data.task)
    weights = scaled_weights(comm, plan.data, plan.rows, plan.config.class_weight)
    return plan, check_gradient(network, plan.config, plan.data, plan.rows, weights)


def _write_trace(config: Any, steps: int, path: Path) -> int:
    """Train the steps as one of the ranks."""
    from distbp.launch.verification import write_trace
    from distbp.parallel import host
    from distbp.parallel.environment import LaunchEnvironment
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect
    from distbp.training.step_trace import trace_steps

    comm = connect()
    if comm.rank == 0:
        LaunchEnvironment.from_environ().write_started_file()
    with host.preserve_blas_threads(), abort_on_error(comm):
        content, theta = trace_steps(config, steps, comm)
        if comm.rank == 0:
            write_trace(path, content, theta)
    return 0


def _report(
    arguments: argparse.Namespace,
    plan: "FewSteps",
    gradient: "GradientCheck",
    traces: "Sequence[Trace]",
) -> int:
    """Print the result, and return the exit status."""
    from distbp.launch.verification import compare_traces

    differences = [compare_traces(traces[0], one) for one in traces]
    is_good = gradient.is_right and not any(differences)
    if arguments.json:
        print(json.dumps(_as_json(plan, gradient, traces, differences)))
    else:
        print("\n".join(result_lines(plan, gradient, traces, differences)))
    return 0 if is_good else DistbpError.status


def result_lines(
    plan: "FewSteps",
    gradient: "GradientCheck",
    traces: "Sequence[Trace]",
    differences: "Sequence[FirstDifference | None]",
) -> list[str]:
    """Return what `distbp verify` prints for people."""
    config, first = plan.config, traces[0]
    used, count = first.content["config"], len(first.content["steps"]) - 1
    sizes = "-".join(map(str, (plan.data.n_in, *config.hidden, plan.data.n_out)))
    lines = [
        f"data     {plan.data.name}: the first {len(plan.rows):,} rows to train on",
        f"network  {sizes}, {config.activation}, {config.cost}, {config.dtype}",
        f"steps    {count:,} of {config.batch_size:,} rows in {used['shards']} shards, in "
        f"{len(first.content['records'])} epochs; engine {used['engine']}, kernels "
        f"{used['kernels']}",
        f"gradient {_describe_gradient(gradient)}",
        "",
        "ranks  digest            median step",
    ]
    for trace, difference in zip(traces, differences, strict=True):
        lines.append(f"{trace.ranks:5}  {trace.digest[:16]}  {_describe(trace, difference)}")
    lines += ["", _conclusion(traces, differences, used["combine"])]
    messages = dict.fromkeys(text for one in traces for text in one.messages)
    return lines + [f"note     {text}" for text in messages]


def _describe_gradient(gradient: "GradientCheck") -> str:
    from distbp.training.gradient_check import TOLERANCE

    worst = gradient.worst
    text = f"{worst.error:.1e} (relative, in float64, on {gradient.rows} rows"
    if gradient.is_right:
        return f"right: differs from finite differences by at most {text}; {TOLERANCE:g} allowed)"
    return (
        f"WRONG: the {worst.array} of layer {worst.layer} differ from finite differences by "
        f"{text}; {TOLERANCE:g} allowed)"
    )


def _describe(trace: "Trace", difference: "FirstDifference | None") -> str:
    seconds = trace.content["seconds"]
    text = f"{'–' if seconds is None else f'{seconds * 1e6:,.0f} µs':>13}"
    if difference is None:
        return text
    when = f"after step {difference.update}" if difference.update else "before the first step"
    text += f"  differs {when} (epoch {difference.epoch}) in {difference.what}"
    end = difference.difference
    if end is not None:
        text += f"; in the end by at most {end.absolute:.2g} ({end.ulp:,} ulp)"
    return text


def _conclusion(
    traces: "Sequence[Trace]", differences: "Sequence[FirstDifference | None]", combine: str
) -> str:
    from distbp.training.config import EXACT_REDUCTIONS

    if not any(differences):
        numbers = [str(one.ranks) for one in traces]
        listed = " and ".join([", ".join(numbers[:-1])] * (len(numbers) > 1) + numbers[-1:])
        return f"Equal bit for bit after each step, on {listed} ranks."
    if combine not in EXACT_REDUCTIONS:
        return f"Not equal: --combine {combine} depends on the number of ranks. Use node or tree."
    return (
        "Not equal. If distbp doctor finds nothing, repeat this with --combine tree and on another "
        "machine: a memory fault shows on one machine only."
    )


def _as_json(
    plan: "FewSteps",
    gradient: "GradientCheck",
    traces: "Sequence[Trace]",
    differences: "Sequence[FirstDifference | None]",
) -> dict[str, Any]:
    from distbp.training.metric_names import as_json

    return {
        "data": plan.data.name,
        "rows": len(plan.rows),
        "steps": len(traces[0].content["steps"]) - 1,
        "epochs": len(traces[0].content["records"]),
        "config": traces[0].content["config"],
        "gradient": {
            "is_right": gradient.is_right,
            "rows": gradient.rows,
            "errors": [asdict(one) | {"error": as_json(one.error)} for one in gradient.errors],
        },
        "runs": [
            {
                "ranks": trace.ranks,
                "digest": trace.digest,
                "seconds_per_step": trace.content["seconds"],
                "is_equal": difference is None,
                "first_difference": None if difference is None else difference.to_dict(),
            }
            for trace, difference in zip(traces, differences, strict=True)
        ],
        "is_equal": not any(differences),
        "messages": list(dict.fromkeys(text for one in traces for text in one.messages)),
    }


VERIFY = Verb(
    "verify",
    "Check on your data that any number of ranks gives the same bits.",
    "DATA.h5 [OPTIONS]",
    "distbp verify digits.h5 --ranks 1,2,3 --hidden 100,50 --dropout 0.2",
    _declare,
    _run_verify,
)
