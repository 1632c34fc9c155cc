"""Data-parallel training of dense neural networks on CPUs.

    network = distbp.Network((784, 100, 10))
    nabla_b, nabla_w = network.backprop(x, y)
    result = distbp.train(distbp.Config(data="digits.h5", out="run"))
    network = distbp.load("run")
    a = distbp.predict("run", x)

Importing distbp starts no MPI and reads no file; what is named here is loaded
when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distbp.checkpoint import load
    from distbp.config import Config
    from distbp.errors import DistbpError
    from distbp.evaluate import predict
    from distbp.functions import sigmoid, sigmoid_prime
    from distbp.network import Network
    from distbp.train import train

__version__ = "0.1.0"
__all__ = [
    "Config", "DistbpError", "Network", "load", "predict", "sigmoid", "sigmoid_prime", "train",
]  # fmt: skip

_PLACES = {
    "Config": "config",
    "DistbpError": "errors",
    "Network": "network",
    "load": "checkpoint",
    "predict": "evaluate",
    "sigmoid": "functions",
    "sigmoid_prime": "functions",
    "train": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'distbp' has no attribute {name!r}")
    return getattr(import_module(f"distbp.{_PLACES[name]}"), name)


class _Package(ModuleType):
    """`distbp.train` stays the function when the file of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PLACES:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
