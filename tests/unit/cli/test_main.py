"""From arguments to an exit status, and what the end of the process depends on."""

from types import SimpleNamespace

import pytest

from distbp.cli import main
from distbp.errors import ConfigError
from distbp.parallel import rank_errors, topology


def test_exit_after_a_shrink_skips_finalize(monkeypatch):
    """`MPI_Finalize` would wait for failed ranks: `rank_errors` gets the chance to skip it."""
    statuses = []
    monkeypatch.setattr(rank_errors, "exit_after_shrink", statuses.append)
    with pytest.raises(SystemExit) as ended:
        main._exit_process(75)
    assert statuses == [75]
    assert ended.value.code == 75


@pytest.mark.parametrize(("rank", "expected"), [(0, True), (1, False)])
def test_the_connected_rank_counts_not_the_launchers(monkeypatch, rank, expected):
    """After a failure the ranks are renumbered; rank 0 of the launcher may have died."""
    monkeypatch.setattr(topology, "connected_topology", lambda: SimpleNamespace(rank=rank))
    monkeypatch.setenv("PMI_RANK", "5")
    assert main._is_reporting_rank() is expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expects a VERB, such as train"),
        (["trian", "d.h5"], "no verb 'trian'; did you mean train?"),
        (["zzz"], r"no verb 'zzz'\. See distbp --help"),
        (["--ranks", "2", "train"], "--ranks precedes the verb"),
        (["train", "d.h5", "e.h5"], "distbp train does not expect the argument 'e.h5'"),
        (["import", "a", "b", "--labels", "x"], "has no option '--labels'; did you mean --label?"),
        (["plan"], "plan: the following arguments are required: --sizes"),
        (["plan", "--sizes", "3,2", "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    ],
)
def test_arguments_that_are_refused(argv, message):
    """In one sentence, which suggests what may have been meant."""
    with pytest.raises(ConfigError, match=message):
        main.parse_command_line(argv)
