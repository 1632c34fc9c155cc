"""Write batch scripts for SLURM that train, and requeue themselves until training has finished.

`make_batch_script` fills one template with the options of a job (`BatchOptions`) and the
configuration of a training. scripts/train.sbatch and scripts/sweep.sbatch are examples of its
output. A script is self-contained on a cluster: of distbp it only relies on `train`, on
`--resume`, on exit status 75 for a run that stopped with a checkpoint, and on the completion
file. How the ranks train, and how SLURM is configured, is not known here.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from string import Template
from typing import NamedTuple

from distbp.errors import ConfigError
from distbp.options import as_arguments, check_option, flag, option
from distbp.parallel import mpi
from distbp.training.config import Config
from distbp.training.config_file import check_paths_given

_LAUNCHERS = ("srun", "mpirun")
_SRUN_MPI_TYPES = ("pmi2", "pmix")
_TIME_PATTERN = r"(\d+-)?\d+(:\d\d){0,2}"
_NAME_PATTERN = r"[\w.,+-]+"

# What `distbp slurm --help` ends with.
BATCH_JOB_NOTES = """\
The script is self-contained; what depends on the cluster (partition, account,
modules, Python, launcher) is in one block at its top.

Before its time limit the job saves a checkpoint, requeues itself and resumes
when it is started again. It does the same after a preemption, after scontrol
requeue, and after the loss of a rank or a node. A start without a new
checkpoint is retried up to 3 times in a row, or 10 times after a signal (time
limit, preemption), and an error in options or data never. The model is
bit-for-bit that of an uninterrupted run.

scancel ends the job for good; scancel --batch --signal=USR1 makes it save a
checkpoint and requeue itself.

--seeds N and --sweep FILE write a job array: task I trains in RUN/I, with
seed I or with the options in line I of FILE, counted from 0. With a sweep in
place of train, task I is the I-th run of the sweep, counted from 1, which
distbp sweep --table FOLDER compares."""


class _ShellTemplate(Template):
    """A template whose placeholders begin with @@, which has no meaning in a shell script."""

    delimiter = "@@"


_BATCH_SCRIPT = _ShellTemplate(r"""#!/usr/bin/env bash
# @@title
#
# Before its time limit the job saves a checkpoint and requeues itself, and when it is started
# again it resumes from there. It does the same after a preemption and after the loss of a
# rank or a node. The model is bit-for-bit that of an uninterrupted run. scancel ends the job
# for good; scancel --batch --signal=USR1 makes it save a checkpoint and requeue itself.
#
#SBATCH --job-name=distbp
#SBATCH --nodes=@@nodes
#SBATCH --ntasks-per-node=@@ranks
#SBATCH --cpus-per-task=@@threads
#SBATCH --time=@@time
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=@@output@@array

# ======== Settings of your cluster ======================================================
@@site
# module load …
python=@@python # a Python that has distbp
# srun: --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI. Without srun: launcher=(mpirun)
launcher=(@@launcher)
# ======== Training ======================================================================
data=@@data
run=@@run
options=(@@options)
@@cases# ========================================================================================

set -u
job_id=@@job_id
mkdir -p -- "$run"
export OPENBLAS_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not inherit it from the job
export DISTBP_DONE=$run/.done                       # completion file, written by the ranks
rm -f -- "$DISTBP_DONE"
failures_file=$run/.failures # how many starts in a row have made no progress

# Identify the newest checkpoint: if it changes, this start of the job has made progress.
checkpoint() { stat -c '%i %y' -- "$run/last.h5" 2>/dev/null; }

checkpoint_before=$(checkpoint)
run_option=--out
if [[ $checkpoint_before ]]; then run_option=--resume; fi

# MPICH names the shared memory of a node after the ids of job and step, and would mistake what
# killed ranks have left behind for its own. After a requeue both ids would repeat: run an empty
# step for each earlier start, so that no two starts train in a step with the same id.
if [[ ${launcher[0]} == srun ]]; then
    for ((i = 0; i < ${SLURM_RESTART_COUNT:-0}; i++)); do srun --nodes=1 --ntasks=1 true; done
fi

# SLURM signals this shell before the time limit. The launcher forwards SIGUSR1 to the ranks,
# which save a checkpoint and end with status 75.
signals=0
trap 'signals=$((signals + 1)); kill -USR1 "$launcher_pid" 2>/dev/null' USR1 TERM
"${launcher[@]}" "$python" -m distbp train "$data" "$run_option" "$run" "${options[@]}" &
launcher_pid=$!
until
    signals_before=$signals
    wait "$launcher_pid"
    status=$?
    ((signals == signals_before)) # otherwise a signal interrupted `wait`: wait again
do :; done

# Success is what the completion file says: a launcher may end with 0 after ranks were lost.
outcome=
if [[ -s $DISTBP_DONE ]]; then read -r outcome _ <"$DISTBP_DONE"; fi
if [[ $outcome == "done" ]]; then
    rm -f -- "$failures_file"
    exit 0
fi
if ((!status)); then status=1; fi

# Do not requeue a job that was cancelled, that SLURM has requeued already, or that runs
# on other nodes by now because this one was disconnected.
read -r state restarts <<<"$(squeue -h -j "$job_id" -O State:20,RestartCnt:10)"
if [[ "$state $restarts" != "RUNNING ${SLURM_RESTART_COUNT:-0}" ]]; then exit "$status"; fi
# Without progress, status 1 and 2 are errors that a restart cannot fix. Others may be caused by
# a node, and signals by a preemption: try again, but only so many times in a row.
if [[ $(checkpoint) == "$checkpoint_before" ]]; then
    limit=0
    if ((status > 2)); then limit=3; fi
    if ((status == 75 || signals)); then limit=10; fi
    failures=$(cat -- "$failures_file" 2>/dev/null)
    if ((${failures:-0} >= limit)); then exit "$status"; fi
    echo "$((${failures:-0} + 1))" >"$failures_file" || exit "$status"
else
    rm -f -- "$failures_file"
fi
scontrol requeue "$job_id"
exit "$status"
""")

_ARRAY_CASES = _ShellTemplate("""\
case $SLURM_ARRAY_TASK_ID in # options of each task
@@cases
    *) exit 2 ;;
esac
@@folder""")


class ArrayTask(NamedTuple):
    """A task of a job array.

    Attributes
    ----------
    number : int
    options : sequence of str
        Of its training, besides those that all tasks share.
    folder : str, optional
        Of its run, below that of all tasks; by default its number.
    """

    number: int
    options: Sequence[str]
    folder: str = ""


_TITLES = {
    False: "SLURM batch job that trains with distbp on one or more nodes.",
    True: "SLURM job array that trains with distbp, each task with options of its own.",
}


@dataclass(frozen=True)
class BatchOptions:
    """What to request from SLURM; each field is an option of `distbp slurm`.

    Raises
    ------
    ConfigError
        A value is not allowed, or two contradict each other.
    """

    nodes: int = option(1, "number of nodes", int, group="resources", is_common=True, least=1)
    ranks_a_node: int = option(
        1, "MPI ranks per node", int, group="resources", is_common=True, least=1
    )
    time: str = option(
        "1:00:00", "time limit of each start of the job, in SLURM's format", group="resources",
        is_common=True, metavar="TIME",
    )  # fmt: skip
    launcher: str = option(
        "srun", "program that starts the ranks", group="launcher", choices=_LAUNCHERS
    )
    mpi: str | None = option(
        None, "value of srun's --mpi: pmi2 for MPICH, pmix for Open MPI", group="launcher",
        choices=_SRUN_MPI_TYPES, default_text="by the MPI library in use here",
    )  # fmt: skip
    partition: str | None = option(
        None, "partition to submit to", group="resources", metavar="NAME",
        default_text="that of the cluster",
    )  # fmt: skip
    account: str | None = option(
        None, "account to charge", group="resources", metavar="NAME",
        default_text="that of the user",
    )  # fmt: skip
    seeds: int | None = option(
        None, "job array of N tasks, with the seeds 0 to N − 1", int, group="job array",
        least=1, below=10_000,
    )  # fmt: skip
    sweep: str | None = option(
        None, "job array with a task for each line of a file, which holds its options",
        group="job array", metavar="FILE",
    )  # fmt: skip
    at_once: int | None = option(
        None, "tasks that may run at the same time", int, group="job array", least=1,
        default_text="all",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for one in fields(self):
            check_option(flag(one.name), getattr(self, one.name), one.metadata)
        if not re.fullmatch(_TIME_PATTERN, self.time):
            raise ConfigError(
                f"--time {self.time!r}: expected a time such as 90 (minutes), 2:00:00 or 1-12:00."
            )
        # They are written into #SBATCH lines, which know no quoting.
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(_NAME_PATTERN, value):
                raise ConfigError(
                    f"--{name} {value!r}: expected a name of letters, digits and . , + - _ only."
                )
        if self.seeds and self.sweep:
            raise ConfigError("--seeds and --sweep contradict each other: use one of them.")


def make_batch_script(
    batch: BatchOptions,
    python: str,
    arguments: Sequence[str],
    configure: Callable[[Sequence[str]], Config],
) -> str:
    """Return the batch script for a training.

    Parameters
    ----------
    batch : BatchOptions
    python : str
        The path of a Python with distbp, to run the ranks.
    arguments : sequence of str
        `train` and its arguments.
    configure : function
        Returns the configuration for such arguments; raises ConfigError.

    Raises
    ------
    ConfigError
        The arguments, or the options of a task, are not those of a training that a batch job
        can run: checked now, because it would otherwise fail after waiting in the queue.
    """
    if list(arguments[:1]) != ["train"]:
        raise ConfigError(
            "distbp slurm expects a train command after its own options, for example: "
            "distbp slurm --nodes 2 train DATA.h5 --out RUN."
        )
    config = configure(arguments)
    check_paths_given(config)
    tasks = _array_tasks(batch)
    if batch.at_once and not tasks:
        raise ConfigError(f"--at-once {batch.at_once} has no effect without --seeds or --sweep.")
    for task in tasks:
        check_task(config, configure([*arguments, *task.options]), task.options)
    return _fill_template(_with_interface(batch), python, config, tasks)


def make_array_script(
    batch: BatchOptions, python: str, config: Config, tasks: Sequence[ArrayTask]
) -> str:
    """Return the batch script of a job array whose tasks are known; see `make_batch_script`.

    Raises
    ------
    ConfigError
        The job is an array already, by another option.
    """
    if batch.seeds or batch.sweep:
        raise ConfigError(
            "--seeds and --sweep do not apply to distbp sweep, which has a task for each of its "
            "runs. Leave them out."
        )
    return _fill_template(_with_interface(batch), python, config, tasks)


def _with_interface(batch: BatchOptions) -> BatchOptions:
    interface = batch.mpi or ("pmi2" if mpi.library_version().startswith("MPICH") else "pmix")
    return replace(batch, mpi=interface)


def _array_tasks(batch: BatchOptions) -> list[ArrayTask]:
    """Return the tasks of a job array; none if the job is no array."""
    if batch.seeds:
        return [ArrayTask(seed, ["--seed", str(seed)]) for seed in range(batch.seeds)]
    if not batch.sweep:
        return []
    try:
        lines = Path(batch.sweep).read_text(encoding="utf-8").splitlines()
        tasks = [words for line in lines if (words := shlex.split(line, comments=True))]
    except (OSError, ValueError) as failure:
        raise ConfigError(f"--sweep {batch.sweep} cannot be read: {failure}.") from failure
    if not tasks:
        raise ConfigError(
            f"--sweep {batch.sweep}: expected a line of options for each task, but the file has "
            f"none."
        )
    return [ArrayTask(number, words) for number, words in enumerate(tasks)]


def check_task(config: Config, task_config: Config, options: Sequence[str]) -> None:
    """Raise ConfigError if a task changes an option that all tasks of an array share."""
    for name in ("data", "out", "threads"):
        if getattr(task_config, name) != getattr(config, name):
            raise ConfigError(
                f"{shlex.join(options)}: all tasks must have the same {flag(name)}. Set it after "
                f"train, or write another job."
            )


def _fill_template(
    batch: BatchOptions, python: str, config: Config, tasks: Sequence[ArrayTask]
) -> str:
    return _BATCH_SCRIPT.substitute(
        title=_TITLES[bool(tasks)],
        nodes=batch.nodes,
        ranks=batch.ranks_a_node,
        threads=config.threads,
        time=batch.time,
        output="%x-%A_%a.out" if tasks else "%x-%j.out",
        array=_array_directive(tasks, batch.at_once),
        site=_site_directives(batch),
        python=shlex.quote(python),
        launcher=_launcher_command(batch, Path(python)),
        data=shlex.quote(config.data),
        run=shlex.quote(config.out),
        options=_option_lines(config),
        cases=_array_cases(tasks),
        # SLURM_JOB_ID of a task may be that of the whole array, which must not be requeued.
        job_id="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if tasks else "$SLURM_JOB_ID",
    )


def _array_directive(tasks: Sequence[ArrayTask], at_once: int | None) -> str:
    """Return the line that makes the job an array, if it has tasks."""
    limit = f"%{at_once}" if at_once else ""
    return f"\n#SBATCH --array={tasks[0].number}-{tasks[-1].number}{limit}" if tasks else ""


def _site_directives(batch: BatchOptions) -> str:
    """Return #SBATCH lines; those without a value are to be edited and uncommented."""
    values = {"partition": batch.partition, "account": batch.account}
    return "\n".join(
        f"##SBATCH --{name}=NAME" if value is None else f"#SBATCH --{name}={value}"
        for name, value in values.items()
    )


def _launcher_command(batch: BatchOptions, python: Path) -> str:
    """Return the command that starts a rank for each task of the job, as bash words."""
    if batch.launcher == "srun":
        return f"srun --kill-on-bad-exit=1 --mpi={batch.mpi}"
    # An MPI from PyPI has its launcher next to Python.
    mpirun = python.with_name("mpirun")
    words = [str(mpirun) if mpirun.exists() else "mpirun"]
    # Open MPI would otherwise bind each rank to one core, ignoring --cpus-per-task.
    return shlex.join(words + (["--bind-to", "none"] if batch.mpi == "pmix" else []))


def _option_lines(config: Config) -> str:
    """Return the options of a configuration that are not defaults, as elements of a bash array."""
    lines = [
        f"    {_bash_words(as_arguments(flag(one.name), getattr(config, one.name)))}\n"
        for one in fields(Config)
        if one.name not in ("data", "out") and getattr(config, one.name) != one.default
    ]
    return "".join(["\n", *lines]) if lines else ""


def _bash_words(words: Sequence[str]) -> str:
    """Return words quoted for bash; also lists such as 20,10, to satisfy shellcheck (SC2054)."""
    return " ".join(
        f"'{one}'" if re.fullmatch(r"[\w.]+(,[\w.]+)+", one) else shlex.quote(one) for one in words
    )


def _array_cases(tasks: Sequence[ArrayTask]) -> str:
    """Return the bash statement that gives each task its options and directory."""
    if not tasks:
        return ""
    has_names = any(one.folder for one in tasks)
    lines = []
    for one in tasks:
        folder = f" run+={shlex.quote('/' + one.folder)}" if has_names else ""
        lines.append(f"    {one.number}) options+=({_bash_words(one.options)}){folder} ;;")
    folder = "" if has_names else "run+=/$SLURM_ARRAY_TASK_ID\n"
    return _ARRAY_CASES.substitute(cases="\n".join(lines), folder=folder)
