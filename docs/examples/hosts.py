"""EM on data that lie on several hosts: `python hosts.py HOST:PORT PROCESSES RANK`, once on each host."""

import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import elbo
from elbo import optim
from elbo.models import mixture

# Before anything else of JAX. On Slurm, Open MPI and Cloud TPU initialize() needs no arguments.
coordinator, processes, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for CPUs; GPUs use NCCL by themselves
jax.distributed.initialize(coordinator, processes, rank, heartbeat_timeout_seconds=30)

# Each host reads its own rows, here a part of what all of them could draw.
rows = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
rows[::2] += 3
mine = np.array_split(rows, processes)[rank]

# One array over all devices of all hosts. Nothing is sent: each device holds rows of its own host.
mesh = jax.make_mesh((jax.device_count(),), ("data",))
ys = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), mine)

# Every host runs the same program on the same parameters.
model = mixture.model(2)
rule = optim.em_step(model)
params = mixture.init(jax.random.key(0), ys, 2)
state = rule.init(params)
for _ in range(10):
    params, state, info = rule.update(None, params, state, ys)
log_p = elbo.evidence(model)(params, ys)  # spread over the hosts as ys is

if jax.process_index() == 0:
    print(f"{jax.process_count()} processes, {info.weight:.0f} data, ln P {info.elbo:.5f}")
    print("means", np.sort(params.theta.components.mean[:, 0]).tolist())
