"""What a model costs: parameters, operations and frames per second.

Operations are XLA's count before it changes the program, a multiply and an add
being two; papers that count multiply-adds as one say half of that.
"""

from collections.abc import Mapping
import dataclasses
import math
import statistics
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from echoforge_jax import cpu


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one model at one clip size.

  Attributes:
    parameters: that training learns, by top-level module.
    gflop: 1e9 operations of the forward pass of one clip, inference only.
    frames: of that clip.
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
    """All of them."""
    return sum(self.parameters.values())


def count_flops(lowered: Any) -> float:
  """Operations of a program, before the compiler changes anything.

  An accelerator's count leaves out what it calls libraries for, so the CPU's
  analysis of the same program is taken.

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


def measure(
  model: nn.Module, *, frames: int, image_size: int, repeats: int = 5
) -> Cost:
  """Counts and times the forward pass of one clip.

  Args:
    model: `apply(variables, video, train=False)`.
    frames: T of the clip.
    image_size: S.
    repeats: timed calls after one that is not; 0 times nothing and needs no
      memory for the weights.

  Returns:
    The cost on the default device.
  """
  shape = (1, frames, image_size, image_size, 1)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  init = jax.jit(lambda key, x: model.init(key, x, train=False))
  abstract = jax.eval_shape(init, jax.random.key(0), video)
  parameters = {name: _size(tree) for name, tree in abstract['params'].items()}

  def forward(variables: Any, x: jax.Array) -> jax.Array:
    return model.apply(variables, x, train=False)['logits']

  start = time.perf_counter()
  compiled = cpu.jit(forward).lower(abstract, video).compile()
  compile_seconds = time.perf_counter() - start
  rates = []
  if repeats:
    variables = jax.tree.map(
      lambda x: jnp.full(x.shape, 0.01, x.dtype), abstract
    )
    clip = jnp.asarray(np.random.default_rng(0).random(shape, np.float32))
    compiled(variables, clip).block_until_ready()
    for _ in range(repeats):
      start = time.perf_counter()
      compiled(variables, clip).block_until_ready()
      rates.append(frames / (time.perf_counter() - start))
  return Cost(
    parameters=parameters,
    # Of the model as it is written, on every device.
    gflop=count_flops(jax.jit(forward).lower(abstract, video)) / 1e9,
    frames=frames,
    image_size=image_size,
    frames_per_second=statistics.median(rates) if rates else math.nan,
    spread=(min(rates), max(rates)) if rates else (math.nan, math.nan),
    compile_seconds=compile_seconds,
  )


def _size(tree: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def of_config(
  config: ConfigDict, *, frames: int = 10, image_size: int = 0, repeats: int = 5
) -> Cost:
  """The cost of a config's model.

  Args:
    config: a config of `configs/`.
    frames: T of the clip (paper: 10).
    image_size: S; 0 takes the config's.
    repeats: as in `measure`.

  Returns:
    The cost.
  """
  from echoforge_jax.training import build

  return measure(
    build.make_model(config),
    frames=frames,
    image_size=image_size or config.data.image_size,
    repeats=repeats,
  )


def cost_text(name: str, cost: Cost) -> str:
  """The cost in a few lines.

  Args:
    name: of the config.
    cost: of `measure`.

  Returns:
    Lines without a trailing newline.
  """
  modules = '  '.join(
    f'{part} {count:,}' for part, count in cost.parameters.items()
  )
  lines = [
    f'{name}: {cost.total_parameters / 1e6:.2f} M parameters, '
    f'{cost.gflop:.1f} GFLOP a clip of {cost.frames} frames of '
    f'{cost.image_size}x{cost.image_size} (a multiply-add counts two), '
    f'{cost.gflop / cost.frames:.2f} a frame',
    f'  {modules}',
  ]
  if not math.isnan(cost.frames_per_second):
    low, high = cost.spread
    device = jax.local_devices()[0]
    lines.append(
      f'  {cost.frames_per_second:.1f} frames/s [{low:.1f}, {high:.1f}] on '
      f'{device.platform} ({device.device_kind}), compiled in '
      f'{cost.compile_seconds:.0f} s'
    )
  return '\n'.join(lines)
