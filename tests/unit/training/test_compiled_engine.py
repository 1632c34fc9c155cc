"""The compiled engine: the numbers of NumPy's, the same bits however steps are made."""

import ctypes
import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import samples
import threadpoolctl
from samples import RECIPES

from distbp.compiled import objects
from distbp.errors import ConfigError
from distbp.network.activations import Relu
from distbp.parallel import host
from distbp.parallel.topology import Topology
from distbp.training import step_binding
from distbp.training.compiled_engine import CompiledEngine, choose_engine
from distbp.training.config import Config
from distbp.training.loop import Run, train
from distbp.training.setup import assemble

# Of three epochs. In float32, each engine rounds: the costs differ by a few units in the last
# place, but for a learning rate that amplifies every difference.
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
UNSTABLE = {"multilabel, packed, quadratic": {"learning_rate": 0.2}}


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    return samples.write_all(tmp_path_factory.mktemp("data"))


def configured(name, data_sets, out, **options):
    recipe = RECIPES[name]
    options = recipe.options | UNSTABLE.get(name, {}) | options
    return Config(data=str(data_sets[recipe.data]), out=str(out), quiet=True, **options)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_has_the_costs_of_numpy(name, data_sets, tmp_path):
    """Every option that affects training, with both engines."""
    config = configured(name, data_sets, tmp_path / "compiled", engine="compiled")
    compiled = train(config, comm=Topology())
    expected = train(replace(config, out=str(tmp_path / "numpy"), engine="numpy"), comm=Topology())
    assert len(compiled.history) == len(expected.history)
    for found, wanted in zip(compiled.history, expected.history, strict=True):
        keys = {key for key in wanted if key.endswith("cost") and wanted[key] is not None}
        for key in keys:
            assert found[key] == pytest.approx(wanted[key], rel=TOLERANCE[config.dtype])


@pytest.mark.parametrize(
    "name", ["all defaults", "clipped, in steps", "clipped, float64", "scaled targets"]
)
@pytest.mark.parametrize(
    "options", [{"checkpoint_every": "1step"}, {"combine": "allreduce"}, {"check_every": 1}]
)
def test_the_bits_do_not_depend_on_how_steps_are_made(name, options, data_sets, tmp_path):
    """Many steps in a call, one, or one phase of it, twice in a row or once."""
    config = configured(name, data_sets, tmp_path / "run", engine="compiled")
    expected = train(config, comm=Topology())
    other = replace(config, out=str(tmp_path / "other"), **options)
    assert train(other, comm=Topology()).digest == expected.digest


@pytest.mark.parametrize("name", ["all defaults", "clipped, float64", "weighted, held out"])
@pytest.mark.parametrize("shards", [2, 3, 8])
def test_the_bits_do_not_depend_on_who_adds_products(
    name, shards, data_sets, tmp_path, monkeypatch
):
    """BLAS as it computes them, or the step afterwards: where BLAS would add in another order."""
    config = configured(name, data_sets, tmp_path / "run", engine="compiled", shards=shards)
    parts = assemble(config, Topology())
    assert parts.engine._fields.adds_products
    expected = train(replace(config, out=str(tmp_path / "a")), comm=Topology())
    monkeypatch.setattr(step_binding, "adds_exactly", lambda *_: False)
    parts = assemble(replace(config, out=str(tmp_path / "b")), Topology())
    assert not parts.engine._fields.adds_products
    other = train(replace(config, out=str(tmp_path / "c")), comm=Topology())
    assert other.digest == expected.digest


def test_a_call_makes_many_steps(data_sets, tmp_path):
    parts = assemble(configured("all defaults", data_sets, tmp_path / "run", engine="compiled"),
                     Topology())  # fmt: skip
    assert isinstance(parts.engine, CompiledEngine)
    assert parts.engine.max_steps > 1
    run = Run(parts)
    parts.order.start(0, 0)
    run.step(parts.order.batches(0, parts.steps_per_epoch))
    assert run.progress.position == (0, parts.steps_per_epoch, parts.steps_per_epoch)
    assert parts.update.store.steps == parts.steps_per_epoch
    assert parts.engine.timing.steps == parts.steps_per_epoch
    assert min(parts.engine.timing.per_step()) > 0


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(data_sets, tmp_path):
    config = configured("adam, penalties, cosine", data_sets, tmp_path / "run", engine="compiled",
                        schedule="constant", epochs=4)  # fmt: skip
    expected = train(config, comm=Topology())
    part = replace(config, out=str(tmp_path / "part"), epochs=2)
    train(part, comm=Topology())
    resumed = train(replace(part, epochs=4, engine="auto"), resume=True, comm=Topology())
    assert resumed.digest == expected.digest


def test_streamed_rows_have_the_bits_of_those_in_memory(data_sets, tmp_path):
    config = configured("weighted, held out", data_sets, tmp_path / "a", engine="compiled",
                        shuffle="blocks")  # fmt: skip
    alone = train(config, comm=Topology()).digest
    assert train(replace(config, out=str(tmp_path / "b")), comm=Topology()).digest == alone


@pytest.mark.parametrize(
    ("on_nan", "message"), [("stop", "not a finite number"), ("skip", "skipped")]
)
def test_a_number_that_is_not_finite_changes_nothing(
    on_nan, message, data_sets, tmp_path, capsys, handlers
):
    """The step in which it occurs ends the call, and what is done about it is up to --on-nan."""
    config = configured(
        "regression", data_sets, tmp_path / "run", engine="compiled", on_nan=on_nan,
        optimizer="sgd", learning_rate=1e6, cost="quadratic",
    )  # fmt: skip
    if on_nan == "stop":
        with np.errstate(all="ignore"), pytest.raises(Exception, match=message):
            train(config, comm=Topology())
    else:
        with np.errstate(all="ignore"):
            result = train(config, comm=Topology())
        assert message in capsys.readouterr().err
        assert np.isfinite(result.network.theta).all()


def test_the_engine_that_is_chosen(monkeypatch):
    def choose(environ=(), **options):
        return choose_engine(Config(**options), Topology(), environ=dict(environ))

    assert choose() == choose(engine="compiled") == "compiled"
    assert choose(engine="numpy") == "numpy"
    assert choose({"DISTBP_ENGINE": "numpy"}) == "numpy"
    assert choose({"DISTBP_ENGINE": "numpy"}, engine="compiled") == "compiled"
    with pytest.raises(ConfigError, match="DISTBP_ENGINE is jax"):
        choose({"DISTBP_ENGINE": "jax"})
    with pytest.raises(ConfigError, match="--blas is for the compiled engine"):
        choose(engine="numpy", blas="libmkl_rt.so")
    monkeypatch.setattr(objects, "is_available", lambda: False)
    assert choose() == "numpy"
    with pytest.raises(ConfigError, match=r"needs numba, which is not installed\. Install it"):
        choose(engine="compiled")


class MyRelu(Relu):
    pass


def test_own_parts_are_for_numpy():
    assert choose_engine(Config(activation=MyRelu), Topology(), environ={}) == "numpy"
    with pytest.raises(ConfigError, match=r"not for .*MyRelu, which only NumPy can"):
        choose_engine(Config(activation=MyRelu, engine="compiled"), Topology(), environ={})


def test_numbers_that_no_processor_computes_with_are_for_numpy():
    """Long doubles, which a data set may have."""
    rows = SimpleNamespace(x_dtype=np.dtype(np.longdouble), y_dtype=np.dtype(np.int64))
    data = SimpleNamespace(splits={"train": rows})
    assert choose_engine(Config(), Topology(), data, {}) == "numpy"
    with pytest.raises(ConfigError, match="not for rows of float128"):
        choose_engine(Config(engine="compiled"), Topology(), data, {})


def test_a_library_that_does_not_exist_is_refused(data_sets, tmp_path):
    config = configured("all defaults", data_sets, tmp_path / "run", engine="compiled",
                        blas="libnothing.so")  # fmt: skip
    with pytest.raises(ConfigError, match=r"--blas libnothing\.so: it cannot be loaded"):
        train(config, comm=Topology())


def thread_counts():
    return {one["filepath"]: one["num_threads"] for one in threadpoolctl.threadpool_info()}


def test_another_library_with_the_blas_interface(data_sets, tmp_path):
    """One thread as well, other bits, the same numbers; afterwards threads are as before.

    Also those of a library that was loaded after distbp had looked for libraries.
    """
    # SciPy's own OpenBLAS: its integers have 32 bits, those of NumPy's 64.
    folder = Path(importlib.util.find_spec("scipy").origin).parents[1] / "scipy.libs"
    library = next(folder.glob("libscipy_openblas-*.so"))
    assert host._blas_thread_counts()
    ctypes.CDLL(str(library))
    config = configured("all defaults", data_sets, tmp_path / "run", engine="compiled",
                        blas=str(library))  # fmt: skip
    loaded = threadpoolctl.ThreadpoolController().select(filepath=str(library))
    with loaded.limit(limits=2):
        before = thread_counts()
        assert before[str(library)] == 2
        found = train(config, comm=Topology())
        assert before.items() <= thread_counts().items()
    expected = train(replace(config, out=str(tmp_path / "numpy"), blas=None), comm=Topology())
    costs = [[record["train_cost"] for record in one.history] for one in (found, expected)]
    assert costs[0] == pytest.approx(costs[1], rel=2e-6)
