"""Fit a regression with scikit-learn for many epochs; print the last training cost."""

import sys
import warnings

import numpy as np
from sklearn.neural_network import MLPRegressor

data, rate = np.load(sys.argv[1]), float(sys.argv[5])
epochs, hidden, batch_size = map(int, sys.argv[2:5])
model = MLPRegressor(
    hidden_layer_sizes=(hidden,), solver="adam", alpha=0.0, batch_size=batch_size,
    learning_rate_init=rate, max_iter=epochs, n_iter_no_change=epochs, random_state=0,
)  # fmt: skip
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about reaching max_iter
    model.fit(data["x_train"], data["y_train"].ravel())
print(model.loss_)
