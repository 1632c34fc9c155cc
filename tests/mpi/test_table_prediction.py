"""Predictions and scores of tables are the same, byte by byte, for any number of ranks."""

import pytest
import table_models
from mpi4py import MPI

from distbp.data.table_options import TableOptions
from distbp.errors import DataError
from distbp.parallel.topology import Topology
from distbp.storage.run_directory import read_newest_checkpoint
from distbp.training import table_prediction
from distbp.training.metric_names import all_metrics, part_names
from distbp.training.row_sources import table_rows
from distbp.training.table_prediction import EvaluationTask, PredictionTask, run_in_rounds

pytestmark = pytest.mark.mpi


@pytest.fixture(params=["classification", "regression"])
def model(request, mpi_tmp_path, monkeypatch):
    """Return the model; rounds are small, so that there are several."""
    monkeypatch.setattr(table_prediction, "_MAX_BLOCKS_A_RANK", 1)
    if MPI.COMM_WORLD.rank == 0:
        people = table_models.people(500)
        path = table_models.write_data(mpi_tmp_path / "data.h5", people, request.param)
        table_models.train_model(path, mpi_tmp_path / "run")
    MPI.COMM_WORLD.Barrier()
    return read_newest_checkpoint(mpi_tmp_path / "run")[0]


def write_table(path, rows, **changes):
    if MPI.COMM_WORLD.rank == 0:
        table_models.people(rows, seed=1).assign(**changes).to_csv(path, index=False)
    MPI.COMM_WORLD.Barrier()


@pytest.mark.parametrize("rows", [1, 1031, 7 * 1024 + 5])
def test_every_format_has_the_bytes_of_one_rank(comm, everywhere, mpi_tmp_path, model, rows):
    """In the order of the rows."""
    new = mpi_tmp_path / "new.csv"
    write_table(new, rows)
    for end in (".csv", ".parquet", ".h5"):
        alone, path = mpi_tmp_path / f"alone-{comm.rank}{end}", mpi_tmp_path / f"p{end}"
        for group, out in ((Topology(), alone), (comm, path)):
            task = PredictionTask(model, str(out), "name")
            run_in_rounds(
                group, task,
                lambda: table_rows(str(new), model, TableOptions(), id_column="name"),
            )  # fmt: skip
        MPI.COMM_WORLD.Barrier()
        assert all(everywhere(path.read_bytes() == alone.read_bytes()))
        if end == ".csv":
            names = [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]
            assert names == [f"{i:05}" for i in range(rows)]


@pytest.mark.parametrize("rows", [1, 1031, 7 * 1024 + 5])
def test_score_has_the_bits_of_one_rank(comm, everywhere, mpi_tmp_path, model, rows):
    """With all metrics."""
    new = mpi_tmp_path / "new.csv"
    write_table(new, rows)
    scores = []
    for group in (Topology(), comm):
        about, n_out = model.about, model.network.sizes[-1]
        names = part_names(about["classes"], model.preprocessing, n_out)
        task = EvaluationTask(model, all_metrics(about["task"], names))
        run_in_rounds(
            group, task, lambda: table_rows(str(new), model, TableOptions(), has_labels=True)
        )
        scores.append(task.score(group))
    assert everywhere(scores[0]) == everywhere(scores[1]) == [scores[0]] * comm.size
    assert scores[0].measured.values.keys() & {"f1", "mae"}
    assert scores[0].rows == scores[1].rows == rows


def test_what_rank_0_cannot_read_is_raised_on_all_ranks(comm, everywhere, mpi_tmp_path, model):
    """With one text, in a later round too; and no file is left."""
    new, out = mpi_tmp_path / "new.csv", mpi_tmp_path / "p.csv"
    rows = 7 * 1024
    write_table(new, rows, sex=["male"] * (rows - 1) + ["other"])
    with pytest.raises(DataError) as failure:
        run_in_rounds(
            comm, PredictionTask(model, str(out)),
            lambda: table_rows(str(new), model, TableOptions()),
        )  # fmt: skip
    MPI.COMM_WORLD.Barrier()
    texts = everywhere(str(failure.value))
    assert set(texts) == {str(failure.value)}
    assert f"line {rows + 1}, column 'sex'" in texts[0]
    assert not out.exists()
