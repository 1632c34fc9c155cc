"""Launch, supervise and plan training runs: `--ranks`, `--restarts`, SLURM, sweeps, plan, verify.

Launching
    `mpiexec.MpiLaunch` starts `python -m distbp …` on N ranks with the `mpiexec` of the MPI
    library that mpi4py uses, forwards their output, and terminates every process of the launch
    at its end. It identifies these processes by a token in their environment, because
    launchers put ranks into sessions and process groups of their own (`processes`). A single
    rank is started without a launcher. `distbp VERB --ranks N` is one such launch.

Supervision
    `distbp train --ranks N` is a `supervisor.Supervisor`: it launches the training, and after the
    loss of ranks again, from the newest checkpoint. Where MPI has ULFM (Open MPI 5), a restart
    is only needed where the survivors cannot continue in place. It gives up after three restarts,
    or `--restarts K`, in a row without progress, that is, without a newer checkpoint; with
    `--restarts 0` a lost rank ends the run. Errors that a restart cannot fix, such as a wrong
    option, are not retried, and neither is an exception of a rank, unless `--restarts K` is
    given: it would most often be raised again. SIGINT, SIGTERM and SIGHUP reach the ranks as
    SIGUSR1: they save a checkpoint and stop, and the exit status is 75. A second signal kills
    them immediately.

What counts as success
    The ranks write a completion file when they have finished (`parallel.environment`):
    the outcome, an exit status and, after an error, its message. Only this file tells
    success from failure. The launcher's exit status does not: it may be 0 after ranks were lost.

SLURM
    `distbp slurm` writes a self-contained batch script (`slurm`), which applies the same rules
    within a job: it saves a checkpoint before the time limit, reads the completion file, and
    requeues the job to resume from the newest checkpoint. Inside a job the ranks are started by
    `srun` or `mpirun`, not by this package. See `distbp slurm --help`.

Sweeps
    `distbp sweep` is a `sweep.Sweep`: a folder with a directory for each choice of options, and a
    launch for each run that has not finished, some at a time. `Choices` says what comes next: a
    list of combinations or random draws, or an Optuna study (`optuna_study`). `distbp slurm sweep`
    writes a job array with a task for each run instead. What came out is read from the runs'
    directories, whoever has launched them.

Verification
    `distbp verify` launches the same few steps on several numbers of ranks, and compares all arrays
    after each step (`verification`); the steps themselves are `training.step_trace`'s.

Planning
    `distbp plan` measures on this machine what a step consists of, and predicts its duration
    for any number of ranks and nodes (`planner`, `step_timing`, `measuring`), and what checkpoints
    cost (`checkpoint_cost`).
"""
