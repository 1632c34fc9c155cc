"""Fit a regression with PyTorch for many epochs; print the last training cost."""

import sys

import numpy as np
import torch
from torch import nn

data, rate = np.load(sys.argv[1]), float(sys.argv[5])
epochs, hidden, batch_size = map(int, sys.argv[2:5])
torch.manual_seed(0)
torch.set_num_threads(1)
x, y = (torch.from_numpy(data[name]) for name in ("x_train", "y_train"))
model = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
loss = nn.MSELoss()
for _ in range(epochs):
    order, total = torch.randperm(len(x)), 0.0
    for start in range(0, len(x), batch_size):
        batch = order[start : start + batch_size]
        optimizer.zero_grad(set_to_none=True)
        cost = loss(model(x[batch]), y[batch])
        cost.backward()
        optimizer.step()
        total += cost.item() * len(batch)
print(total / len(x) / 2)
