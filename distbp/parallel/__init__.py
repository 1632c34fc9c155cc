"""The sum of the gradients over all ranks: the same bits on any number of them.

The sum
=======
A mini-batch is cut into *shards*. Their number S is part of the configuration, not a function
of the number of ranks: whichever rank computes a shard uses arrays of the same shapes, and so
gets the same bits. Each rank computes a contiguous run of shards. The S gradients are added in
one fixed binary tree: a rank adds up the subtrees that lie inside its run, its *partial
sums*, and the tree above them is completed across ranks. Everything random is a function of
seed, epoch, step and shard. It follows that

- `batch_size` is that of the global mini-batch, and the learning rate keeps its meaning on any
  number of ranks;
- any number of rows works with any number of ranks: none is dropped, padded or repeated;
- a run can be resumed on another number of ranks, also in the middle of an epoch, and has the
  same bits.

Equal bits are guaranteed for equal versions of NumPy and BLAS, the same kernels of BLAS (see
`distbp.kernels`), `--engine`, `--blas` and `--threads`. A checkpoint records all of them, and a
run on a mixture warns.

One node
========
A node has one copy of everything. The parameters θ, the optimizer state and the gradients of
all its ranks lie in shared memory, which is a file without a name in `/dev/shm`. A step is

    backprop            each rank: its shards' gradients, added up into its partial sums
    barrier
    sum and update      each rank: its own slice of all partial sums in tree order, then that
                        slice of θ and of the optimizer state
    barrier

with one more barrier for `--clip-norm`, which needs the norm of the whole gradient. No message
is sent. Updates are atomic: θ and the optimizer state are double-buffered, a step reads one
version and writes the other, so a step that does not complete has changed nothing.

If `/dev/shm` is too small, the folder for temporary files is used; if ranks cannot share memory
at all, they send messages as with `--combine tree`. Both are reported, and change no bit.

Several nodes
=============
Each node has a full replica of θ, and the ranks are numbered node by node. The ranks that own
the same slice on all nodes exchange it: all partial sums of a part of the slice are sent to the
one of them that owns this part; it completes the sum, and sends the result to all. If the
shards of each of M nodes form one subtree, a node sends 2 (M − 1) / M times the size of θ per
step, the least that any algorithm can send.

The exchange is in parts, layer by layer from the output. Where it gains time, that of a layer
begins when all ranks of the node have its gradient, while the layers below are still being
computed, and θ is updated part by part as the sums arrive (see `overlap`). What backprop leaves
over comes in the order of the next forward pass, of which each layer is computed as soon as its θ
is there; if the step turns out not to be applied, that is forgotten.

Failures
========
A `DistbpError` of one rank is raised on all, and any other exception on one of several ranks
aborts all. A rank that hangs is killed by the watchdog of another rank on its node. When a rank
has died, ranks that wait for it raise: in the node's barrier after 0.1 s, in MPI if it reports
failures (ULFM). Then `shrink` returns the topology of the survivors, which have the state of
the run in memory, and training continues on them. Without ULFM the job ends.

A process on its own
====================
Without a launcher, MPI is neither needed nor loaded; a worker of `multiprocessing` and a process
that was forked are on their own even if their parent is a rank. Threads of one process may train at
the same time, with the same number of BLAS threads.

Modules, in reading order
=========================
shards          which rows are a shard, which shards a rank's, and the tree of the sum
cgroup          the limits of a container or batch job
host            cores, BLAS and software versions of the machine
environment     what launchers tell a rank by environment variables, and what it reports back
mpi             start and abort MPI; the only import of mpi4py
comm            `Group`: every message that the program sends
shared_memory   memory that the ranks of a node share
barrier         the barrier in it
topology        `Topology`: the ranks by node; `connect`, `shrink`
rank_errors     what ranks do about the error of one of them
shared_array    arrays in shared memory
step_totals     what is summed along with the gradient
reduction_plan  who adds what, as a value
exchange_order  which of its messages come first
internode       how nodes complete a sum together
overlap         the exchange while the gradient, or the next forward pass, is being computed
reduction       from gradients to new parameters
reduction_factory
                the reductions by name, with what they need of the communicator
watchdog        detects and kills hung ranks
"""
