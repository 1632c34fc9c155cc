"""The hooks that fail a test run which tests less than it should: each is triggered once."""

import sys

import pytest
from ranks import ROOT, Job

SKIPPED = "import pytest\n\ndef test_one():\n    pytest.skip('no reason')\n"
SKIPPED_MODULE = "import pytest\npytest.importorskip('no_such_module')\n"


def test_a_test_run_without_any_mpi_test_fails():
    """pytest accepts that everything is skipped; here the command must have been wrong."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    ended = Job([*command, "tests/mpi/test_rank_errors.py"], ROOT, {"PYTHONWARNINGS": ""}).wait()
    assert ended.status == 1, str(ended)
    assert "no MPI test ran" in ended.out, str(ended)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_skip_is_a_failure_if_skips_are_not_allowed(tmp_path, allowed):
    """With DISTBP_TEST_NO_SKIP=1, for a test and for a module; otherwise it is listed."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(SKIPPED)
    (tmp_path / "test_module.py").write_text(SKIPPED_MODULE)
    options = ["-p", "no:cacheprovider", "-p", "conftest", "--continue-on-collection-errors"]
    environment = {
        "PYTHONWARNINGS": "",
        "PYTHONPATH": str(ROOT / "tests"),
        "DISTBP_TEST_NO_SKIP": "" if allowed else "1",
    }
    ended = Job([sys.executable, "-m", "pytest", *options], tmp_path, environment).wait()
    assert ended.status == (0 if allowed else 1), str(ended)
    assert "no reason" in ended.out, str(ended)
    assert "no_such_module" in ended.out, str(ended)
