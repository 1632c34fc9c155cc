"""A score and a prediction are the same for any number of ranks."""

import h5py
import numpy as np
import pytest
import samples
from mpi4py import MPI

from distbp.data.dataset import DataSet
from distbp.network.network import Network
from distbp.parallel.topology import Topology
from distbp.storage.checkpoint import Checkpoint
from distbp.training.evaluation import EVALUATION_ROWS, Evaluator
from distbp.training.metric_names import all_metrics, part_names
from distbp.training.prediction import write_predictions
from distbp.training.score_counts import ClassScores

pytestmark = pytest.mark.mpi

PRIMES = (2, 1021, 1031, 4099)  # around one block and four


COSTS = {
    "classification": "log-likelihood", "multilabel": "cross-entropy", "regression": "quadratic",
}  # fmt: skip


def model(data: DataSet, dtype: str = "float32", cost: str | None = None) -> Network:
    output = "linear" if data.task == "regression" else None
    cost = cost or COSTS[data.task]
    network = Network((data.n_in, 12, data.n_out), "tanh", cost, output, "large", 3, dtype)
    if data.target is not None:
        network.use_target_units(data.target.units)
    return network


def written(folder, write, rows: int) -> DataSet:
    """Return a data set whose test split has that many rows, written once for all ranks."""
    path = folder / f"{rows}.h5"
    if MPI.COMM_WORLD.rank == 0:
        write(path, {"train": 11, "test": rows})
    MPI.COMM_WORLD.Barrier()
    return DataSet(path)


@pytest.mark.parametrize("most", [1 << 20, 99])
@pytest.mark.parametrize(
    ("write", "cost"),
    [(samples.digits, None), (samples.numbers, None), (samples.prices, None),
     (samples.prices, "huber"), (samples.prices, "mae"), (samples.labels, None)],
)  # fmt: skip
def test_score_has_the_bits_of_one_rank(
    comm, everywhere, mpi_tmp_path, write, cost, most, monkeypatch
):
    """Cost, accuracy or R², and all metrics, to the last bit; and every row once.

    Also where there are more scores than are held, so that the area under the ROC curve is not
    exact.
    """
    monkeypatch.setattr(ClassScores.__init__, "__defaults__", (most,))
    for rows in PRIMES:
        data = written(mpi_tmp_path, write, rows)
        network = model(data, cost=cost)
        arguments = (network, data.split("test"), data.scaling, data.task, data.target)
        choices = all_metrics(data.task, part_names(data.classes, None, data.n_out))
        expected = Evaluator(Topology(), *arguments).score(choices, has_parts=True)
        found = everywhere(Evaluator(comm, *arguments).score(choices, has_parts=True))
        assert found == [expected] * comm.size
        assert expected.rows == rows
        if rows > 99 and data.task != "regression":
            assert ("roc_auc_error" in expected.measured.values) == (most == 99)


def test_accuracy_is_that_of_the_definition(comm, everywhere, mpi_tmp_path):
    """Right answers over rows, from the network alone."""
    data = written(mpi_tmp_path, samples.digits, 2053)
    network, split = model(data, "float64"), data.split("test")
    score = Evaluator(comm, network, split, data.scaling, data.task).score()
    x = split.x.view(split.x_dtype).reshape(len(split), -1) / 255
    a = network.feedforward(x)
    right = int((a.argmax(axis=1) == split.targets().ravel()).sum())
    assert everywhere(score.accuracy) == [right / 2053] * comm.size


@pytest.mark.parametrize("rows", [2, 3 * EVALUATION_ROWS + 7])
@pytest.mark.parametrize("write", [samples.digits, samples.numbers, samples.prices, samples.labels])
def test_predictions_are_in_the_order_of_the_rows(comm, everywhere, mpi_tmp_path, write, rows):
    """Row i of the file is what the network puts out for row i, bit by bit."""
    data = written(mpi_tmp_path, write, rows)
    network = model(data)
    about = {"config": {"threads": 1}}
    checkpoint = Checkpoint(network, {}, data.scaling, about, target=data.target)
    alone, path = mpi_tmp_path / f"alone-{comm.rank}.h5", mpi_tmp_path / "p.h5"
    write_predictions(Topology(), checkpoint, data, "test", alone)
    write_predictions(comm, checkpoint, data, "test", path)
    MPI.COMM_WORLD.Barrier()
    assert all(everywhere(path.read_bytes() == alone.read_bytes()))
    with h5py.File(path) as file:
        output = file["output"][...]
        labels = file["label"][...] if data.classes else None
    split = data.split("test")
    x = split.x.view(split.x_dtype).reshape(len(split), -1)
    expected = network.feedforward(
        ((x - data.scaling.shift) * data.scaling.scale).astype(np.float32)
    )
    if data.target is not None:
        expected = data.target.to_user_units(expected)
    assert all(everywhere(np.allclose(output, expected, atol=1e-5)))
    assert output.shape == (rows, data.n_out)
    predicted = output > 0.5 if data.task == "multilabel" else output.argmax(axis=1)
    assert labels is None or (labels == predicted).all()
