"""Calls of kernels from Python, which the package itself does not make."""

import numba


def python_function(kernel):
    """Return a function that calls a kernel; those of the package have no wrapper for that."""
    wrappers = ("no_cpython_wrapper", "no_cfunc_wrapper")
    options = {name: kernel.targetoptions[name] for name in kernel.targetoptions.keys() - wrappers}
    return numba.jit(**options)(kernel.py_func)
