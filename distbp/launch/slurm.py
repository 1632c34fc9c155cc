"""Batch jobs for SLURM: a script that trains, and comes back until the training is done.

The script is one template: `scripts/train.sbatch` and `scripts/sweep.sbatch` are what it
makes of an example, `distbp slurm` what it makes of somebody's own training. It stands
alone on a cluster: what it knows of distbp is `train`, `--resume`, the status 75 and the
file in which a run says that it is done.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from string import Template

from distbp.errors import ConfigError
from distbp.parallel.comm import mpi_library
from distbp.training.config import Config
from distbp.training.options import as_arguments, check, flag, option
from distbp.training.setup import check_places

LAUNCHERS = ("srun", "mpirun")
MPIS = ("pmi2", "pmix")
TIME = r"(\d+-)?\d+(:\d\d){0,2}"
NAME = r"[\w.,+-]+"


class Script(Template):
    """A template whose names have a mark that no shell knows."""

    delimiter = "@@"


SCRIPT = Script(r"""#!/usr/bin/env bash
# @@title
#
# Before its time limit the job stops with a checkpoint, puts itself back into the queue,
# and goes on from there when it is started again; so it does after a preemption, and
# after the loss of a rank or a node. The model is the same bit for bit as without.
# scancel ends it for good; scancel --batch --signal=USR1 only stops it.
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

# ======== What depends on your cluster ==================================================
@@site
# module load …
python=@@python # one that has distbp
# srun: --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI. Without it: launcher=(mpirun)
launcher=(@@launcher)
# ======== What to train =================================================================
data=@@data
run=@@run
options=(@@options)
@@settings# ========================================================================================

set -u
me=@@me
mkdir -p -- "$run"
export OPENBLAS_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # which srun does not take from the job
export DISTBP_DONE=$run/.done                       # in which the run says how it has ended
rm -f -- "$DISTBP_DONE"

# The last checkpoint: when it changes, this start has got further than the one before.
checkpoint() { stat -c '%i %y' -- "$run/last.h5" 2>/dev/null; }

before=$(checkpoint)
place=--out
if [[ $before ]]; then place=--resume; fi

# MPICH names what the ranks of a node share by the numbers of the job and its step, and would
# take what killed ranks have left for its own: so no start has the step of another one.
if [[ ${launcher[0]} == srun ]]; then
    for ((i = 0; i < ${SLURM_RESTART_COUNT:-0}; i++)); do srun --nodes=1 --ntasks=1 true; done
fi

# SLURM tells this shell that the time is running out, and the shell tells the launcher,
# which tells its ranks: they save, and end with status 75.
told=0
trap 'told=$((told + 1)); kill -USR1 "$job" 2>/dev/null' USR1 TERM
"${launcher[@]}" "$python" -m distbp train "$data" "$place" "$run" "${options[@]}" &
job=$!
until
    seen=$told
    wait "$job"
    status=$?
    ((seen == told)) # or else it was a signal that has ended the wait, and not the job
do :; done

# A launcher may end with 0 although it has lost its ranks.
word=
if [[ -s $DISTBP_DONE ]]; then read -r word _ <"$DISTBP_DONE"; fi
if [[ $word == "done" ]]; then exit 0; fi
if ((!status)); then status=1; fi

# If the job was cancelled or put back already, or runs elsewhere because this node was cut
# off, then this is not the place to decide what is to become of it.
read -r state restarts <<<"$(squeue -h -j "$me" -O State:20,RestartCnt:10)"
if [[ "$state $restarts" != "RUNNING ${SLURM_RESTART_COUNT:-0}" ]]; then exit "$status"; fi
# What distbp refuses ends with 1 or 2; anything else may be a node's fault, for a few times.
if ((status == 75 || told)) || [[ $(checkpoint) != "$before" ]] ||
    ((status > 2 && ${SLURM_RESTART_COUNT:-0} < 3)); then
    scontrol requeue "$me"
fi
exit "$status"
""")

SETTINGS = Script("""\
case $SLURM_ARRAY_TASK_ID in # each task has options of its own, and a directory in $run
@@cases
    *) exit 2 ;;
esac
run+=/$SLURM_ARRAY_TASK_ID
""")


TITLES = {
    False: "Train with distbp as a batch job of SLURM, on one node or several.",
    True: "Train with distbp in several ways, as a job array of SLURM.",
}


@dataclass(frozen=True)
class Batch:
    """What is asked of SLURM; each field is an option of `distbp slurm`.

    Raises
    ------
    ConfigError
        A value is not allowed, or two contradict each other.
    """

    nodes: int = option(1, "how many", int, least=1)
    ranks_a_node: int = option(1, "how many", int, least=1)
    time: str = option("1:00:00", "limit of one start, as SLURM has it")
    launcher: str = option("srun", "what starts the ranks", choices=LAUNCHERS)
    mpi: str | None = option(
        None, "what srun speaks; pmi2 for MPICH, pmix for Open MPI", choices=MPIS
    )
    partition: str | None = option(None, "where to queue")
    account: str | None = option(None, "who pays")
    seeds: int | None = option(
        None, "a job array, with so many seeds from 0 on", int, least=1, below=10_000
    )
    sweep: str | None = option(None, "a job array: a file with the options of a task a line")
    at_once: int | None = option(None, "how many tasks may run at the same time", int, least=1)

    def __post_init__(self) -> None:
        for one in fields(self):
            check(flag(one.name), getattr(self, one.name), one.metadata)
        if not re.fullmatch(TIME, self.time):
            raise ConfigError(
                f"--time {self.time!r}: expected a time such as 90 (minutes), 2:00:00 or 1-12:00."
            )
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(NAME, value):
                raise ConfigError(f"--{name} {value!r}: expected a name.")
        if self.seeds and self.sweep:
            raise ConfigError("--seeds and --sweep contradict each other: a task has one setting.")
        if self.at_once and not (self.seeds or self.sweep):
            raise ConfigError(f"--at-once {self.at_once} has no effect without --seeds or --sweep.")


def job(
    batch: Batch, python: str, words: Sequence[str], configure: Callable[[Sequence[str]], Config]
) -> str:
    """Return the batch script for a training.

    Parameters
    ----------
    batch : Batch
    python : str
        The interpreter, with distbp, that the ranks run under.
    words : sequence of str
        `train` and what stands behind it.
    configure : function
        Returns what such words ask for; raises ConfigError.
    """
    if list(words[:1]) != ["train"]:
        raise ConfigError(
            "distbp slurm expects a training behind its own options, as it would be started here: "
            "distbp slurm --nodes 2 train DATA.h5 --out RUN."
        )
    config = configure(words)
    check_places(config)
    tasks = settings(batch)
    for task in tasks:
        check_task(config, configure([*words, *task]), task)
    mpi = batch.mpi or ("pmi2" if mpi_library().startswith("MPICH") else "pmix")
    return script(replace(batch, mpi=mpi), python, config, tasks)


def settings(batch: Batch) -> list[list[str]]:
    """Return the options that each task of an array has."""
    if batch.seeds:
        return [["--seed", str(seed)] for seed in range(batch.seeds)]
    if not batch.sweep:
        return []
    try:
        lines = Path(batch.sweep).read_text(encoding="utf-8").splitlines()
        tasks = [words for line in lines if (words := shlex.split(line, comments=True))]
    except (OSError, ValueError) as failure:
        raise ConfigError(f"--sweep {batch.sweep} cannot be read: {failure}.") from failure
    if not tasks:
        raise ConfigError(f"--sweep {batch.sweep}: expected a line of options for each task.")
    return tasks


def check_task(config: Config, changed: Config, words: Sequence[str]) -> None:
    """Raise ConfigError if the options of a task change what the whole array has in common."""
    for name in ("data", "out", "threads"):
        if getattr(changed, name) != getattr(config, name):
            raise ConfigError(f"{shlex.join(words)}: all tasks have the same {flag(name)}.")


def script(
    batch: Batch, python: str, config: Config, settings: Sequence[Sequence[str]] = ()
) -> str:
    """Return a batch script.

    Parameters
    ----------
    batch : Batch
    python : str
        The interpreter, with distbp, that the ranks run under.
    config : Config
        What to train.
    settings : sequence of sequences of str, optional
        Options to add, each in a task of its own of a job array.
    """
    return SCRIPT.substitute(
        title=TITLES[bool(settings)],
        nodes=batch.nodes,
        ranks=batch.ranks_a_node,
        threads=config.threads,
        time=batch.time,
        output="%x-%A_%a.out" if settings else "%x-%j.out",
        array=array(len(settings), batch.at_once),
        site="\n".join(request(name, getattr(batch, name)) for name in ("partition", "account")),
        python=shlex.quote(python),
        launcher=launcher(batch, Path(python)),
        data=shlex.quote(config.data),
        run=shlex.quote(config.out),
        options=options(config),
        settings=cases(settings),
        me="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if settings else "$SLURM_JOB_ID",
    )


def array(tasks: int, at_once: int | None) -> str:
    """Return the line that makes the job an array, if it has tasks."""
    limit = f"%{at_once}" if at_once else ""
    return f"\n#SBATCH --array=0-{tasks - 1}{limit}" if tasks else ""


def request(name: str, value: str | None) -> str:
    """Return the line that asks SLURM for something, or shows where to ask."""
    return f"##SBATCH --{name}=NAME" if value is None else f"#SBATCH --{name}={value}"


def launcher(batch: Batch, python: Path) -> str:
    """Return the command that starts the ranks, all that the job has room for."""
    if batch.launcher == "srun":
        return f"srun --kill-on-bad-exit=1 --mpi={batch.mpi}"
    beside = python.with_name("mpirun")
    words = [str(beside) if beside.exists() else "mpirun"]
    # Open MPI would give each rank one core, whatever --cpus-per-task says.
    return shlex.join(words + (["--bind-to", "none"] if batch.mpi == "pmix" else []))


def options(config: Config) -> str:
    """Return the options that make `config` of the defaults, as the elements of an array."""
    lines = [
        f"    {typed(as_arguments(flag(one.name), getattr(config, one.name)))}\n"
        for one in fields(Config)
        if one.name not in ("data", "out") and getattr(config, one.name) != one.default
    ]
    return "".join(["\n", *lines]) if lines else ""


def typed(words: Sequence[str]) -> str:
    """Return words as they are typed in an array of bash, where a comma looks like a slip."""
    return " ".join(
        f"'{one}'" if re.fullmatch(r"[\w.]+(,[\w.]+)+", one) else shlex.quote(one) for one in words
    )


def cases(settings: Sequence[Sequence[str]]) -> str:
    """Return what gives each task of an array its own options and directory."""
    lines = (f"    {i}) options+=({typed(words)}) ;;" for i, words in enumerate(settings))
    return SETTINGS.substitute(cases="\n".join(lines)) if settings else ""
