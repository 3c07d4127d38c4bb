"""Compiles training steps for an NVIDIA H200 where there is none.

  pip install -r requirements.txt 'jax[cuda13]'      # JAX 0.11; 4 GB, no GPU
  JAX_PLATFORMS=cpu python benchmarks/compile_for_gpu.py --batch=10 \\
      --config=configs/camus_echoforge.py --config.dtype=bfloat16 \\
      [--config.model.remat=True] [--out=FILE.jsonl]

Shows whether XLA's GPU compiler takes a step at all and what memory it needs:
a line of JSON, appended to --out. Nothing runs, so that no kernel is tuned;
what a real GPU chooses can need somewhat more or less.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
from jax.experimental import topologies

from echoforge_jax import provenance
from echoforge_jax.config import parse_config
from echoforge_jax.experiments.cost import count_flops
from echoforge_jax.planning import plan
from echoforge_jax.planning.topology import Slice

# XLA's description of the card (openxla/xla, xla/backends/gpu/target_config/
# specs/h200.txtpb), without the rates that only its cost model reads.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation" name: "NVIDIA H200 141GB HBM3e"
  platform_version: "Compute Capability 9.0a" device_address_bits: 64
  driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
  collective_memory_granularity: 2097152
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""


def main() -> int:
  """Compiles one step; 2 where this JAX cannot compile for GPUs."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--batch', type=int, default=10, help='clips')
  parser.add_argument('--config', required=True, metavar='FILE[:ARG]')
  parser.add_argument('--out', type=pathlib.Path)
  flags, fields = parser.parse_known_args()
  config, _ = plan.with_clips(parse_config([f'--config={flags.config}', *fields]), 1, flags.batch)
  jax.devices('cpu')  # Registers the plugin.
  try:
    devices = topologies.get_topology_desc(
      platform='cuda', target_config=H200, topology='1x1x1'
    ).devices
  except (RuntimeError, NotImplementedError, ValueError) as error:
    print(
      f"error: no compiler for GPUs ({error}); install 'jax[cuda13]', "
      'JAX 0.11 or later, and set JAX_PLATFORMS=cpu',
      file=sys.stderr,
    )
    return 2
  step, state, batch = plan.train_step(
    config, Slice('h200', None, devices[0].device_kind, (1,), devices[:1], 0)
  )
  lowered = step.lower(state, batch)
  start = time.perf_counter()
  memory = lowered.compile().memory_analysis()
  arguments, temporaries = (
    memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    memory.temp_size_in_bytes,
  )
  line = json.dumps(
    {
      'config': pathlib.Path(flags.config).name,
      'overrides': fields,
      'batch': flags.batch,
      'compiled_for': devices[0].device_kind,
      'arguments_mb': arguments / 1e6,
      'temporaries_mb': temporaries / 1e6,
      'memory_mb': (arguments + temporaries) / 1e6,
      'gflop_a_call': count_flops(lowered) / 1e9,
      'compile_s': time.perf_counter() - start,
      'git_revision': provenance.git_revision(),
      'versions': provenance.versions(),
    }
  )
  print(line)
  if flags.out:
    with flags.out.open('a') as file:
      file.write(line + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(main())
