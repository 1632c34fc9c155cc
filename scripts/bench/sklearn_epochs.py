"""Train with scikit-learn; print (seconds, test accuracy) of each epoch as JSON."""

import json
import sys
import time

import numpy as np
from sklearn.neural_network import MLPClassifier

data = np.load(sys.argv[1])
epochs, hidden, batch_size = map(int, sys.argv[2:5])
rate, momentum = map(float, sys.argv[5:7])
scale = np.float32(1 / 255)
x, x_test = data["x_train"].reshape(len(data["x_train"]), -1), data["x_test"]
x_test = x_test.reshape(len(x_test), -1) * scale
y, y_test = data["y_train"], data["y_test"]
model = MLPClassifier(
    (hidden,), solver="sgd", alpha=0.0, batch_size=batch_size, learning_rate_init=rate,
    momentum=momentum, nesterovs_momentum=False, random_state=0,
)  # fmt: skip
records, classes = [], np.unique(y)
for epoch in range(epochs):
    began = time.perf_counter()
    order = np.random.default_rng(epoch).permutation(len(x))
    for start in range(0, len(x), batch_size):
        batch = order[start : start + batch_size]
        model.partial_fit(x[batch] * scale, y[batch], classes=classes)
    seconds = time.perf_counter() - began
    records.append((seconds, float((model.predict(x_test) == y_test).mean())))
print(json.dumps(records))
