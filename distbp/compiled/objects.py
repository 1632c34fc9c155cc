"""Machine code that is compiled once, kept in a file, and loaded without numba.

numba takes seconds to compile a step, and a while to be imported; loading an object file takes
milliseconds. So the machine code is kept in `$XDG_CACHE_HOME/distbp`, by default ~/.cache/distbp,
under a name that is a digest of all it depends on: source, versions, processor and the choice of
kernels. Where no file can be written everything works as well, but is compiled in each process.

The functions take one argument, the address of a record, and return an integer. They are called
by ctypes, which releases the GIL.
"""

import ctypes
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Function = Callable[[int], int]

# What the object may ask of the process that loads it. numba adds the reporting of exceptions to
# every function; none of these functions raises one, so that is bound to `abort`.
_LIBRARY_FUNCTIONS = frozenset({"sched_yield", "clock_gettime"})
_UNUSED_FUNCTIONS = frozenset({
    "numba_gil_ensure", "numba_gil_release", "numba_unpickle", "numba_do_raise",
    "numba_runtime_build_excinfo_struct", "NRT_MemInfo_call_dtor", "NRT_Free",
})  # fmt: skip
_MAX_FILES = 256  # of about 60 kB

_loaded: dict[str, tuple[Any, Function]] = {}  # by name of the file: (execution engine, function)


def is_available() -> bool:
    """Return whether numba is installed here."""
    return util.find_spec("numba") is not None


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where object files are kept."""
    folder = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(folder, "distbp")


def object_name(choice: str) -> str:
    """Return the name of the file for a choice of kernels."""
    # Slow to import, and not needed by the NumPy engine.
    from importlib import metadata

    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    versions = [metadata.version(name) for name in ("numba", "llvmlite")]
    cpu = [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    digest.update("\n".join([choice, *versions, *cpu]).encode())
    return f"step-{digest.hexdigest()[:32]}.o"


def read_object(name: str) -> bytes | None:
    """Return the content of an object file, or None if there is no valid one."""
    path = cache_folder() / name
    with suppress(OSError):
        # Machine code that somebody else could have written is not executed.
        status = path.stat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022:
            content = path.read_bytes()
            checksum, _, rest = content.partition(b"\n")
            if hashlib.sha256(rest).hexdigest().encode() == checksum:
                return content
    return None


def write_object(name: str, content: bytes) -> None:
    """Keep an object file for later processes; say so if that is not possible."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, folder / name)
            except OSError:
                os.unlink(file.name)
                raise
        _remove_oldest(folder)
    except OSError as error:
        logger.warning(
            "The compiled step cannot be kept in %s (%s): it is compiled at every start. Set "
            "XDG_CACHE_HOME to a folder where files can be written.", folder, error.strerror,
        )  # fmt: skip


def _remove_oldest(folder: Path) -> None:
    """Keep the number of files bounded: those of other versions are not needed any more."""
    files = sorted(folder.glob("step-*.o"), key=lambda path: path.stat().st_mtime)
    for path in files[:-_MAX_FILES]:
        path.unlink(missing_ok=True)


def build_object(function: Any) -> bytes:
    """Return the content of the object file of a numba cfunc.

    Raises
    ------
    RuntimeError
        It uses what only a process with numba has.
    """
    library = function._library
    declared = set(re.findall(r"^declare .*@\"?([\w.]+)", library.get_llvm_str(), re.M))
    unknown = {
        name for name in declared - _LIBRARY_FUNCTIONS - _UNUSED_FUNCTIONS
        if not name.startswith(("llvm.", "Py"))
    }  # fmt: skip
    if unknown:
        raise RuntimeError(f"the compiled step uses {', '.join(sorted(unknown))}")
    rest = function.native_name.encode() + b"\n" + library._get_compiled_object()
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def is_loaded(name: str) -> bool:
    """Return whether this process has loaded an object file."""
    return name in _loaded


def load_object(name: str, content: bytes) -> Function:
    """Return the function in an object file, loaded once in a process."""
    if name not in _loaded:
        _loaded[name] = _load(content)
    return _loaded[name][1]


def _load(content: bytes) -> tuple[Any, Function]:
    import llvmlite.binding as llvm

    _, symbol, code = content.split(b"\n", 2)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for unused in _UNUSED_FUNCTIONS:
        if llvm.address_of_symbol(unused) is None:  # unless numba is there
            llvm.add_symbol(unused, abort)
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=3, jit=True, reloc="default", codemodel="jitdefault"
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol.decode())
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
    return engine, function
