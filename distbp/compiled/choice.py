"""What a compiled step is specialized for: the options of a run that change its code."""

from typing import Any, NamedTuple

import numpy as np


class Choice(NamedTuple):
    """The options of a run, as far as its compiled step depends on them.

    Attributes
    ----------
    dtype, x_dtype, y_dtype : str
        Of the network, and of the rows of the data set, by NumPy's names.
    targets : str
        See `rows.make_load_rows`.
    n_arrays : int
        1 for θ, and those of the optimizer and of the average.
    lane_bytes : int
        See `product_choice`.
    has_messages : bool
        Whether a reduction calls one phase of a step at a time, because sums take messages.
    """

    dtype: str
    activation: str
    output: str
    cost: str
    task: str
    x_dtype: str
    y_dtype: str
    targets: str
    is_shifted: bool
    is_scaled: bool
    has_weights: bool
    has_units: bool
    has_dropout: bool
    optimizer: str
    has_l1: bool
    has_l2: bool
    has_decay: bool
    has_average: bool
    has_clip: bool
    n_arrays: int
    lane_bytes: int
    has_messages: bool

    @property
    def real(self) -> Any:
        """The type of the network's numbers, np.float32 or np.float64."""
        return np.float32 if self.dtype == "float32" else np.float64
