"""Batches: rows of a split as the arrays that backprop takes.

A `BatchLoader` gathers rows by number, scales x and the targets of a regression, and turns
labels into one-hot targets, in buffers allocated once. Which rows make up a batch is up to
`distbp.training`.
"""

from types import SimpleNamespace

import numpy as np

from distbp.data.dataset import Split
from distbp.storage.scaling import Scaling, TargetScaling


class BatchLoader:
    """Loads rows of a split into buffers of its own, which are allocated here.

    Parameters
    ----------
    split : Split
    scaling : Scaling
        That of the model, which may differ from the one in the data set.
    n_classes : int
        0 for regression and multilabel.
    rows : int
        Rows of the largest batch.
    dtype : float32 or float64
        Type of the network.
    target : TargetScaling, optional
        That of the model.
    label_smoothing : float
        ε: the targets of classes become (1 − ε) y + ε/k for k classes, in training (Szegedy et
        al., CVPR 2016, section 7).
    weights : (n,) float64 array, optional
        Of the rows of the file that `split` is from.
    """

    def __init__(
        self,
        split: Split,
        scaling: Scaling,
        n_classes: int,
        rows: int,
        dtype: np.dtype,
        target: TargetScaling | None = None,
        label_smoothing: float = 0.0,
        weights: np.ndarray | None = None,
    ) -> None:
        self.split, self.weights = split, weights
        if weights is not None:
            self._own_weights = np.empty(rows)
            self._repeated_weights = np.empty((rows, n_classes or split.n_out), dtype)
        # Scaled before rounding to `dtype`, which cannot represent some numbers exactly,
        # such as times in seconds since 1970.
        wide = np.result_type(split.x_dtype, dtype)
        self.is_shifted = bool(scaling.shift.any())
        self.is_scaled = bool((scaling.scale != 1).any())
        self._shift = _repeat_rows(scaling.shift.astype(wide), rows)
        self._scale = _repeat_rows(scaling.scale.astype(wide), rows)
        self.one_hot = None
        if n_classes:
            smooth = (1.0 - label_smoothing) * np.eye(n_classes) + label_smoothing / n_classes
            self.one_hot = smooth.astype(dtype)
        self._raw_x = np.empty((rows, split.x.shape[1]), np.uint8)
        self._raw_y = np.empty((rows, split.y.shape[1]), np.uint8)
        self._x = np.empty((rows, split.n_in), dtype)
        self._wide = self._x if wide == dtype else np.empty((rows, split.n_in), wide)
        self._y = np.empty((rows, n_classes or split.n_out), dtype)
        self.has_scaled_targets = target is not None
        if target is not None:
            self._y_shift = _repeat_rows(target.shift, rows)
            self._y_scale = _repeat_rows(target.scale, rows)
            self._wide_y = np.empty((rows, split.n_out))  # scaled before rounding, as x is
        self._labels = np.zeros(rows, np.intp)
        self._views: dict[int, SimpleNamespace] = {}

    def load(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x (m, n_0), y (m, n_L) and labels (m,) of the rows `numbers` (m,).

        They are buffers of this loader, valid until the next call.
        """
        views = self._views.get(len(numbers)) or self._make_views(len(numbers))
        # Row numbers are in range; mode="clip" is the only one that needs no buffer.
        self.split.x.take(numbers, axis=0, out=views.raw_x, mode="clip")
        self.split.y.take(numbers, axis=0, out=views.raw_y, mode="clip")
        np.copyto(views.wide, views.typed_x)
        if self.is_shifted:
            np.subtract(views.wide, views.shift, out=views.wide)
        if self.is_scaled:
            np.multiply(views.wide, views.scale, out=views.wide)
        if views.wide is not views.x:
            np.copyto(views.x, views.wide, casting="same_kind")
        if self.has_scaled_targets:
            np.copyto(views.wide_y, views.typed_y)
            np.subtract(views.wide_y, views.y_shift, out=views.wide_y)
            np.multiply(views.wide_y, views.y_scale, out=views.wide_y)
            np.copyto(views.y, views.wide_y, casting="same_kind")
        elif self.one_hot is None:
            np.copyto(views.y, views.typed_y, casting="unsafe")
        else:
            np.copyto(views.labels, views.typed_y, casting="unsafe")
            self.one_hot.take(views.labels, axis=0, out=views.y, mode="clip")
        return views.x, views.y, views.labels

    def load_weights(self, numbers: np.ndarray) -> np.ndarray | None:
        """Return the weights of the rows `numbers`, each repeated for all outputs: (m, n_L).

        None without weights.
        """
        if self.weights is None:
            return None
        own, repeated = self._own_weights[: len(numbers)], self._repeated_weights[: len(numbers)]
        self.weights.take(self.split.file_rows(numbers), out=own, mode="clip")
        np.copyto(repeated, own[:, np.newaxis], casting="same_kind")
        return repeated

    def _make_views(self, m: int) -> SimpleNamespace:
        raw_x, raw_y = self._raw_x[:m], self._raw_y[:m]
        typed_y = raw_y.view(self.split.y_dtype)  # (m, n_L), or (m, 1) for labels
        x = self._x[:m]
        self._views[m] = SimpleNamespace(
            raw_x=raw_x,
            raw_y=raw_y,
            typed_x=raw_x.view(self.split.x_dtype),  # (m, n_0)
            typed_y=typed_y if self.one_hot is None else typed_y[:, 0],
            x=x,
            shift=self._shift[:m],
            scale=self._scale[:m],
            wide=x if self._wide is self._x else self._wide[:m],
            y=self._y[:m],
            labels=self._labels[:m],
        )
        if self.has_scaled_targets:
            self._views[m].wide_y = self._wide_y[:m]
            self._views[m].y_shift, self._views[m].y_scale = self._y_shift[:m], self._y_scale[:m]
        return self._views[m]


def _repeat_rows(vector: np.ndarray, rows: int) -> np.ndarray:
    """Return a vector as `rows` equal rows, because NumPy allocates memory to broadcast one.

    A single number is returned as it is.
    """
    return vector if vector.size == 1 else np.tile(vector, (rows, 1))
