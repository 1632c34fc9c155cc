"""θ and the optimizer state, in versions: where an update is committed or rolled back.

In one version a step overwrites what it reads. In two (double buffering) it reads the
current version and writes the other one, and `commit` makes that the current one: updates
are atomic, and the last one can be taken back. The arrays may be shared by several
processes, each of which owns a slice; all of them commit together.

With an average of θ there is a second network, `averaged`, bound to it: that is the model which is
evaluated and saved. The average is a part of the state, the last array of a version.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np

from distbp.network.network import Network
from distbp.network.optimizers import Arrays
from distbp.network.parameters import layer_views

AVERAGE = "moving average"  # its name in the state: not that of an optimizer, an identifier


class ParameterStore:
    """The versions of θ and state, the current one of which the network is bound to.

    Parameters
    ----------
    network : Network
        Its θ is the only version at first.
    state_names : sequence of str
        The optimizer's arrays, zeros at first.
    has_average : bool
        Whether the state has an average of θ, which is θ at first.

    Attributes
    ----------
    averaged : Network
        That of the average; without one, `network` itself.
    versions : sequence of (θ, *state), arrays (P,)
    current : int
        The version that a step reads.
    owned : (start, stop)
        The slice of θ and state that this process updates.
    steps : int
        Updates committed so far.
    """

    def __init__(
        self, network: Network, state_names: Sequence[str], has_average: bool = False
    ) -> None:
        self._network, self._state_names = network, [*state_names, *[AVERAGE] * has_average]
        self.averaged = copy(network) if has_average else network
        self.steps = 0
        theta = network.theta
        arrays = [theta, *(np.zeros_like(theta) for _ in state_names)]
        self._use([[*arrays, theta.copy()] if has_average else arrays], (0, theta.size))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The current arrays (P,) beside θ, by name: the optimizer's, and the average if any."""
        return dict(zip(self._state_names, self.versions[self.current][1:], strict=True))

    def move(self, versions: Sequence[Arrays], owned: tuple[int, int]) -> None:
        """Use other arrays, in one or two versions, and copy the owned slice to the first.

        Processes that share them own slices that together are all of θ.
        """
        for array, new in zip(self.versions[self.current], versions[0], strict=True):
            np.copyto(new[slice(*owned)], array[slice(*owned)])
        self._use(versions, owned)

    def _use(self, versions: Sequence[Arrays], owned: tuple[int, int]) -> None:
        self.versions, self.owned = versions, owned
        sizes = self._network.sizes
        self._bindings = [(arrays[0], *layer_views(arrays[0], sizes)) for arrays in versions]
        self._averages = self._bindings
        if self.averaged is not self._network:
            self._averages = [(one[-1], *layer_views(one[-1], sizes)) for one in versions]
        self._switch_to(0)

    def leave_shared_memory(self) -> None:
        """Bind the networks to copies of their parameters, for use after the run."""
        for network in {id(one): one for one in (self._network, self.averaged)}.values():
            network.bind(network.theta.copy())

    def _switch_to(self, version: int) -> None:
        # Not `Network.bind`, which would make new views in each step.
        self.current, network = version, self._network
        network.theta, network.biases, network.weights = self._bindings[version]
        if self.averaged is not network:
            network = self.averaged
            network.theta, network.biases, network.weights = self._averages[version]

    def commit(self, steps: int = 1) -> None:
        """Make the version that a step has written, or the last of several, the current one."""
        self.steps += steps
        if len(self.versions) > 1 and steps % 2:
            self._switch_to(1 - self.current)

    def rollback(self) -> None:
        """Take back the last commit: with two versions, the one before is still intact."""
        self.steps -= 1
        self._switch_to(1 - self.current)
