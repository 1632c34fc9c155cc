"""Training runs: from a configuration to a trained model, and from a model to predictions.

The nouns, in the order in which to read them:

    Config          the options of a run (`config`; `config_file` reads them from TOML); frozen,
                    the same on all ranks; `defaults` derives what is left open
    BatchGradient   the gradients of this rank's shards of a mini-batch (`gradient`), with the
                    number of right answers (`accuracy`); rows may have weights, of their own or
                    of their classes, with mean 1 (`row_weights`)
    Engine          makes the steps of one or more mini-batches (`engine`); `compiled_engine` does
                    so by machine code, to which `step_binding` hands the arrays of a run,
                    and `compiled_update` the sums that messages have completed
    Callback        what a user's own code does after each epoch (`callbacks`; `trackers` report to
                    MLflow or W&B); `part_checks` checks users' own classes before a run starts
    SdcCheck        recomputes a step to detect silent data corruption (`sdc_check`)
    Metric          a number that says how good outputs are, found by its name (`metrics`, which
                    says how to add one's own; `metric_names`); a `Measurement` collects what some
                    of them need (`class_counts`, `score_counts`, `measurement`)
    Evaluator       the cost, accuracy and metrics of a network on a split (`evaluation`,
                    `variation`; `prediction` writes its outputs, `inputs` opens models and data on
                    all ranks)
    RowTask         predictions or a score for rows of a table, of any number, in rounds that
                    rank 0 reads and hands out (`table_prediction`, `row_sources`)
    Model           a checkpoint in memory: predictions and scores for arrays (`model`); several
                    are an `EnsembleNetwork`, which is used like one network (`ensemble`); one of
                    another program becomes one, too (`imported_model`)
    Progress        where a run is: a `Position`, the totals of the epoch, a `History` (`state`),
                    from which the learning rate follows (`rates`)
    Monitor         the number that decides which epoch is best (`state`; `monitor` finds it, and
                    the metrics of each epoch, for a configuration and its data)
    Dimension       the values or the range of an option that varies in a sweep (`search_space`);
                    what came out of a run is a `RunSummary` (`run_summary`, which reads the lines
                    that a run writes by `run_records`)
    RunDifference   where two runs part (`run_difference`, `array_difference`), and why
                    (`difference_reason`), by what each has recorded (`recorded_run`)
    StopRequest     a signal or a time limit (`stop_request`)
    CheckpointSchedule  when a checkpoint is due (`checkpoint_schedule`); what it holds, how it is
                    written, and which may wait a second is in `checkpoint_writer`
    RunRecorder     rank 0's files, log lines (`messages`) and progress bar (`recorder`,
                    `metrics_file`, `event_log`, `tensorboard_file`, `status_file`); the other ranks
                    have a `NullRecorder`, and all ranks of a run without a directory a
                    `MemoryRecorder`
    RunFollower     reads from outside where a run is, and whether it lives (`run_follower`)
    split_validation  the rows that are held out, a fraction or a fold (`holdout`, `folds`)
    RunParts        all of these, the network and the order of the rows, assembled for one run
                    (`setup`), after checks that all ranks, and a run that is resumed, train the
                    same (`run_checks`)
    Profile         a timeline of what the parts do, written for `--profile` (`profiling`,
                    `profile_trace`)
    FaultDetector   inspects a step; `decide` chooses what to do about a fault (`recovery`)
    Run             the loop over epochs and steps (`loop`), with its `timing`; a few of its steps,
                    and what they compute, as a `step_trace`; a gradient compared with finite
                    differences as a `GradientCheck` (`gradient_check`)

`train` assembles the `RunParts` and starts a `Run`; `fit` does so for arrays and returns the
`Model` (`array_fit`). In each step

1.  every rank writes the gradients of its shards, and with them its requests to stop or to save;
2.  the reduction of `distbp.parallel` sums them and updates θ, the same on all ranks;
3.  the loop replaces its `Progress` by the next one, and has the step inspected;
4.  if there is a fault, all ranks come to the same `Diagnosis`, `decide` turns it into an
    `Action` (continue, retry, skip, roll back, stop), and one `match` in the loop executes it;
5.  the recorder is notified, and saves a checkpoint if one is due.

A `Progress` never changes: the loop keeps the one from before the last step, and going back by a
step, which ranks of different nodes may have to after a rank failure, means assigning it. What is
kept longer is a checkpoint, in memory or on disk; restoring one is the only way a run
is resumed, rolled back, or taken over by the surviving ranks.

Apart from the reduction, ranks communicate only to agree: on their inputs, on errors, and on the
digest of the parameters before each checkpoint. On a single rank the same code sends nothing.
"""
