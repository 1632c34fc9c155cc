"""Files: HDF5 with a checksum header, checkpoints, and the directory of a run.

Writes are atomic: a file is written under a temporary name beside its final one, forced to
the disk (fsync) and renamed. A reader sees the old file or the new one, never a part.

**Every HDF5 file that distbp writes**

    bytes 0 … 511   checksum header, in the user block that HDF5 reserves for applications
    bytes 512 …     HDF5

    header, little-endian:  magic "distbp\\r\\n", 8 bytes | kind, 24 | length of the file, 8
                            | SHA-256 of the file from byte 512 on, 32
                            | SHA-256 of the 72 bytes before, 32 | zeros

The root has two attributes, `format` (fixed-length string) and `version` (integer). Text is
UTF-8 in a uint8 dataset, never a variable-length string: a corrupted one can crash libhdf5.
There are no time stamps, so that equal content gives equal files, byte by byte.

**Checkpoint**, format `distbp-checkpoint`, version 2, 3 or 4; it needs no other file to be loaded:

    about                  uint8, JSON: network, task, classes, data (its identity), config,
                           progress, machine, versions; preprocessing (see the module of that
                           name), if it was trained on a table; label_type, if on arrays;
                           imported (file and format), if it comes from another program
    history                uint8, text: the lines of metrics.jsonl
    layers/1/w, layers/1/b, …     weights (n_l, n_{l-1}) and biases (n_l,); with --ema, their
                           averages
    training/theta         (P,), with --ema: θ in training
    optimizer/NAME         (P,): the state of the optimizer, in the order of θ
    scaling/shift, scaling/scale  float64, (1,) or (n_0,): the network's input is
                           (x - shift) * scale
    target/shift, target/scale    float64, (n_L,), of a regression on scaled targets: the
                           network's output is (y - shift) * scale

    h5py.File("run/last.h5")["layers/1/w"][...]     # any HDF5 reader will do
    distbp.load("run").weights[0]                   # verified first

Version 3 is written only with scaled or transformed targets or for multilabel, which readers
of version 2 would misread, version 4 only with averaged parameters. Version 1 kept the history in
`about`; it is still read. The format of data sets is described in `distbp.data`.

**Run directory**

    config.toml, metrics.jsonl, events.jsonl, lock
    checkpoints/step-*.h5  the latest ones; `--keep` says how many
    last.h5, best.h5       the latest and the best checkpoint: hard links, or copies where the
                           file system has none, so that they outlive the files above

**Reading is by allow-list**, because HDF5 files may be damaged or malicious. A checkpoint is
compared with its checksum header before libhdf5 sees a byte of it; where `last.h5` is
damaged, the newest valid checkpoint is used. A data set, which may be larger than memory, is
compared only by `distbp info`. In both, only hard links are followed, only expected names
are opened, and a dataset must hold plain numbers that are stored in the file itself, either
contiguously or in chunks with at most gzip, lzf, szip, shuffle and fletcher32. No filter plugin
is loaded. A source of an import may also have soft links within the file, and text of variable
length, which is read without libhdf5. The checksum detects damage; it is no signature and
proves nothing about the author.

Modules in reading order: `checksum` (the header), `hdf5_checks` (the allow-list),
`hdf5_filters` (decompression in bounded memory), `hdf5_chunks` (arrays in chunks),
`hdf5_strings` (text of variable length), `atomic`, `hdf5_file` (opening and creating files),
`lock` (one run per directory), `direct_reader` (reading past the page cache), `scaling`,
`preprocessing` (columns of a table to inputs), `checkpoint`, `run_directory`,
`background_writer` (saving while the training continues).
"""
