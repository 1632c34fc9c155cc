"""The command line: `distbp VERB ARGUMENTS`.

    parser         `Verb`, and a parser of options that are declared by `distbp.options`
    rank_options   `--ranks`, which several verbs have
    describe       the text of `distbp info`
    train_command  the verb `train`
    commands       all other verbs, and `VERBS`, the table of them
    main           from the arguments to the exit status, on all ranks

A verb is a `Verb`: a name, a summary, an example, a function that declares its options and
one that runs it and returns the exit status. To add one, write the two functions in
`commands` and add the verb to `VERBS`; the library function that it calls belongs in
another package.

Exit status: 0 done; 1 failed; 2 usage or configuration; 75 stopped with a checkpoint, try
again. Only `main` ends the process. It also does what is not for a library to do: it sets
environment variables, installs handlers that print log records, and protects the standard
streams from write errors.
"""
