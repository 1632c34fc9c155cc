"""The contender JAX, in one process: a jitted step, or a whole epoch scanned in one call."""

import sys
from itertools import cycle, pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from turns import take_turns

ROWS = 10_240
RATE = 0.01


def loss(parameters, x, y):
    a = x.astype(jnp.float32) * (1 / 255)
    for w, b in parameters[:-1]:
        a = jax.nn.relu(a @ w + b)
    w, b = parameters[-1]
    log_a = jax.nn.log_softmax(a @ w + b)
    return -jnp.take_along_axis(log_a, y[:, None], axis=1).mean()


def updated(parameters, x, y):
    gradient = jax.grad(loss)(parameters, x, y)
    return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradient)


def main():
    how, case, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    sizes_text, batch_text = case.split(":")
    sizes, batch_size = [int(n) for n in sizes_text.split("-")], int(batch_text)
    random = np.random.default_rng(0)
    x = jnp.asarray(random.integers(0, 256, (ROWS, sizes[0]), np.uint8))
    y = jnp.asarray(random.integers(0, sizes[-1], ROWS))
    parameters = [
        (jnp.asarray(random.normal(0, n_in**-0.5, (n_in, n_out)), jnp.float32), jnp.zeros(n_out))
        for n_in, n_out in pairwise(sizes)
    ]
    order = np.random.default_rng(1).permutation(ROWS)
    epoch = order[: ROWS // batch_size * batch_size].reshape(-1, batch_size)

    if how == "jit":
        one = jax.jit(lambda p, numbers: updated(p, x[numbers], y[numbers]), donate_argnums=0)
        batches = cycle(list(epoch))

        def step():
            nonlocal parameters
            parameters = jax.block_until_ready(one(parameters, next(batches)))

        take_turns(folder, True, step, lambda number: [number])
    else:

        @jax.jit
        def whole(parameters, numbers):
            def body(p, rows):
                return updated(p, x[rows], y[rows]), None

            return jax.lax.scan(body, parameters, numbers)[0]

        numbers = jnp.asarray(epoch)

        def step():
            nonlocal parameters
            parameters = jax.block_until_ready(whole(parameters, numbers))

        take_turns(folder, True, step, lambda number: [number], len(epoch))


main()
