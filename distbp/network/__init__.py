"""Backpropagation as the book writes it, on flat arrays.

The equations of chapter 2 of Nielsen's *Neural Networks and Deep Learning* are lines of
`Network.backprop` in network.py, each with its tag (l is a layer, L the last one, m the rows
of a batch; there with `out=`, so that nothing is allocated):

    tag  equation                              code                            shape
    BP1  δ^L = ∇_a C ⊙ σ′(z^L)                 delta = cost.delta(a_out, y)    (m, n_L)
    BP2  δ^{l-1} = ((w^l)ᵀ δ^l) ⊙ σ′(z^{l-1})  delta = matmul(delta, w)        (m, n_{l-1})
                                               delta *= sigma.prime(a, z)
    BP3  ∂C/∂b^l_j = δ^l_j                     nabla_b = add.reduce(delta)     (n_l,)
    BP4  ∂C/∂w^l_jk = a^{l-1}_k δ^l_j          nabla_w = matmul(delta.T, a)    (n_l, n_{l-1})

Rows are examples, so the book's columns are transposed: `weights[l]` still is w_jk, as
`w[j, k]`. Gradients are summed over the rows; the division by the batch size is the update's.

In the order of reading:

    activations      σ, and σ′ as a function of the output a (gelu, silu: and of z)
    costs            C, each with its own δ of the output layer (BP1)
    rng              random numbers as pure functions of seed, purpose and position
    parameters       θ: all weights and biases in one vector, with views of each layer
    matmul           cutting a matrix product where that is faster
    network          `Network`: initial weights, `feedforward`, `backprop` (BP1-BP4)
    dropout          which hidden units a pass leaves out
    optimizers       the rules: SGD, momentum, Nesterov, Adam, AdamW, NAdam, RMSprop
    parameter_store  θ, optimizer state and average of θ in versions: commit, roll back
    update           gradient -> new θ: scale, clip, penalize (L1, L2), apply a rule, average
    schedules        the learning rate's factor by epoch, and warm-up

To add an activation:

1.  in `activations`, derive a class from `Activation` with `fill` (σ) and `prime` (σ′ as a function
    of a; with `needs_z`, also of z);
2.  add it to `ACTIVATIONS` and `HIDDEN`, which makes it a choice of `--activation`;
3.  add σ and σ′ to `PRIMES` in `tests/unit/network/test_network.py`, whose gradient checks cover
    every entry;
4.  add both, as functions of one number, to `_MAKERS` in `compiled.activations`.

To add an optimizer:

1.  in `optimizers`, derive a class from `Optimizer` with `state_names` and an elementwise `apply`;
2.  add it to `OPTIMIZERS`, which makes it a choice of `--optimizer` and its state a part of every
    checkpoint;
3.  add its rule to `formula` in `tests/unit/network/test_optimizers.py`, which checks steps, slices
    and state of every entry;
4.  add it to `_RULES` in `compiled.update`, which takes the numbers of a step from its
    `coefficients`.

A training step is `Network.backprop`, then `Update.apply`. Nothing here knows of MPI, files
or time.
"""
