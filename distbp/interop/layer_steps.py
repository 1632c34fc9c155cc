"""Steps of a computation as layers: products, multiplications, additions and activations.

A `LayerMaker` takes `Step`s in the order of the computation. What multiplies or adds constants
becomes part of the nearest layer, or the scaling of the input. Which file the steps come from is
not known here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distbp.interop.dense_model import DenseLayer, make_layer
from distbp.interop.untrusted import shorten


@dataclass(frozen=True)
class Step:
    """One step of the computation.

    Attributes
    ----------
    name : str
        Of the node.
    kind : {"dense", "affine", "activation", "width"}
    w, b : arrays, optional
        dense: w (n_out, n_in) x + b. affine: w · x + b, element by element.
    activation : str
    width : int
        Of the rows that a reshape makes.
    """

    name: str
    kind: str
    w: Any = None
    b: Any = None
    activation: str = ""
    width: int = 0


class LayerMaker:
    """Makes layers of steps in the order of the computation.

    Attributes
    ----------
    layers : list of DenseLayer
    shift, scale : arrays, optional
        Of the input.
    """

    def __init__(self) -> None:
        self.layers: list[DenseLayer] = []
        self.shift: np.ndarray | None = None
        self.scale: np.ndarray | None = None
        self._pending: tuple[np.ndarray, np.ndarray] | None = None  # w · x + b, not yet in a layer

    def take(self, step: Step) -> None:
        """Add the next step."""
        if step.kind == "dense":
            self._take_dense(step)
        elif step.kind == "affine":
            w, b = self._pending or (np.ones(1), np.zeros(1))
            self._pending = w * step.w, b * step.w + step.b
        elif step.kind == "width":
            if self.layers and step.width not in (-1, self.layers[-1].n_out):
                raise ValueError(f"the node {shorten(step.name)} changes the length of rows")
        else:
            self._settle(step.name)
            last = self.layers[-1]
            self.layers[-1] = DenseLayer(last.name, last.w, last.b, step.activation)

    def finish(self) -> None:
        """Put what is left into the last layer."""
        if self._pending is not None:
            self._settle("at the end")

    def _settle(self, name: str) -> None:
        """Put what is pending into the last layer, which must have no activation yet."""
        if not self.layers or self.layers[-1].activation != "linear":
            raise ValueError(f"the node {shorten(name)} does not follow a dense layer")
        if self._pending is not None:
            last = self.layers[-1]
            w, b = (np.broadcast_to(one, (last.n_out,)) for one in self._pending)
            kind = last.w.dtype
            # Biases alone keep their type; what was scaled may need all digits.
            if (w != 1).any():
                kind = np.dtype(np.float64)
            self.layers[-1] = make_layer(
                last.name, (last.w * w[:, np.newaxis]).astype(kind),
                (last.b * w + b).astype(kind), "linear",
            )  # fmt: skip
            self._pending = None

    def _take_dense(self, step: Step) -> None:
        w, b = step.w, step.b
        if self._pending is not None and self.layers and self.layers[-1].activation == "linear":
            self._settle(step.name)
        if self._pending is not None:
            scale, shift = (np.broadcast_to(one, (w.shape[1],)) for one in self._pending)
            if not self.layers:
                if not np.isfinite(scale).all() or (scale == 0).any():
                    raise ValueError("its inputs are scaled by 0, or by no finite number")
                self.scale, self.shift = np.array(scale), -shift / scale
            else:
                base = np.zeros(len(w)) if b is None else b
                w, b = w * scale, base + w @ shift
            self._pending = None
        self.layers.append(make_layer(step.name, w, b, "linear"))
