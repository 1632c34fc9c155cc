"""Data-parallel training of dense neural networks on CPUs, bit-for-bit reproducible.

    import distbp

    model = distbp.fit(x, y, hidden=(100,), epochs=10)    # arrays, or a data frame
    labels = model.predict(x_new)         # classes, or values in the units of y
    model.save("model.h5")                # distbp.load_model("model.h5")

    config = distbp.Config(data="digits.h5", out="run", hidden=(100,), epochs=10)
    result = distbp.train(config)         # on every rank that mpirun started, or alone
    result = distbp.train(config, x, y)   # the same on arrays, if `data` is left out
    output = distbp.predict("run", x)     # rows as they were imported; (n, n_out)
    output = distbp.predict("run", frame) # a data frame, by the names of its columns
    score = distbp.evaluate("run", x, y)  # {"rows": …, "cost": …, "accuracy": …}
    network = distbp.load("run")          # a Network; takes scaled rows
    distbp.export("run", "model.onnx")    # or .safetensors, .npz
    distbp.import_model("net.safetensors", "net.h5", activation="relu", output="softmax")
    network = distbp.Network((784, 100, 10), seed=1)
    nabla_b, nabla_w = network.backprop(x, y)

`Config` has the options of `distbp train` under the same names. Errors are subclasses of
`DistbpError`; messages go to the logger "distbp", and what a caller should know of to
`warnings` as `DistbpWarning`. Used as a library distbp prints nothing by itself.

Without a directory `out` a run writes no file. A process that no launcher has started uses no
MPI, and neither does a worker of `multiprocessing` or joblib; several threads may train at once.

Importing distbp starts no MPI and loads neither NumPy nor HDF5: each of these names is
imported when it is first used. The packages, each importing only from those above it:

    network    backpropagation (BP1-BP4), activations, costs, optimizers
    parallel   shards of a mini-batch, MPI, and the sum of the gradients
    compiled   a training step as machine code, by numba
    storage    checkpoints and run directories, as HDF5 files with checksums
    data       importing and reading data sets
    interop    models of other programs: ONNX, PyTorch, Keras, scikit-learn
    training   configuration, state, recovery, and the training loop
    sklearn    estimators for scikit-learn
    launch     starting and restarting ranks, SLURM, sweeps, planning
    report     pages on runs, with figures
    doctor     what is slow or broken on a machine
    cli        the command line

`python -m pydoc distbp.parallel` and its like show a page on each. Modules outside the packages,
which all of them may import:

    version    the version
    errors     exceptions and the warning
    kernels    the BLAS kernels that a process uses
    own_parts  users' own activations, costs, optimizers, schedules, metrics, callbacks
    options    declares a field of a dataclass as an option of the command line
    terminal   the terminal that output ends on, also behind a launcher
    console    log lines, warnings and a progress bar
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distbp.version import __version__ as __version__

if TYPE_CHECKING:
    from distbp.errors import DistbpError, DistbpWarning
    from distbp.interop.model_export import export
    from distbp.network.activations import sigmoid, sigmoid_prime
    from distbp.network.network import Network
    from distbp.storage.run_directory import load
    from distbp.training.array_fit import fit
    from distbp.training.config import Config
    from distbp.training.imported_model import import_model
    from distbp.training.loop import train
    from distbp.training.model import Model, evaluate, load_model, predict

__all__ = [
    "Config", "DistbpError", "DistbpWarning", "Model", "Network", "evaluate", "export", "fit",
    "import_model", "load", "load_model", "predict", "sigmoid", "sigmoid_prime", "train",
]  # fmt: skip

_MODULES = {
    "Config": "training.config",
    "DistbpError": "errors",
    "DistbpWarning": "errors",
    "Model": "training.model",
    "Network": "network.network",
    "evaluate": "training.model",
    "export": "interop.model_export",
    "fit": "training.array_fit",
    "import_model": "training.imported_model",
    "load": "storage.run_directory",
    "load_model": "training.model",
    "predict": "training.model",
    "sigmoid": "network.activations",
    "sigmoid_prime": "network.activations",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'distbp' has no attribute {name!r}")
    return getattr(import_module(f"distbp.{_MODULES[name]}"), name)
