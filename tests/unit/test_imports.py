"""The order of reading, and what the code never does: checked on its syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import distbp

FOLDER = Path(distbp.__file__).parent
# Each file imports only files above it: who starts at the top never has to look ahead.
ORDER = [
    "errors", "processes", "tether",
    "philox", "functions", "products", "network", "optimizers", "schedules", "shards",
    "seal", "gate", "packed", "hdf5", "locking", "data", "machine", "memory", "launched", "comm",
    "exchange", "combine", "gradient", "checking", "display", "checkpoint", "saving", "config",
    "evaluate", "progress", "journal", "parts", "place", "notices", "stopping", "timing", "watch",
    "train", "tables", "csvfile", "sources", "labels", "importing", "info", "launch", "supervise",
    "plan", "options", "slurm", "verbs", "cli", "__main__",
]  # fmt: skip
TREES = {path.stem: ast.parse(path.read_text("utf-8")) for path in FOLDER.glob("*.py")}


def imported(tree):
    """Return the names of all modules that a file imports, at its top or in a function."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def calls(tree):
    """Return what a file calls, as it is written."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def kinds(tree):
    return {type(node) for node in ast.walk(tree)}


def test_every_file_has_its_place():
    """A new file is put where it is to be read."""
    assert sorted(ORDER) == sorted(set(TREES) - {"__init__"})


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    """Also inside functions, where an import only comes later, not from elsewhere."""
    for module in imported(TREES[name]):
        package, *rest = module.split(".")
        if package == "distbp" and rest[0] in TREES:
            assert ORDER.index(rest[0]) < ORDER.index(name), module


def test_one_file_knows_mpi():
    """The network never sees a communicator."""
    using = {n for n, t in TREES.items() if any(m.startswith("mpi4py") for m in imported(t))}
    assert using == {"comm"}


def test_the_checks_see_what_they_look_for():
    """On a file that does all that is forbidden, all of it is found."""
    tree = ast.parse(
        "from distbp.cli import main\nimport pickle, sys\n"
        "try:\n    assert main\nexcept:\n    sys.exit(pickle.loads(b''))"
    )
    assert imported(tree) == {"distbp.cli.main", "pickle", "sys"}
    assert calls(tree) == {"sys.exit", "pickle.loads"}
    assert ast.Assert in kinds(tree)
    assert is_bare(tree)


def is_bare(tree):
    return any(isinstance(n, ast.ExceptHandler) and n.type is None for n in ast.walk(tree))


@pytest.mark.parametrize("name", TREES)
def test_what_no_file_does(name):
    """No assert on what a user can cause, no pickle, no bare except, no print but by the verbs."""
    tree = TREES[name]
    assert ast.Assert not in kinds(tree)
    assert not is_bare(tree)
    assert not any(m.split(".")[0] in ("pickle", "dill", "marshal") for m in imported(tree))
    assert not calls(tree) & {"eval", "exec"}
    if name not in ("verbs", "cli"):
        assert not calls(tree) & {"print", "sys.exit", "exit", "quit"}
        assert "SystemExit" not in {ast.unparse(n.exc) for n in ast.walk(tree)
                                    if isinstance(n, ast.Raise) and n.exc}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_files_are_read_in_one_sitting(name):
    """Every file opens with a paragraph, and none is longer than a reader's patience."""
    assert ast.get_docstring(TREES[name]) or name == "__main__"
    assert len((FOLDER / f"{name}.py").read_text("utf-8").splitlines()) <= 450


def in_a_new_process(code):
    """Return what Python prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_importing_distbp_is_nothing():
    """It loads none of its own files, nor NumPy, HDF5 or MPI."""
    names = in_a_new_process("import distbp, sys; print(*sys.modules)")
    assert [name for name in names if name.startswith("distbp")] == ["distbp"]
    assert not {"numpy", "h5py", "mpi4py", "mpi4py.MPI"} & set(names)


def test_help_starts_no_mpi():
    """Neither do the modules of a run, until it connects its ranks."""
    names = in_a_new_process(
        "import distbp.train, distbp.cli, sys; distbp.cli.make_parser(); print(*sys.modules)"
    )
    assert "distbp.train" in names
    assert "mpi4py.MPI" not in names


@pytest.mark.parametrize("name", distbp.__all__)
def test_public_names_stay_what_they_are(name):
    """`distbp.NAME` is the same thing before and after the file that holds it was loaded."""
    place = distbp._PLACES[name]
    found = in_a_new_process(
        f"import distbp; first = distbp.{name}; import distbp.{place}; "
        f"print(callable(distbp.{name}), distbp.{name} is first)"
    )
    assert found == ["True", "True"]
    found = in_a_new_process(f"import distbp.{place}; print(callable(distbp.{name}))")
    assert found == ["True"]


def test_names_that_are_not_there():
    """Others are refused as by any module."""
    with pytest.raises(AttributeError, match="module 'distbp' has no attribute 'layers'"):
        distbp.layers  # noqa: B018
