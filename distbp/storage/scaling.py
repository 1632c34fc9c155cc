"""The scaling of a network's input, as data sets and checkpoints store it.

How it is chosen is known to `distbp.data.importing`; it is applied by `BatchLoader`.
"""

import h5py
import numpy as np

from distbp.storage import hdf5_chunks, hdf5_file


class Scaling:
    """Shift and scale of a network's input, which is (x - shift) * scale.

    Parameters
    ----------
    shift, scale : (1,) or (n_0,) float64
    """

    def __init__(self, shift: np.ndarray, scale: np.ndarray) -> None:
        self.shift = shift
        self.scale = scale

    @classmethod
    def read(cls, file: h5py.File, n_in: int) -> "Scaling":
        """Return what `write` has stored, for rows of `n_in` numbers.

        Raises
        ------
        ValueError
            It is not finite, or neither one number nor one per column.
        """
        return cls(*(_read_finite(file, f"scaling/{name}", n_in) for name in ("shift", "scale")))

    def write(self, group: h5py.Group) -> None:
        """Store `scaling/shift` and `scaling/scale` in `group`."""
        hdf5_file.write_array(group, "scaling/shift", self.shift)
        hdf5_file.write_array(group, "scaling/scale", self.scale)


def _read_finite(file: h5py.File, path: str, n_in: int) -> np.ndarray:
    """Return float64 numbers that are finite: (1,) or (n_in,)."""
    found = hdf5_chunks.open_array(file, path)
    # Checked before reading: a huge shape would allocate as much memory.
    if found.shape not in ((1,), (n_in,)) or found.dtype != np.float64:
        raise ValueError(
            f"{path} is {found.dtype} {found.shape}; expected float64 (1,) or ({n_in},)"
        )
    numbers: np.ndarray = found[:]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path} has a value that is not a finite number")
    return numbers
