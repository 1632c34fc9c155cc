"""The contender scikit-learn: `partial_fit` of an MLPClassifier, one mini-batch per call."""

import sys
from itertools import cycle
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier
from turns import take_turns

ROWS = 10_240


def main():
    case, folder = sys.argv[1], Path(sys.argv[2])
    sizes_text, batch_text = case.split(":")
    sizes, batch_size = [int(n) for n in sizes_text.split("-")], int(batch_text)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (ROWS, sizes[0]), np.uint8)
    y = random.integers(0, sizes[-1], ROWS)
    model = MLPClassifier(
        sizes[1:-1], solver="sgd", alpha=0.0, batch_size=batch_size, learning_rate_init=0.01,
        momentum=0.0, nesterovs_momentum=False, random_state=0,
    )  # fmt: skip
    order = np.random.default_rng(1).permutation(ROWS)
    starts = range(0, ROWS - batch_size + 1, batch_size)
    batches = cycle([order[i : i + batch_size] for i in starts])
    classes = np.arange(sizes[-1])
    scale = np.float32(1 / 255)

    def step():
        numbers = next(batches)
        model.partial_fit(x[numbers] * scale, y[numbers], classes=classes)

    take_turns(folder, True, step, lambda number: [number])


main()
