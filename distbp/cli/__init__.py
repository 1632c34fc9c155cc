"""The command line: `distbp VERB ARGUMENTS`.

    parser                `Verb`, and a parser of options that are declared by `distbp.options`
    rank_options          `--ranks`, which several verbs have
    describe              the text of `distbp info`
    train_command         the verb `train`
    charts                curves of text
    watch_view            the text of `distbp watch`
    watch_command         the verb `watch`
    trial_table           the results of a sweep as text or CSV
    sweep_command         the verb `sweep`
    score_table           the text of `distbp evaluate`
    model_commands        the verbs `evaluate` and `predict`
    export_command        the verb `export`
    report_command        the verb `report`
    import_model_command  the verb `import-model`
    diff_command          the verb `diff`
    verify_command        the verb `verify`
    doctor_command        the verb `doctor`
    completion_command    the verb `completion`
    commands              all other verbs, and `VERBS`, the table of all
    kernel_selection      selects the BLAS kernels, before NumPy is loaded
    main                  from the arguments to the exit status, on all ranks

A verb is a `Verb`: a name, a summary, an example, a function that declares its options and one
that runs it and returns the exit status. To add one:

1.  write the two functions, and the `Verb` of them, in a file of its own; both import what they
    need when they are called, so that `--help` stays fast. What the verb computes belongs into
    another package;
2.  add the `Verb` to `VERBS` in `commands`;
3.  add its name to `VERBS` in `tests/system/test_command_line.py` and `test_readme.py`, and test
    what it does.

Exit status: 0 done; 1 failed; 2 usage or configuration; 75 stopped with a checkpoint, try
again. Only `main` ends the process. It also does what is not for a library to do: it sets
environment variables, installs handlers that print log records, and protects the standard
streams from write errors.
"""
