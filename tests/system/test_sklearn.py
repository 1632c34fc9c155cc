"""A program of a scikit-learn user on two ranks, and its model on the command line."""

import sys

import numpy as np
from ranks import Job, distbp, mpiexec

PROGRAM = """
import sys, warnings
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from distbp.sklearn import MLPClassifier

warnings.simplefilter("ignore", ConvergenceWarning)
x, y = load_digits(return_X_y=True)
model = MLPClassifier((30,), scaling="standardize", learning_rate_init=0.02, random_state=0)
try:
    model.fit(x[:0], y)
except ValueError as error:
    sys.stdout.write(f"refused: {error}\\n")  # in one piece: ranks write at the same time
model.set_params(max_iter=5, early_stopping=True)
scores = cross_val_score(model, x[:200], y[:200], cv=2)
model.fit(x[:1000], y[:1000])
model.to_model().save(sys.argv[1])
numbers = [model.digest_, model.score(x[1000:], y[1000:]), *scores]
sys.stdout.write(f"score {' '.join(map(str, numbers))}\\n")
"""


def test_a_program_on_two_ranks(tmp_path):
    """The same model on each, an error that is caught, and a file for the command line."""
    (tmp_path / "program.py").write_text(PROGRAM)
    found = set()
    for n in (1, 2):
        command = [mpiexec(), "-n", n, sys.executable, "program.py", f"model{n}.h5"]
        ended = Job(command, tmp_path).wait()
        assert ended.status == 0, str(ended)
        lines = ended.out.splitlines()
        assert sum(line.startswith("refused: Found array with 0 sample") for line in lines) == n
        found |= {line for line in lines if line.startswith("score")}
    assert len(found) == 1, found
    _, digest, score, *_ = found.pop().split()
    assert float(score) > 0.8
    assert distbp("digest", "model2.h5", folder=tmp_path).out.strip() == digest
    np.savez(tmp_path / "new.npz", x=np.zeros((3, 64)))
    distbp("predict", "model1.h5", "new.npz", "--out", "p.csv", folder=tmp_path)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 4
