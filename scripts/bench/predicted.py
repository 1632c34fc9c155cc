"""Print what `distbp plan` predicts for the ranks that this is started on, as JSON."""

import json
import sys

from distbp.launch.planner import measure_costs, predict_step
from distbp.network.parameters import theta_size
from distbp.parallel import host
from distbp.parallel.shards import default_shards
from distbp.parallel.topology import connect
from distbp.training.compiled_engine import choose_engine
from distbp.training.config import Config

comm = connect()
host.set_blas_threads(1)
sizes_text, _, batch_text = sys.argv[1].partition(":")
sizes, batch = [int(n) for n in sizes_text.split("-")], int(batch_text)
shards = default_shards(batch, sizes)
engine = choose_engine(Config(), comm)
costs = measure_costs(comm, sizes, "float32", -(-batch // shards), 0.0, 1e9, engine)
step = predict_step(costs, theta_size(sizes), 4, shards, comm.size, int(sys.argv[2]), sizes)
if comm.rank == 0:
    print(json.dumps(vars(costs) | vars(step) | {
        "seconds": step.seconds, "megabytes": theta_size(sizes) * 4e-6,
    }))  # fmt: skip
