"""One class of each kind that a user may write, for `python -m pydoc distbp.own_parts`.

In the directory of this file:

    distbp train digits.h5 --out run --activation my_parts:Mish --cost my_parts:FocalCost \\
        --optimizer my_parts:Lion --schedule my_parts:Sqrt --metrics my_parts:TopTwo \\
        --callbacks my_parts:StopAtAccuracy
    DISTBP_PARTS=my_parts distbp evaluate run digits.h5
"""

import numpy as np

from distbp.network.activations import Activation, Sigmoid
from distbp.network.costs import Cost
from distbp.network.optimizers import Optimizer
from distbp.network.schedules import Schedule
from distbp.training.callbacks import STOP, Callback
from distbp.training.metrics import RowMetric


class Mish(Activation):
    """z tanh(ln(1 + e^z)) (Misra, BMVC 2020)."""

    gain = 2.2
    needs_z = True  # it is not monotonic: its slope is no function of its value

    def fill(self, z, out, spare=None):
        return np.multiply(z, np.tanh(np.logaddexp(0.0, z)), out=out)

    def prime(self, a, out, z):
        t = np.tanh(np.logaddexp(0.0, z))
        sigmoid = Sigmoid().fill(z, np.empty_like(z))
        return np.add(t, z * sigmoid * (1.0 - t * t), out=out)


class FocalCost(Cost):
    """C = −Σ (1 − a)² y ln a for a = softmax(z), whose `fill` leaves ln a in z (Lin et al., 2017).

    It counts rows less that are classified well already.
    """

    tasks = ("classification",)
    outputs = ("softmax",)

    def fn(self, z, a, y, spare=None):
        return -float(np.sum((1.0 - a) ** 2 * y * z))

    def delta(self, a, y, out=None, spare=None):
        p = np.sum(a * y, axis=1, keepdims=True)  # of the right class
        by_p = 2.0 * (1.0 - p) * np.log(np.maximum(p, 1e-30)) - (1.0 - p) ** 2 / p
        return np.multiply(by_p * p, y - a, out=out)


class Lion(Optimizer):
    """θ ← θ − η sign(β₁ m + (1 − β₁) g), m ← β₂ m + (1 − β₂) g (Chen et al., NeurIPS 2023)."""

    state_names = ("momentum",)
    takes_rate_times_g = False
    default_rate = 0.0003

    def apply(self, old, new, g, spare, learning_rate, t):
        direction = np.sign(0.9 * old[1] + 0.1 * g)
        np.add(0.99 * old[1], 0.01 * g, out=new[1])
        np.subtract(old[0], learning_rate * direction, out=new[0])


class Sqrt(Schedule):
    """1 / √(1 + epoch)."""

    def factor(self, epoch, epochs, scores):
        return (1.0 + epoch) ** -0.5


class TopTwo(RowMetric):
    """The fraction of rows whose class has one of the two largest outputs."""

    tasks = ("classification",)

    def __call__(self, output, y):
        return (np.argsort(-output, axis=1)[:, :2] == y[:, np.newaxis]).any(axis=1)


class StopAtAccuracy(Callback):
    """Ends the run as soon as 95 % of the training rows are classified correctly."""

    def __call__(self, record, network):
        return STOP if record["train_accuracy"] >= 0.95 else None
