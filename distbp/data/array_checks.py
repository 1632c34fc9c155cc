"""What a caller passes as rows and labels, as NumPy arrays; what cannot be used is refused."""

from typing import Any

import numpy as np

from distbp.errors import DataError


def feature_array(x: Any, name: str) -> np.ndarray:
    """Return rows of numbers as an array: (n, …).

    Raises
    ------
    DataError
        They are no numbers, or not in an array.
    """
    array = _to_array(x, name)
    if array.dtype.kind in "OSUMm":
        raise DataError(
            f"{name} is an array of {_kind(array)}; expected numbers. Convert it with "
            "x.astype(float), or pass a data frame, whose columns of text become categories."
        )
    # Not as uint8, which would be scaled like the bytes of an image.
    return array.view(np.int8) if array.dtype == bool else array


def label_array(y: Any, name: str) -> np.ndarray:
    """Return labels as an array of numbers, booleans or text: (n,) or (n, k).

    Raises
    ------
    DataError
        A label is missing, or they are anything else.
    """
    array = _to_array(y, name)
    if array.dtype.kind != "O":
        return array
    missing = np.array([_is_missing(one) for one in array.ravel().tolist()], bool)
    if missing.any():
        row = int(missing.reshape(len(array), -1).any(axis=1).argmax())
        raise DataError(f"{name}, row {row}: the label is missing. Correct it, or remove the row.")
    kinds = {type(one) for one in array.ravel().tolist()}
    if kinds <= {str} or kinds <= {bool} or kinds <= {int, float}:
        return np.array(array.tolist())
    odd = sorted(kind.__name__ for kind in kinds)
    raise DataError(
        f"{name} is an array of Python objects of the types {', '.join(odd)}; expected text, or "
        "numbers. Convert it with y.astype(str) for classes, y.astype(float) for quantities."
    )


def _is_missing(label: Any) -> bool:
    """Return whether an object is None, NaN, or pandas' NA."""
    is_nan = isinstance(label, float) and np.isnan(label)
    return label is None or is_nan or type(label).__name__ == "NAType"


def _to_array(values: Any, name: str) -> np.ndarray:
    """Return what a caller passed as an array of at least one dimension."""
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise DataError(
            f"{name} is a sparse matrix; expected an array. Convert it with {name[0]}.toarray(), "
            "or reduce its columns first."
        )
    if np.ma.is_masked(values):
        raise DataError(
            f"{name} has masked values. Fill them in with {name[0]}.filled(...), or remove the "
            "rows."
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as failure:
        raise DataError(
            f"{name} is a {type(values).__name__}, not an array: {str(failure).rstrip('.')}."
        ) from None
    if array.ndim < 1:
        raise DataError(f"{name} is a {type(values).__name__}; expected an array of rows.")
    return array


def _kind(array: np.ndarray) -> str:
    """Return what an array holds, for a message."""
    return {"O": "Python objects", "M": "times", "m": "durations"}.get(array.dtype.kind, "text")
