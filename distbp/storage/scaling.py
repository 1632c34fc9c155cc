"""The scaling of a network's input and of its targets, as data sets and checkpoints store it.

How it is chosen is known to `distbp.data.importing`; it is applied by `BatchLoader`.
"""

import h5py
import numpy as np

from distbp.storage import hdf5_checks, hdf5_chunks, hdf5_file

TARGET_NAMES = ("target/shift", "target/scale")


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
        names = ("scaling/shift", "scaling/scale")
        return cls(*(_read_finite(file, name, ((1,), (n_in,))) for name in names))

    def write(self, group: h5py.Group) -> None:
        """Store `scaling/shift` and `scaling/scale` in `group`."""
        hdf5_file.write_array(group, "scaling/shift", self.shift)
        hdf5_file.write_array(group, "scaling/scale", self.scale)


class TargetScaling:
    """Shift and scale of the targets of a regression: its network learns (y - shift) * scale.

    Parameters
    ----------
    shift, scale : (n_L,) float64
        `scale` is positive.
    """

    def __init__(self, shift: np.ndarray, scale: np.ndarray) -> None:
        self.shift = shift
        self.scale = scale

    @property
    def units(self) -> np.ndarray:
        """What 1 of each of the network's outputs is in the user's units: (n_L,) float64."""
        return np.asarray(1.0 / self.scale)

    @property
    def has_several_units(self) -> bool:
        """Whether the outputs differ in their units."""
        return bool((self.scale != self.scale[0]).any())

    def to_user_units(self, output: np.ndarray) -> np.ndarray:
        """Return what outputs (m, n_L) of the network are in the user's units, as float64."""
        # Not in float32, which cannot represent some numbers exactly, such as times since 1970.
        return np.asarray(output.astype(np.float64) / self.scale + self.shift)

    @classmethod
    def read_if_any(cls, file: h5py.File, n_out: int) -> "TargetScaling | None":
        """Return what `write` has stored, for `n_out` targets; None if there is none.

        Raises
        ------
        ValueError
            It is not finite, not one number per target, or cannot be undone.
        """
        if not hdf5_checks.has_object(file, "target"):
            return None
        shift, scale = (_read_finite(file, name, ((n_out,),)) for name in TARGET_NAMES)
        # Costs are multiplied by the squares of the units.
        with np.errstate(over="ignore", divide="ignore"):
            is_valid = (scale > 0) & np.isfinite(np.square(1.0 / scale))
        if not is_valid.all():
            raise ValueError("target/scale has a value that is not positive, or too small")
        return cls(shift, scale)

    def write(self, group: h5py.Group) -> None:
        """Store `target/shift` and `target/scale` in `group`."""
        for name, array in zip(TARGET_NAMES, (self.shift, self.scale), strict=True):
            hdf5_file.write_array(group, name, array)


def _read_finite(file: h5py.File, path: str, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Return float64 numbers that are finite, of one of the shapes."""
    found = hdf5_chunks.open_array(file, path)
    # Checked before reading: a huge shape would allocate as much memory.
    if found.shape not in shapes or found.dtype != np.float64:
        raise ValueError(
            f"{path} is {found.dtype} {found.shape}; expected float64 "
            f"{' or '.join(map(str, shapes))}"
        )
    numbers: np.ndarray = found[:]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path} has a value that is not a finite number")
    return numbers
