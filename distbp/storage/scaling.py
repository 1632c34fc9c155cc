"""The scaling of a network's input."""

import h5py
import numpy as np

from distbp.storage import hdf5_chunks, hdf5_file


class Scaling:
    """What a network's input is made of: (x - shift) * scale, float64, (1,) or (n_0,)."""

    def __init__(self, shift: np.ndarray, scale: np.ndarray) -> None:
        self.shift = shift
        self.scale = scale

    @classmethod
    def read(cls, file: h5py.File, n_in: int) -> "Scaling":
        """Return what `write` has stored, for rows of `n_in` numbers.

        Raises
        ------
        ValueError
            It is not finite, or is neither one number nor one a column.
        """
        return cls(*(read_numbers(file, f"scaling/{name}", n_in) for name in ("shift", "scale")))

    def write(self, group: h5py.Group) -> None:
        hdf5_file.write_array(group, "scaling/shift", self.shift)
        hdf5_file.write_array(group, "scaling/scale", self.scale)


def read_numbers(file: h5py.File, path: str, n_in: int) -> np.ndarray:
    """Return finite numbers, float64: one, or one for each of `n_in` columns."""
    found = hdf5_chunks.array(file, path)
    if found.shape not in ((1,), (n_in,)) or found.dtype != np.float64:
        raise ValueError(
            f"{path} is {found.dtype} {found.shape}; expected float64 (1,) or ({n_in},)"
        )
    numbers: np.ndarray = found[:]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path} has a value that is not a finite number")
    return numbers
