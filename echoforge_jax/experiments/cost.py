"""Costs of a model: parameters, operations and frames per second.

Operations are XLA's count before it changes the program. A multiply-add is two; papers that
count it as one report half.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import math
from pathlib import Path
import statistics
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from echoforge_jax import cpu, provenance, textio
from echoforge_jax.training import build

# The default of `study --study=cost`.
CONFIGS = 'camus_echoforge', 'camus_sscf', 'phantom_lite', 'phantom_sscf_lite'
FRAMES = 10  # Of a clip, as in the paper.


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one model at one clip size."""

  parameters: Mapping[str, int]  # Trained ones by top-level module.
  gflop: float  # 1e9 operations of the forward pass of one clip, inference only.
  frames: int
  image_size: int
  frames_per_second: float  # Median over repeats; NaN where it was not measured.
  spread: tuple[float, float]  # Smallest and largest frames per second.
  compile_seconds: float

  @property
  def total_parameters(self) -> int:
    """Returns the trained parameters of all modules."""
    return sum(self.parameters.values())


def count_flops(lowered: Any) -> float:
  """Counts the operations of a lowered program over all devices; NaN where JAX cannot say.

  A multiply-add is two, the body of a loop counts once. The CPU's analysis of the same program
  stands in for that of devices which have none.
  """
  costs = None
  with contextlib.suppress(RuntimeError):  # Of devices that are not here, such as `plan`'s.
    costs = lowered.cost_analysis()
  if not costs:
    # JAX offers it for CPUs only, by no public name.
    with contextlib.suppress(ImportError, AttributeError, RuntimeError):
      from jaxlib import _jax

      module = lowered.compiler_ir('hlo').as_hlo_module()
      costs = _jax.hlo_module_cost_analysis(jax.devices('cpu')[0].client, module)
  return float((costs or {}).get('flops', math.nan))


def measure_model(model: nn.Module, *, frames: int, image_size: int, repeats: int = 5) -> Cost:
  """Counts and times the forward pass of one clip on the default device.

  `repeats` calls are timed after one that is not; 0 times nothing and needs no memory for the
  weights.
  """
  shape = (1, frames, image_size, image_size, 1)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  init = jax.jit(lambda key, x: model.init(key, x, train=False))
  abstract = jax.eval_shape(init, jax.random.key(0), video)

  def forward(variables, x):
    return model.apply(variables, x, train=False)['logits']

  start = time.perf_counter()
  compiled = cpu.jit(forward).lower(abstract, video).compile()
  compile_seconds = time.perf_counter() - start
  rates = []
  if repeats:
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), abstract)
    clip = jnp.asarray(np.random.default_rng(0).random(shape, np.float32))
    compiled(variables, clip).block_until_ready()
    for _ in range(repeats):
      start = time.perf_counter()
      compiled(variables, clip).block_until_ready()
      rates.append(frames / (time.perf_counter() - start))
  return Cost(
    parameters={
      name: sum(leaf.size for leaf in jax.tree.leaves(tree))
      for name, tree in abstract['params'].items()
    },
    # Of the model as it is written, on every device.
    gflop=count_flops(jax.jit(forward).lower(abstract, video)) / 1e9,
    frames=frames,
    image_size=image_size,
    frames_per_second=statistics.median(rates) if rates else math.nan,
    spread=(min(rates), max(rates)) if rates else (math.nan, math.nan),
    compile_seconds=compile_seconds,
  )


def of_configs(configs: Mapping[str, ConfigDict]) -> dict[str, Cost]:
  """Measures the model of each config on clips of ten frames of its size."""
  return {
    name: measure_model(build.make_model(config), frames=FRAMES, image_size=config.data.image_size)
    for name, config in configs.items()
  }


def markdown(costs: Mapping[str, Cost]) -> str:
  """Returns the costs as a Markdown table, with a trailing newline."""
  lines = [
    '| config | M parameters | GFLOP per clip | per frame | clip | frames/s | compile (s) |',
    '|---|---:|---:|---:|---|---:|---:|',
  ]
  for name, cost in costs.items():
    low, high = cost.spread
    lines.append(
      f'| {name} | {cost.total_parameters / 1e6:.2f} | {cost.gflop:.1f} '
      f'| {cost.gflop / cost.frames:.2f} | {cost.frames} x {cost.image_size} x {cost.image_size} '
      f'| {cost.frames_per_second:.1f} [{low:.1f}, {high:.1f}] | {cost.compile_seconds:.0f} |'
    )
  return (
    '\n'.join(lines) + '\n\nA multiply-add counts two; frames/s: median [smallest, largest] on '
    f'{provenance.device_kind()}.\n'
  )


def write(costs: Mapping[str, Cost], out_dir: Path) -> list[Path]:
  """Writes cost.md and cost.json to a folder, made if missing."""
  out_dir.mkdir(parents=True, exist_ok=True)
  files = [out_dir / 'cost.md', out_dir / 'cost.json']
  files[0].write_text(markdown(costs))
  found = {
    'device': provenance.device_kind(),
    'git_revision': provenance.git_revision(),
    'versions': provenance.versions(),
    'costs': {name: dataclasses.asdict(cost) for name, cost in costs.items()},
  }
  textio.write_json(files[1], found)
  return files
