"""Wheel and sdist are complete, and train to the same digest in an empty environment."""

import re
import sys
import tarfile
import zipfile

import pytest
from checkout import INSTALL_LIMIT_S, MPI, copy_checkout, fresh_environment, run
from ranks import ROOT, distbp

FOLDER = ROOT / "distbp"
FILES = {str(path.relative_to(ROOT)) for path in FOLDER.rglob("*.py")}
FILES |= {str(path.relative_to(ROOT)) for path in FOLDER.glob("report/templates/*")}
PATTERNS = {"wheel": "*.whl", "sdist": "*.tar.gz"}
TRAIN = ("--epochs", 1, "--hidden", 8, "--shards", 4, "--quiet", "--out")
IMPORT_ALL = """
import distbp, importlib, pathlib, pkgutil, sys
for module in pkgutil.walk_packages(distbp.__path__, "distbp."):
    # The estimators need the extra `sklearn`, reports the extra `report`, kernels the extra `fast`.
    needs_extra = module.name.endswith((".sklearn.base", ".sklearn.estimators"))
    needs_extra |= module.name.startswith(("distbp.report.", "distbp.compiled."))
    if not needs_extra and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(pathlib.Path(distbp.__file__).is_relative_to(sys.prefix))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with the sdist of a checkout without Git, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("built")
    checkout = copy_checkout(folder / "checkout")
    variables = fresh_environment(folder)
    build = [sys.executable, "-m", "build", "--outdir", folder / "dist", checkout]
    run(folder, variables, *build, limit=INSTALL_LIMIT_S)
    return folder / "dist"


def test_the_wheel_has_every_file_and_nothing_else(built):
    """No other test would notice a package that pyproject.toml does not list."""
    (wheel,) = built.glob(PATTERNS["wheel"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == FILES


def test_the_sdist_has_every_file(built):
    (sdist,) = built.glob(PATTERNS["sdist"])
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= FILES | {"pyproject.toml", "README.md"}
    is_file = re.compile(r"distbp/.*\.(py|html|css)").fullmatch
    assert set(filter(is_file, names)) == FILES


@pytest.mark.parametrize("kind", PATTERNS)
def test_it_trains_in_an_empty_environment(built, kind, data, tmp_path):
    """On one and two ranks, with its dependencies and an MPI from PyPI; the digest is the same."""
    (archive,) = built.glob(PATTERNS[kind])
    variables = fresh_environment(tmp_path)
    run(tmp_path, variables, sys.executable, "-m", "venv", "venv")
    folder = tmp_path / "venv" / "bin"
    pip = [folder / "python", "-m", "pip", "install", "-q", f"{archive}[{MPI}]"]
    run(tmp_path, variables, *pip, limit=INSTALL_LIMIT_S)
    assert run(tmp_path, variables, folder / "python", "-c", IMPORT_ALL) == "True\n"

    program = folder / "distbp"
    expected = distbp("--version", folder=tmp_path).out
    assert run(tmp_path, variables, program, "--version") == expected
    distbp("train", data["digits"], *TRAIN, "checkout", folder=tmp_path)
    run(tmp_path, variables, program, "train", data["digits"], *TRAIN, "alone")
    run(tmp_path, variables, program, "train", data["digits"], *TRAIN, "two", "--ranks", 2)
    digests = {
        run(tmp_path, variables, program, "digest", name) for name in ("checkout", "alone", "two")
    }
    assert len(digests) == 1
