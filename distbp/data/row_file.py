"""Rows of one array of an HDF5 file, read from the file when they are needed.

A `RowFile` reads consecutive rows, of a contiguous array as well as of one in chunks, into
memory that the caller provides. `FileRows` offers as much of it as batches need of an array
in memory. What the rows mean is not known here.
"""

import math
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.errors import DataError
from distbp.parallel import host
from distbp.storage import hdf5_chunks, hdf5_file
from distbp.storage.direct_reader import DirectReader


class RowFile:
    """An open array, whose rows are bytes: (n, bytes of a row) uint8.

    Parameters
    ----------
    path : path of the HDF5 file
    name : str
        Of the array.
    kind, version : str, int
        Format of the file, and its newest version.
    file_id : (int, int), optional
        `hdf5_file.file_id` of the file that is expected.

    Attributes
    ----------
    row_bytes : int
    chunk_rows : int
        Rows that are decoded together; 1 for a contiguous array.

    Raises
    ------
    DataError
        The file cannot be read, or is another one than expected.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        kind: str,
        version: int,
        file_id: tuple[int, int] | None = None,
    ) -> None:
        self._path, self._kind = path, kind
        with ExitStack() as stack:
            file, raw = stack.enter_context(
                hdf5_file.open_unverified(path, kind, version, DataError)
            )
            if file_id not in (None, hdf5_file.file_id(raw)):
                raise DataError(
                    f"{path} was replaced while it was being read. Start again, with a data set "
                    "that stays in its place."
                )
            found = hdf5_chunks.open_array(file, name)
            self._fd = raw.fileno()
            self._files = stack.pop_all()
        self._array, self._row_shape = found, found.shape[1:]
        self.chunk_rows = 1 if isinstance(found, h5py.Dataset) else found.chunk_rows
        self.row_bytes = math.prod(self._row_shape) * found.dtype.itemsize
        # None if the array is in chunks.
        self._offset = found.id.get_offset() if isinstance(found, h5py.Dataset) else None
        # Where it stays in memory, the page cache saves later epochs from reading it again.
        is_large = len(found) * self.row_bytes > host.memory_limit() // 2
        self._direct: DirectReader | None = None
        if is_large and self._offset is not None:
            self._direct = DirectReader(self._fd)
            self._files.callback(self._direct.close)

    def close(self) -> None:
        """Close the file."""
        self._files.close()

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill `out` (m, bytes of a row) with the rows from `start` on.

        Raises
        ------
        DataError
            They cannot be read.
        """
        with hdf5_file.wrap_read_errors(self._path, self._kind, DataError):
            if self._offset is not None:
                self._read_bytes(self._offset + start * self.row_bytes, out.reshape(-1))
            else:
                typed = out.view(self._array.dtype).reshape(len(out), *self._row_shape)
                self._array.read_direct(typed, start)

    def take(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` (m, bytes of a row) with the rows of ascending numbers.

        Raises
        ------
        DataError
            They cannot be read.
        """
        first, height = int(numbers[0]), len(numbers)
        if int(numbers[-1]) - first == height - 1:
            self.read(first, out)
            return
        # Other rows lie between them: read as many at once as fit in the buffer.
        buffer, done = np.empty_like(out), 0
        while done < height:
            first = int(numbers[done])
            stop = int(np.searchsorted(numbers, first + height))
            self.read(first, buffer[: int(numbers[stop - 1]) + 1 - first])
            buffer.take(numbers[done:stop] - first, axis=0, out=out[done:stop], mode="clip")
            done = stop

    def _read_bytes(self, offset: int, rest: np.ndarray) -> None:
        # The system reads at most 2 GiB at once.
        while len(rest):
            if self._direct is not None:
                count = self._direct.read_some(offset, rest)
            else:
                count = os.preadv(self._fd, [rest.data], offset)
            if count == 0:
                raise OSError("it is shorter than when it was opened")
            offset, rest = offset + count, rest[count:]

    def expect(self, start: int, stop: int) -> None:
        """Have the operating system read the rows [start, stop) ahead, as far as it can."""
        if self._direct is not None and self._direct.is_direct:
            return
        if self._offset is not None and hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # a file system need not know it
                os.posix_fadvise(
                    self._fd,
                    self._offset + start * self.row_bytes,
                    (stop - start) * self.row_bytes,
                    os.POSIX_FADV_WILLNEED,
                )


class FileRows:
    """Rows that stay in the file, with the part of an array's interface that batches need.

    Parameters
    ----------
    path, name, kind, version, file_id
        As for `RowFile`; the file is opened when the first rows are taken.
    shape, dtype
        Of the array.

    Attributes
    ----------
    shape : (n, bytes of a row)
    dtype : numpy.dtype
        Of the numbers in a row.
    row_shape : tuple of int
    """

    def __init__(
        self,
        path: Path,
        name: str,
        kind: str,
        version: int,
        file_id: tuple[int, int],
        shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        self._where = path, name, kind, version, file_id
        self._file: RowFile | None = None
        self.dtype, self.row_shape = dtype, shape[1:]
        self.shape = (shape[0], math.prod(shape[1:]) * dtype.itemsize)
        self.nbytes = math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def open(self) -> RowFile:
        """Return the array, opened once more, as for another thread."""
        return RowFile(*self._where)

    def take(
        self, numbers: np.ndarray, axis: int, out: np.ndarray | None = None, mode: Any = "clip"
    ) -> np.ndarray:
        """Return the rows `numbers`, in ascending order, as `numpy.ndarray.take` does."""
        del axis, mode  # the same in all calls; the signature is that of an array
        if out is None:
            out = np.empty((len(numbers), self.shape[1]), np.uint8)
        if self._file is None:
            self._file = self.open()
        self._file.take(numbers, out)
        return out
