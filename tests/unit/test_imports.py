"""The directions of imports, and constructs that are not allowed: checked on syntax trees."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distbp

FOLDER = Path(distbp.__file__).parent
# A package imports only packages before it, and of those the ones named here; the modules
# of each stand in their order of reading, and import only those before them.
PACKAGES = {
    "": set(),
    "network": {""},
    "parallel": {"", "network"},
    "compiled": {"", "network", "parallel"},
    "storage": {"", "network"},
    "data": {"", "network", "parallel", "storage"},
    "interop": {"", "network", "parallel", "storage", "data"},
    "training": {"", "network", "parallel", "compiled", "storage", "data", "interop"},
    "sklearn": {"", "network", "parallel", "storage", "data", "training"},
    "launch": {"", "network", "parallel", "storage", "data", "training"},
    "report": {"", "parallel", "storage", "data", "training"},
    "doctor": {"", "network", "parallel", "storage", "training", "launch"},
    "cli": {
        "",
        "network",
        "parallel",
        "storage",
        "data",
        "interop",
        "training",
        "launch",
        "report",
        "doctor",
    },
}
MODULES = {
    "": ["version", "errors", "kernels", "own_parts", "options", "terminal", "console"],
    "network": [
        "activations", "costs", "rng", "parameters", "matmul", "network", "dropout",
        "optimizers", "parameter_store", "update", "schedules",
    ],
    "parallel": [
        "shards", "cgroup", "host", "environment", "mpi", "comm", "shared_memory", "barrier",
        "topology", "rank_errors", "shared_array", "step_totals", "reduction_plan",
        "exchange_order", "internode", "overlap", "reduction", "reduction_factory", "watchdog",
    ],
    "compiled": [
        "blas", "step_constants", "arrays", "product_choice", "choice", "descriptor", "objects",
        "intrinsics", "atomics", "vector_math", "activations", "costs", "dot_products", "products",
        "rows", "dropout", "backprop", "update", "views", "spans", "batch_gradient",
        "slice_update", "step",
    ],
    "storage": [
        "checksum", "hdf5_checks", "hdf5_filters", "hdf5_chunks", "hdf5_strings", "atomic",
        "hdf5_file", "lock", "direct_reader", "scaling", "preprocessing", "checkpoint",
        "run_directory", "background_writer",
    ],
    "data": [
        "row_file", "weights", "dataset", "batches", "shuffle", "streaming", "table_options",
        "row_options", "table_columns", "csv_dialect", "table_input", "table_base", "csv_lines",
        "csv_chunks", "csv_reader", "arrow_reader", "json_reader", "table_reader", "spool",
        "profile", "tables", "table_encoder", "table_roles", "table_source", "splits",
        "hdf5_writers", "hdf5_source", "sources", "labels", "background_calls", "dataset_writer",
        "importing", "array_checks", "frames", "arrays", "model_table", "table_writer",
    ],
    "interop": [
        "untrusted", "dense_model", "interop_options", "conversion", "model_arrays", "npz_file",
        "safetensors_file", "state_dict", "keras_config", "keras_file", "layer_steps", "onnx_graph",
        "onnx_writer", "onnx_tensors", "onnx_reader", "sklearn_model", "model_export",
        "model_import",
    ],
    "training": [
        "folds", "config", "defaults", "config_file", "accuracy", "timing", "gradient", "engine",
        "step_binding", "compiled_update", "compiled_engine", "sdc_check", "inputs",
        "class_counts", "score_counts", "metrics", "metric_names", "measurement",
        "variation", "evaluation", "prediction", "row_sources", "table_prediction",
        "row_weights", "state", "rates", "holdout", "monitor", "search_space",
        "run_records", "run_summary", "recorded_run", "array_difference", "run_difference",
        "difference_reason", "ensemble", "model", "imported_model", "callbacks", "trackers",
        "messages",
        "stop_request", "checkpoint_schedule", "checkpoint_writer", "metrics_file",
        "event_log", "tensorboard_file", "status_file", "run_follower", "part_checks", "recorder",
        "run_checks", "setup", "profile_trace", "profiling", "recovery", "loop", "array_fit",
        "gradient_check", "step_trace",
    ],
    "sklearn": ["parameters", "convergence", "fitting", "base", "estimators"],
    "launch": [
        "processes", "mpiexec", "supervisor", "slurm", "sweep", "optuna_study", "measuring",
        "step_timing", "checkpoint_cost", "planner", "verification",
    ],
    "doctor": [
        "finding", "facts", "software_probe", "host_probe", "storage_probe", "speed_probe",
        "probe", "probing", "software_checks", "host_checks", "storage_checks", "speed_checks",
        "rank_checks", "examination", "table",
    ],
    "report": [
        "reported_run", "curves", "findings", "palette", "pictures", "plots", "figures", "wording",
        "elements", "learning_contents", "prediction_contents", "run_contents", "contents", "page",
    ],
    "cli": [
        "parser", "rank_options", "describe", "train_command", "charts", "watch_view",
        "watch_command", "trial_table", "sweep_command", "score_table", "model_commands",
        "export_command", "report_command", "import_model_command", "diff_command",
        "doctor_command", "verify_command", "completion_command", "commands", "kernel_selection",
        "main",
    ],
}  # fmt: skip
ORDER = [".".join(filter(None, (p, m))) for p, modules in MODULES.items() for m in modules]
TREES = {
    ".".join(path.relative_to(FOLDER).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
    for path in FOLDER.rglob("*.py")
}


def package(name):
    """Return the package that a module is in; '' for the root."""
    return name.rpartition(".")[0]


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


def modules_imported(name):
    """Return the modules of distbp that a module imports; a name in a module counts as it."""
    found = set()
    for target in imported(TREES[name]):
        top, _, rest = target.partition(".")
        if top == "distbp":
            found |= {rest, rest.rpartition(".")[0]} & set(ORDER)
    return found


def test_every_module_is_listed():
    """A new file has to be added to MODULES, in its order of reading."""
    others = {name for name in TREES if name.endswith(("__init__", "__main__"))}
    assert sorted(ORDER) == sorted(set(TREES) - others)
    assert {package(name) for name in others} == set(PACKAGES)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_those_before_it(name):
    """Also inside functions, and for type annotations only."""
    for module in modules_imported(name):
        assert package(module) in PACKAGES[package(name)] | {package(name)}, module
        assert ORDER.index(module) < ORDER.index(name), module


def test_an_import_in_the_wrong_direction_is_found(monkeypatch):
    tree = ast.parse("def f():\n    from distbp.cli import main\n    import distbp.errors")
    monkeypatch.setitem(TREES, "errors", tree)
    assert modules_imported("errors") == {"cli.main", "errors"}


def test_one_file_knows_mpi():
    """No other file imports mpi4py."""
    using = {n for n, t in TREES.items() if any(m.startswith("mpi4py") for m in imported(t))}
    assert using == {"parallel.mpi"}


def test_the_checks_find_what_they_look_for():
    """In a file that does everything that is forbidden."""
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
def test_constructs_that_are_not_allowed(name):
    """No assert, pickle, eval or bare except; only the command line prints and exits."""
    tree = TREES[name]
    assert ast.Assert not in kinds(tree)
    assert not is_bare(tree)
    assert not any(m.split(".")[0] in ("pickle", "dill", "marshal") for m in imported(tree))
    assert not calls(tree) & {"eval", "exec"}
    if package(name) != "cli":
        assert not calls(tree) & {"print", "sys.exit", "exit", "quit"}
        assert "SystemExit" not in {ast.unparse(n.exc) for n in ast.walk(tree)
                                    if isinstance(n, ast.Raise) and n.exc}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_files_are_short_and_introduced(name):
    """Every file has a docstring and at most 450 lines."""
    assert ast.get_docstring(TREES[name])
    path = FOLDER / f"{name.replace('.', '/')}.py"
    assert len(path.read_text("utf-8").splitlines()) <= 450


@pytest.mark.parametrize("name", PACKAGES)
def test_the_page_of_a_package_lists_its_modules(name):
    """`python -m pydoc distbp.NAME` leads to every file."""
    page = ast.get_docstring(TREES[f"{name}.__init__".lstrip(".")])
    assert [one for one in MODULES[name] if not re.search(rf"\b{one}\b", page)] == []


def in_a_new_process(code):
    """Return what Python prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_importing_distbp_loads_nothing():
    """None of its modules, nor NumPy, HDF5 or MPI."""
    names = in_a_new_process("import distbp, sys; print(*sys.modules)")
    found = {name for name in names if name.startswith("distbp")}
    assert found == {"distbp", "distbp.version"}
    assert not {"numpy", "h5py", "mpi4py", "mpi4py.MPI"} & set(names)


def test_modules_of_a_run_start_no_mpi():
    """Nor does the parser of the command line: MPI starts when the ranks connect."""
    names = in_a_new_process(
        "import distbp.training.loop, distbp.cli.main, sys; "
        "distbp.cli.main.parse_command_line(['train', 'd.h5', '--out', 'run']); "
        "print(*sys.modules)"
    )
    assert "distbp.training.loop" in names
    assert "mpi4py.MPI" not in names


def test_a_configuration_loads_no_communicator():
    """It lists the names of the reductions; neither does `distbp train --help` need them."""
    names = in_a_new_process("import distbp.training.config, sys; print(*sys.modules)")
    assert not {"distbp.parallel.comm", "distbp.parallel.reduction", "mpi4py"} & set(names)
    names = in_a_new_process(
        "import contextlib, io, sys\nfrom distbp.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['train', '--help'])\nprint(*sys.modules)"
    )
    assert "distbp.training.config" in names
    assert not {"distbp.parallel.comm", "distbp.parallel.reduction", "mpi4py"} & set(names)


@pytest.mark.parametrize("name", distbp.__all__)
def test_public_names_stay_what_they_are(name):
    """`distbp.NAME` is the same object before and after its module was imported."""
    place = distbp._MODULES[name]
    found = in_a_new_process(
        f"import distbp; first = distbp.{name}; import distbp.{place}; "
        f"print(callable(distbp.{name}), distbp.{name} is first)"
    )
    assert found == ["True", "True"]
    found = in_a_new_process(f"import distbp.{place}; print(callable(distbp.{name}))")
    assert found == ["True"]


def test_names_that_do_not_exist():
    """AttributeError, as from any module."""
    with pytest.raises(AttributeError, match="module 'distbp' has no attribute 'layers'"):
        distbp.layers  # noqa: B018


# What a library must leave alone in the process that imports it. NumPy and h5py are loaded
# before the first look: what they do themselves is not distbp's.
STATE_OF_THE_PROCESS = """
import importlib, json, logging, os, signal, sys, threading, warnings
import h5py, numpy, threadpoolctl

def state():
    pool = sorted((i["filepath"], i["num_threads"]) for i in threadpoolctl.threadpool_info())
    handlers = {n: str(signal.getsignal(n)) for n in signal.valid_signals()}
    plugins = [str(h5py.h5pl.get(i)) for i in range(h5py.h5pl.size())]
    hooks = [sys.excepthook, sys.stdout, sys.stderr, threading.excepthook, warnings.showwarning]
    loggers = logging.getLogger("distbp")
    return json.dumps([dict(os.environ), pool, handlers, plugins, list(map(str, hooks)),
        list(map(str, warnings.filters)), loggers.handlers, loggers.level, numpy.geterr()])

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(before == state(), h5py.h5pl.size(), len(sys.argv) - 1)
"""


def test_importing_changes_nothing_in_the_host_process():
    """No environment variable, thread count, plugin path, signal handler or hook."""
    # The estimators import scikit-learn, which sets environment variables.
    modules = [f"distbp.{n}" for n in ORDER if n not in ("sklearn.base", "sklearn.estimators")]
    command = [sys.executable, "-c", STATE_OF_THE_PROCESS, "distbp", *modules]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    unchanged, plugin_paths, count = run.stdout.split()
    assert unchanged == "True"
    assert int(plugin_paths) > 0  # or there would be nothing to change
    assert int(count) == len(modules) + 1
