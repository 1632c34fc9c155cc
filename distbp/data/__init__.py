"""Data sets: importing files of other formats, reading rows, and loading batches.

    distbp import SOURCE data.h5          distbp.data.importing.import_data(SOURCE, "data.h5")

**Sources**

    folder        IDX files with the names of MNIST's (train-images-idx3-ubyte, …), plain or .gz
    .npz          x_train and y_train, or x and y; x_val, y_val and x_test, y_test are optional
    .csv          numbers, with labels in the last column or those that --label names
    .h5, .hdf5    datasets named with --x, --y, --x-test, --y-test, --x-validation, …

**Labels** are interpreted by one rule for all sources: text, integers in one column, and
one-hot rows are classes, which are those of the training set in sorted order; fractions and
several columns are targets of a regression. `--task` overrides it. Negative integers are
refused unless the task is given, as they often mean "unknown".

**Scaling** is stored, not applied: x keeps its own type. `auto` divides bytes by 255 and
standardizes other features to mean 0 and variance 1, computed from the training rows alone.

**Data set**, format `distbp-data`, version 1; see `distbp.storage` for what all files have in
common:

    about              uint8, JSON: task, classes, shape (of a row of x), scaling, source, split,
                       digest, and arrays (type and shape of each); columns, if it was CSV
    scaling/shift      (1,) or (n_0,) float64
    scaling/scale      (1,) or (n_0,) float64: the network's input is (x - shift) * scale
    train/x            (n, …) in the type of the source
    train/y            (n,) integer labels, or (n, k) floating-point targets
    validation, test   like train, if there are any

The digest is the SHA-256 of name, type, shape and bytes of all arrays; a run that is resumed
must find the same one. x is memory-mapped, so that all ranks of a node share one copy;
chunked or compressed x is decoded once per node.

Modules in reading order: `dataset`, `batches`, `tables`, `csv_source`, `sources`, `labels`,
`importing`.
"""
