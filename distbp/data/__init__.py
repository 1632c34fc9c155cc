"""Data sets: importing files of other formats, reading rows, and loading batches.

    distbp import SOURCE data.h5          distbp.data.importing.import_data(SOURCE, "data.h5")

**Sources**

    folder        IDX files with the names of MNIST's (train-images-idx3-ubyte, …), plain or .gz
    .npz          x_train and y_train, or x and y; x_val, y_val and x_test, y_test are optional
    .csv, .tsv, .tab, .txt, .jsonl, .ndjson   tables as text, also compressed (.gz, .zst, .bz2),
                  with labels in the last column or those that --label names; read by pyarrow
    .parquet, .feather, .arrow, .ipc   tables with types, likewise
    .h5, .hdf5, .mat, .nc   datasets named with --x, --y, --x-test, --y-test, --x-validation, …

**Labels** are interpreted by one rule for all sources: text, integers in one column, and
one-hot rows are classes, which are those of the training set in sorted order; rows of 0 and 1
with several ones are independent labels (multilabel); fractions and other columns are targets
of a regression. `--task` overrides it. Negative integers are refused unless the task is given,
as they often mean "unknown".

**Tables** have columns of numbers and of text. The separator, the decimal mark, the encoding and
the header of a CSV file are recognized, and reported where they are unusual. A column of text
becomes an input of 0 or 1 for each category, in sorted order (one-hot), and so does one of numbers
that `--categorical` names. Missing cells are an error, unless `--missing` says what to fill in, or
to drop their rows. An index that pandas wrote, and a column that is constant in the training rows,
are left out. What was done is stored as the `preprocessing`, see `distbp.storage.preprocessing`:
statistics and categories are those of the training rows. A table is parsed once,
into a temporary file beside the output. Memory holds blocks of it, and 8 bytes a row of labels;
some 25 while rows are divided at random.

**Splits** are those of the source, or chosen by `--test-fraction` and `--validation-fraction`:
class by class at random, or in whole groups of a column (`--group`), or the latest rows by a
column (`--time`); or a column says train, validation or test (`--split`). A warning reports rows
of another split that are in train, too, and other frequent mistakes: see `profile`.

**Weights** of the training rows come from a column, a dataset or an array that `--weight` names:
how often a row counts in the training. They are finite and not negative, and one is above 0.
Statistics for scaling, and all evaluations, count every row once.

**HDF5** datasets may be in any group, also behind soft links in the same file, plain or
compressed by gzip, lzf or szip. x holds numbers or booleans, y also text or members of an
enumeration, whose names become those of the classes, in the order of its values. A matrix with
a column for each example is read with `--transpose`, without being asked in MATLAB's files
(-v7.3), which store dimensions in reverse. Arrays of PyTables and netCDF, and the numbers of a
data frame of pandas, are read by name; text cells of MATLAB, tables of PyTables, packed or
missing numbers of netCDF and weights of Keras are refused, and the message says what to do.

**Scaling** is stored, not applied: x keeps its own type. `auto` divides bytes by 255 and
standardizes other features to mean 0 and variance 1, computed from the training rows alone.
The targets of a regression are standardized likewise, unless `--target-scaling none`; this
concerns only what the network learns: y is stored, and costs and predictions are shown, in the
user's units.

**Data set**, format `distbp-data`, version 1, or 2 with scaled targets or for multilabel, or 3
with weights, which readers of older versions would misread or ignore; see `distbp.storage` for
what all files have in common:

    about              uint8, JSON: task, classes, shape (of a row of x), scaling, source, split,
                       digest, and arrays (type and shape of each); target_scaling, if there is
                       one; columns and preprocessing, if it was a table
    scaling/shift      (1,) or (n_0,) float64
    scaling/scale      (1,) or (n_0,) float64: the network's input is (x - shift) * scale
    target/shift       (k,) float64, of a regression whose targets are scaled
    target/scale       (k,) float64: the network learns (y - shift) * scale
    train/x            (n, …) in the type of the source
    train/y            (n,) integer labels, (n, k) of 0 and 1 for multilabel, or (n, k)
                       floating-point targets
    train/weight       (n,) float64, if the rows have weights
    validation, test   like train, if there are any

The digest is the SHA-256 of name, type, shape and bytes of x, y and weights, and of target/; a
run that is resumed must find the same one. x is memory-mapped, so that all ranks of a node share
one copy; chunked or compressed x is decoded once per node.

**Arrays** in memory become a data set by the same rules, with the same digest: `distbp.train`
takes NumPy arrays or what NumPy makes arrays of, and data frames of pandas or polars and Arrow
tables, which are encoded like a table in a file. y holds labels, or the name of their column.
Numbers in C order are used where they are, without a copy; what has to be converted, or comes from
rank 0 alone (`distribute=True`), is in memory that the ranks of a node share. `about` has no file,
but `label_type`: "bool", "int", "float" or "text", which checkpoints keep, so that predictions are
of that type. Sparse and masked arrays, and those of Python objects, are refused.

**Predictions** for a table need the model and the table, no data set: a `ModelTable` finds the
columns of the model's preprocessing by name, and encodes the rows. Arrays of an HDF5 or .npz file
hold rows as they were before the import; labels beside them are interpreted by `labels`, as those
of the model. `create_table` writes the results block by block:

    .csv, .tsv    also .gz; with a header; "-" is CSV on standard output
    .parquet, .feather, .arrow
                  marked as distbp's in the metadata of the schema
                  columns: row (its number from 0, or the column that --id names, as integers
                      if all are), then
                      classes      class, and p_NAME for each, the activation of its output
                      multilabel   NAME (0 or 1) for each label, and p_NAME for each
                      regression   the predicted value, named like the label column
    .h5, .hdf5    format `distbp-prediction`, version 1: output (n, n_L) and label as
                  `distbp.training.prediction` describes them; with --id also id, int64 or
                  variable-length text

**Larger than memory**: with `--shuffle blocks`, which is the default from 4 GiB of train/x on,
training rows are read while the training runs. An epoch takes blocks of about 1 MiB in random
order, and the rows of 128 of them (a window) in random order: a function of the seed, the epoch,
the shapes of x and y and the batch size alone, so that the result does not depend on ranks, nodes
or memory. A node holds two windows of 128 MiB, reads each block once in an epoch, and the next
window while it trains on this one; contiguous x of more than half of the memory (of the machine
or the control group) is read past the page cache. What is compressed is decoded block by block,
and y of less than 256 MiB at once. A block has 1 MiB / (bytes of a row of x and y) rows, 8,192 at
most: chunks of just as many rows are decoded once in an epoch, larger ones for each of their
blocks. With isal (`pip install distbp[isal]`) deflate is decoded in half of the time. Held out
rows (`--validation`) take 8 bytes of memory a row of train. A file that is replaced while it is
read is refused.

**Modules**, in reading order:

    Rows for training        row_file, weights, dataset, batches, shuffle, streaming
    Reading tables           table_options, row_options, table_columns, csv_dialect, table_input,
                             table_base, csv_lines, csv_chunks, csv_reader, arrow_reader,
                             json_reader, table_reader
    Cells of a table         spool, profile
    What a source is         tables
    From a table to inputs   table_encoder, table_roles, table_source
    Importing                splits, hdf5_writers, hdf5_source, sources, labels, background_calls,
                             dataset_writer, importing
    Arrays and data frames   array_checks, frames, arrays
    Predictions of a model   model_table, table_writer
"""
