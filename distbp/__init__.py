"""Data-parallel training of dense neural networks on CPUs.

    network = distbp.Network((784, 100, 10))
    nabla_b, nabla_w = network.backprop(x, y)
    result = distbp.train(distbp.Config(data="digits.h5", out="run"))
    network = distbp.load("run")
    a = distbp.predict("run", x)

Importing distbp starts no MPI and loads neither NumPy nor HDF5: the names above are
imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distbp.version import __version__ as __version__

if TYPE_CHECKING:
    from distbp.errors import DistbpError
    from distbp.network.activations import sigmoid, sigmoid_prime
    from distbp.network.network import Network
    from distbp.storage.run_directory import load
    from distbp.training.config import Config
    from distbp.training.loop import train
    from distbp.training.prediction import predict

__all__ = [
    "Config", "DistbpError", "Network", "load", "predict", "sigmoid", "sigmoid_prime", "train",
]  # fmt: skip

_MODULES = {
    "Config": "training.config",
    "DistbpError": "errors",
    "Network": "network.network",
    "load": "storage.run_directory",
    "predict": "training.prediction",
    "sigmoid": "network.activations",
    "sigmoid_prime": "network.activations",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'distbp' has no attribute {name!r}")
    return getattr(import_module(f"distbp.{_MODULES[name]}"), name)
