"""Costs of a model: parameters, operations and frames per second.

Operations are XLA's count before it changes the program, a multiply and an add
being two; papers that count multiply-adds as one report half of that.
"""

from collections.abc import Mapping
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

# What `study --study=cost` counts unless it is told otherwise.
CONFIGS = 'camus_echoforge', 'camus_sscf', 'phantom_lite', 'phantom_sscf_lite'
FRAMES = 10  # Of a clip, as in the paper.


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one model at one clip size.

  Attributes:
    parameters: trained parameters by top-level module.
    gflop: 1e9 operations of the forward pass of one clip, inference only.
    frames: T of that clip.
    image_size: side of its frames.
    frames_per_second: median over repeats; NaN where it was not measured.
    spread: (smallest, largest) frames per second.
    compile_seconds: of the forward pass.
  """

  parameters: Mapping[str, int]
  gflop: float
  frames: int
  image_size: int
  frames_per_second: float
  spread: tuple[float, float]
  compile_seconds: float

  @property
  def total_parameters(self) -> int:
    """Trained parameters of all modules."""
    return sum(self.parameters.values())


def count_flops(lowered: Any) -> float:
  """Counts the operations of a program before the compiler changes it.

  An accelerator's count leaves out what it calls libraries for, so the CPU's
  analysis of the same program stands in where there is none.

  Args:
    lowered: of `jax.jit(...).lower`, for any device.

  Returns:
    Operations over all devices, a multiply-add being two; the body of a loop
    counts once. NaN where this JAX cannot say.
  """
  try:
    costs = lowered.cost_analysis()
  except RuntimeError:  # Of devices that are not here, such as `plan`'s.
    costs = None
  if not costs:
    try:
      # JAX offers it for CPUs only, by no public name.
      from jaxlib import _jax

      costs = _jax.hlo_module_cost_analysis(
        jax.devices('cpu')[0].client, lowered.compiler_ir('hlo').as_hlo_module()
      )
    except (ImportError, AttributeError, RuntimeError):
      costs = None
  return float((costs or {}).get('flops', math.nan))


def measure_model(model: nn.Module, *, frames: int, image_size: int, repeats: int = 5) -> Cost:
  """Counts and times the forward pass of one clip on the default device.

  Args:
    model: `apply(variables, video, train=False)`.
    frames: T of the clip.
    image_size: S.
    repeats: timed calls after one that is not; 0 times nothing and needs no
      memory for the weights.
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
      name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
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
      f'| {cost.gflop / cost.frames:.2f} '
      f'| {cost.frames} x {cost.image_size} x {cost.image_size} '
      f'| {cost.frames_per_second:.1f} [{low:.1f}, {high:.1f}] '
      f'| {cost.compile_seconds:.0f} |'
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
