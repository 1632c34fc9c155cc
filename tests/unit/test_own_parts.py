"""Users' own parts: found by name, and only run if the user has named them."""

import os
import sys

import pytest

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network.activations import Activation, Relu, find_activation
from distbp.network.network import Network
from distbp.training.callbacks import Callback

SOURCE = """
from distbp.network.activations import Relu

class Mine(Relu):
    pass

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the name of a module in the current directory, which nobody has named yet."""
    name = f"parts_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(own_parts.PARTS_VARIABLE, "")
    yield name
    sys.modules.pop(name, None)


def test_a_name_alone_runs_no_code(module):
    """As it may come from a file."""
    with pytest.raises(ConfigError, match=f"Set DISTBP_PARTS={module} if you trust it"):
        find_activation(f"{module}:Mine")
    assert module not in sys.modules
    assert not own_parts.is_known(f"{module}:Mine")


def test_a_part_that_is_named_is_found(module):
    """On the command line, and from then on in processes that are started here."""
    own_parts.load(f"{module}:Mine")
    found = find_activation(f"{module}:Mine")
    assert issubclass(found, Relu)
    assert own_parts._allowed_modules() == [module]
    assert len(own_parts.source_digest(f"{module}:Mine")) == 64
    assert sys.path.count("") <= 1


def test_a_module_in_the_variable_is_found(module, monkeypatch):
    monkeypatch.setenv(own_parts.PARTS_VARIABLE, f"other,{module}")
    assert own_parts.is_known(f"{module}:Mine")
    assert issubclass(own_parts.find(f"{module}:Mine", Activation, "activation"), Relu)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:Other", r"has no class 'Other'; it has Relu, Mine"),
        ("{}:number", "has no class 'number'"),
        ("no_such_parts:A", r"There is no module 'no_such_parts' in .* or on the Python path"),
        ("../x:A", "is not the name of a module"),
        ("broken:A", r"The module 'broken' cannot be imported: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_loaded(module, tmp_path, name, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=message):
        own_parts.load(name.format(module))


def test_the_kind_has_to_be_right(module):
    own_parts.load(f"{module}:Mine")
    message = r"optimizer '.*:Mine' is a class that does not derive from .*\.Network\."
    with pytest.raises(ConfigError, match=message):
        own_parts.find(f"{module}:Mine", Network, "optimizer")


def test_a_class_is_named_and_found():
    """In Python a class may be given instead of its name."""

    class Local(Relu):
        pass

    network = Network((2, 3, 1), Local, "quadratic")
    assert network.activation.endswith(":test_a_class_is_named_and_found.<locals>.Local")
    assert isinstance(network.sigma, Local)
    assert own_parts.name_of("relu") == "relu"


def test_classes_of_distbp_itself_need_no_trust(monkeypatch):
    """A run with one of its trackers is resumed without DISTBP_PARTS."""
    monkeypatch.delenv(own_parts.PARTS_VARIABLE, raising=False)
    name = "distbp.training.trackers:MLflow"
    monkeypatch.setattr(own_parts, "_registered", {})
    assert own_parts.is_known(name)
    assert own_parts.find(name, Callback, "callback").__name__ == "MLflow"
    assert own_parts.PARTS_VARIABLE not in os.environ
