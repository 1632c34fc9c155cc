"""Options of `predict` and `evaluate` about new rows, besides `TableOptions`."""

from dataclasses import dataclass

from distbp.options import option


@dataclass(frozen=True)
class RowOptions:
    """How the rows of a file are taken; None: not given.

    Attributes
    ----------
    unknown : {"error", "ignore"}
        What to do with a category that the model does not know.
    x : str, optional
        Name of an array of rows in an HDF5 or .npz file that is not a data set.
    """

    unknown: str = option(
        "error", "a category that the model does not know: refuse it, or set its inputs to 0",
        group="new rows", choices=("error", "ignore"), is_common=True,
    )  # fmt: skip
    x: str | None = option(
        None, "array with the rows, in an HDF5 or .npz file that is not a data set",
        group="new rows", metavar="NAME",
        default_text="HDF5: a data set is expected; .npz: x, or the only one",
    )  # fmt: skip
