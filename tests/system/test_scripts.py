"""The scripts demo, test and compare_digests in a fresh clone, as a newcomer runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import ROOT, Job, is_open_mpi

# No access to this checkout: the scripts install what they need.
FRESH = {"PYTHONPATH": "", "PYTHONWARNINGS": "", "PYTHON": sys.executable}
LIMIT = 1200.0  # seconds, downloads included


def cloned(folder):
    """Return a fresh clone in `folder`, at a path with a space."""
    command = ["git", "-c", "safe.directory=*", "clone", "--quiet", ROOT, folder / "a clone"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "a clone"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return cloned(tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def mpi():
    return "openmpi" if is_open_mpi() else "mpich"


def test_demo(clone, mpi):
    """It prints the accuracy of five networks, and installs distbp only the first time.

    The second example ends with the predictions for a table.
    """
    command = ["scripts/demo", "--mpi", mpi]
    first = Job(command, clone, FRESH, LIMIT).wait()
    assert first.status == 0, str(first)
    assert len(re.findall(r"^seed \d +\d\d\.\d\d% correct$", first.out, re.M)) == 5, str(first)
    median = re.search(r"^median +(\d\d\.\d\d)% correct", first.out, re.M)
    assert median is not None, str(first)
    assert float(median[1]) >= 97.0
    score = re.search(r"^test: 68 rows, cost \S+, accuracy (\d+\.\d\d)%$", first.out, re.M)
    assert score is not None, str(first)
    assert float(score[1]) > 90
    assert "\nrow,class,p_Adelie,p_Chinstrap,p_Gentoo\n0,Adelie," in first.out
    again = Job(command, clone, FRESH, LIMIT).wait()
    assert again.status == 0, str(again)
    assert "creating" not in again.out + again.err


@pytest.fixture
def installed(clone, mpi, tmp_path):
    """Return a folder with this environment, as if scripts/test had created it for the clone."""
    environment = tmp_path / "home" / mpi
    environment.mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != "distbp-stamp":
            (environment / path.name).symlink_to(path)
    about = [str(clone), str(environment), f"{mpi},test", (clone / "pyproject.toml").read_text()]
    (environment / "distbp-stamp").write_text("\n".join(about))
    return environment.parent


def test_quick_tests(clone, installed, mpi):
    """They pass; here only some of them, in an environment that exists, as creating it takes long.

    Without the options, scripts/test is what runs these tests.
    """
    some = {"PYTEST_ADDOPTS": "-k 'shard or tree'", "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    environment = FRESH | {"DISTBP_TEST_HOME": str(installed)} | some
    ended = Job(["scripts/test", "--quick", "--mpi", mpi], clone, environment, LIMIT).wait()
    assert ended.status == 0, str(ended)
    counted = re.search(r"^(\d+) passed, 0 failed$", ended.out, re.M)
    assert counted is not None, str(ended)
    assert int(counted[1]) > 100
    assert not re.search("creating|updating", ended.out + ended.err), str(ended)


@pytest.fixture
def compare(mpi, tmp_path):
    """Return a function that compares a clone with a revision, using this environment."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / mpi).symlink_to(sys.prefix, target_is_directory=True)
    environment = FRESH | {"DISTBP_TEST_HOME": str(tmp_path / "home")}

    def run(clone, revision="HEAD"):
        command = ["scripts/compare_digests", revision, "--short"]
        ended = Job(command, clone, environment, LIMIT).wait()
        trees = ["git", "worktree", "list"]
        left = subprocess.run(trees, cwd=clone, check=True, capture_output=True, text=True).stdout
        assert len(left.splitlines()) == 1, left
        return ended

    return run


def test_compare_digests_with_the_same_code(clone, compare):
    """An unchanged working tree trains to the digests of its last commit."""
    ended = compare(clone)
    assert ended.status == 0, str(ended)
    assert re.search(r"^6 compared, 0 differ$", ended.out, re.M), str(ended)


def test_compare_digests_finds_a_difference(compare, tmp_path):
    """With a changed constant of Adam only the runs with Adam differ."""
    clone = cloned(tmp_path)
    texts = {path: path.read_text() for path in (clone / "distbp").rglob("*.py")}
    changed = [path for path, text in texts.items() if "0.999" in text]
    assert changed
    for path in changed:
        path.write_text(texts[path].replace("0.999", "0.998"))
    ended = compare(clone)
    assert ended.status == 1, str(ended)
    assert re.search(r"^6 compared, 4 differ$", ended.out, re.M), str(ended)
    for case, word in (("all defaults", "equal"), ("adam", "DIFFERENT"), ("regression", "equal")):
        assert re.search(rf"^{case}.* {word}$", ended.out, re.M), str(ended)


def test_compare_digests_with_an_unknown_revision(clone, compare):
    ended = compare(clone, "no-such-revision")
    assert (ended.status, ended.out) == (2, "")
    assert "no-such-revision is not a revision of this repository" in ended.err
