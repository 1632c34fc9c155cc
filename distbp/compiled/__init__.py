"""The training step as machine code: the kernels of `--engine compiled`, compiled by numba.

`distbp.network` stays the place to read backpropagation; what is here computes the same, on flat
arrays, in functions that one compiled step calls. The equations of the book have their tags here
as well, in `backprop` and `costs`:

    BP1  output_layer    δ^L from z^L, with the cost and the number of correct answers
    BP2  backward        δ^{l-1} = (δ^l w^l) ⊙ σ′(z^{l-1})
    BP3  backward        ∂C/∂b^l
    BP4  backward        ∂C/∂w^l

In the order of reading; the first seven need no numba, so a process may use them beside machine
code that another one has compiled:

    blas             the BLAS function that multiplies matrices: NumPy's, or one the user names
    step_constants   the numbers that the elements of an update share in a step
    arrays           the arrays that kernels are handed together
    product_choice   which forward product a layer takes: by BLAS, or as dot products
    choice           the options of a run that its code is compiled for
    descriptor       what the compiled step is passed: numbers, and addresses of arrays
    objects          object files: built by numba, kept in a folder, loaded without numba
    intrinsics       parts and sums of arrays, bits of numbers, without numba's runtime
    atomics          counters that the ranks of a node wait for, and the clock
    vector_math      exp, log, log1p and tanh that vectorize and have the same bits on every CPU
    activations      σ and σ′ of one number, softmax of rows
    costs            the value of a cost and δ^L (BP1) of one output, and the output layer
    dot_products     the products of rows with rows, without packing
    products         the three matrix products of a layer
    rows             rows of a data set as x and y
    dropout          the factors of hidden units, with the bits of `network.dropout`
    backprop         forward pass, output layer and backward pass of a shard
    update           from a summed gradient to new parameters, with the bits of `network.update`
    views            the arrays that a descriptor has the addresses of
    spans            the spans of a profile
    batch_gradient   the gradients of a rank's shards of a batch
    slice_update     sum and update of the slice of θ that a rank owns, and the end of a step
    step             all of these together, in one call: whole steps with the barriers, or one phase

**Kernels** are pure functions on arrays and numbers: they allocate nothing, raise nothing, and
keep no state. They are made by functions whose names begin with `make`, for a type of number and
the options of a run, so that only what a run uses is compiled. No address is part of their code,
and none needs numba's runtime: their machine code may be stored, and run without numba.
"""
