"""Conventions of the programs that write HDF5, and what to do where they are not supported.

pandas, PyTables, MATLAB, Keras and the netCDF libraries all write HDF5, with conventions of
their own in attributes. Numbers that would be misread by ignoring a convention are refused
(`check_conventions`), and so is a file of weights (`check_no_model`). `remedy` says, for an
object that is not a plain array, what it is and how to get one.
"""

import io
import os
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t

from distbp.storage import hdf5_checks

_MATLAB_SIGNATURE = b"MATLAB 7.3 MAT-file"
_MATLAB_NUMBERS = frozenset(
    {"double", "single", "logical", "char"}
    | {f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}
)


def is_matlab(raw: io.FileIO) -> bool:
    """Return whether MATLAB has written the file, with `save -v7.3`."""
    return os.pread(raw.fileno(), len(_MATLAB_SIGNATURE), 0) == _MATLAB_SIGNATURE


def check_no_older_format(raw: io.FileIO) -> None:
    """Raise ValueError if it is a MATLAB or netCDF file of a format older than HDF5."""
    start = os.pread(raw.fileno(), 10, 0)
    if start == b"MATLAB 5.0":
        raise ValueError(
            "it is a MATLAB file of an older format: store it with save(…, '-v7.3'), or with "
            "scipy.io.loadmat and numpy.savez"
        )
    if start[:3] == b"CDF":
        raise ValueError(
            "it is a netCDF file of the classic format: convert it, for example by "
            "`nccopy -k netCDF-4 OLD.nc NEW.nc`"
        )


def check_no_model(file: h5py.File) -> None:
    """Raise ValueError if the file holds the weights of a Keras model."""
    # By the groups of Keras 2 and 3, as not all of its files have the attribute.
    has_groups = [
        name for name in ("model_weights", "_layer_checkpoint_dependencies", "layers", "vars")
        if file.id.links.exists(name.encode())
    ]  # fmt: skip
    if "keras_version" in file.attrs or has_groups[:1] in (
        ["model_weights"], ["_layer_checkpoint_dependencies"],
    ) or has_groups == ["layers", "vars"]:  # fmt: skip
        raise ValueError(
            "it holds the weights of a Keras model, not a data set. Import the arrays that the "
            "model was trained on, for example saved with numpy.savez"
        )


def matlab_class(dataset: h5py.HLObject) -> str | None:
    """Return the class that MATLAB gave an array; None if it did not write it."""
    return hdf5_checks.read_text_attribute(dataset, "MATLAB_class")


def check_conventions(dataset: h5py.Dataset) -> None:
    """Raise ValueError if the numbers mean something else, or are no numbers at all."""
    kind = matlab_class(dataset)
    if kind is not None and kind not in _MATLAB_NUMBERS:
        raise ValueError(
            f"it is of MATLAB's class {kind!r}, which only MATLAB can decode: store text with "
            "char(…), categories with double(…)"
        )
    if "MATLAB_empty" in dataset.attrs:
        raise ValueError("it is an empty array of MATLAB")
    for name in ("scale_factor", "add_offset"):
        if name in dataset.attrs:
            raise ValueError(
                f"its numbers are packed with netCDF's attribute {name!r}: store them unpacked, "
                "for example with xarray.load_dataset(FILE).drop_encoding().to_netcdf(NEW)"
            )


def fill_value(dataset: h5py.Dataset) -> Any:
    """Return the number that means "missing" by netCDF's convention; None if there is none."""
    # Without the attribute, netCDF's default is stored as HDF5's own fill value.
    found = hdf5_checks.read_number_attribute(dataset, "_FillValue")
    if found is None and "_NCProperties" in dataset.file.attrs and _has_default_fill(dataset):
        found = dataset.fillvalue
    return None if found is None or np.isnan(found) else found


def _has_default_fill(dataset: h5py.Dataset) -> bool:
    """Return whether netCDF fills a variable without `_FillValue`; bytes may have any value."""
    is_number = dataset.dtype.kind in "iuf" and dataset.dtype.itemsize > 1
    defined = dataset.id.get_create_plist().fill_value_defined()
    return is_number and defined == h5d.FILL_VALUE_USER_DEFINED


def remedy(file: h5py.File, path: str) -> str:
    """Return what to do about an object that is no plain array, as a sentence or two, or ""."""
    found = hdf5_checks.find_object(file, path)
    if isinstance(found, h5py.Dataset):
        parent = path.rpartition("/")[0]
        return _pandas_remedy(file, parent) or _dataset_remedy(found)
    if isinstance(found, h5py.Group):
        return _pandas_remedy(file, path) or _group_remedy(found)
    return ""


def _pandas_remedy(file: h5py.File, path: str) -> str:
    """Return the remedy for a group that pandas.DataFrame.to_hdf has written, or ""."""
    group = hdf5_checks.find_object(file, path)
    kind = hdf5_checks.read_text_attribute(group, "pandas_type")
    if kind is None:
        return ""
    names = set(hdf5_checks.list_children(group, 100))
    blocks = sorted(name for name in names if name.endswith("_values") or name == "values")
    plain = f"Its numbers are in {', '.join(f'{path}/{name}' for name in blocks[:4])}. " * bool(
        blocks
    )
    return (
        f"{path} was written by pandas.to_hdf ({kind}). {plain}All columns can be imported "
        f"from a table: pandas.read_hdf(FILE, {path!r}).to_csv('table.csv', index=False)."
    )


def _dataset_remedy(dataset: h5py.Dataset) -> str:
    kind = dataset.id.get_type().get_class()
    if kind == h5t.COMPOUND and hdf5_checks.read_text_attribute(dataset, "CLASS") == "TABLE":
        return (
            "It is a table of PyTables. Import it as CSV: "
            "pandas.DataFrame.from_records(table.read()).to_csv('table.csv', index=False)."
        )
    if kind == h5t.COMPOUND:
        return (
            "Store its columns as one array, for example with "
            "numpy.lib.recfunctions.structured_to_unstructured."
        )
    if kind == h5t.REFERENCE and matlab_class(dataset) == "cell":
        return "It is a cell array of MATLAB: store text with char(…), numbers with cell2mat(…)."
    if kind == h5t.VLEN:
        return "Store rows of equal length, padded if need be."
    return ""


def _group_remedy(group: h5py.Group) -> str:
    if "MATLAB_sparse" in group.attrs:
        return "It is a sparse matrix of MATLAB: store full(…) of it."
    return ""
