"""Ways to write the same operation, timed side by side on this machine.

  python -m benchmarks.formulations [--repeats=5] [--out=FILE.jsonl]
      [--only=stem,1x1] [--clips=16] [--dtype=bfloat16]

What docs/performance.md says of the stem, 1x1 convolutions, max pooling
and YNNPACK comes from here. One XLA device, the shapes
of ResNet-50 on clips of 10 frames of 256 x 256 and those of SSCF; every line is
the median of the repeats and their range.
"""

import argparse
from collections.abc import Callable, Iterator
import json
import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import timing
from echoforge_jax import cpu, provenance
from echoforge_jax.experiments.cost import count_flops
from echoforge_jax.models import build_model, layers

# Side, channels in, channels out, of 1x1 convolutions.
POINTWISE = (
  (64, 64, 64),
  (64, 64, 256),
  (64, 256, 64),
  (32, 128, 512),
  (32, 512, 128),
  (16, 256, 1024),
  (8, 512, 2048),
)
# What XLA's CPU compiler hands to YNNPACK; None: as it comes.
LIBRARY = {'as it comes': None, 'reductions only': cpu.TRAINING, 'nothing': cpu.INFERENCE}
MODELS = {
  'sscf, one target': ('sscf', 3, 256, {}),
  'sscf, clip of ten': ('sscf', 10, 256, {'clips': True}),
  'echoforge, resnet50, clip': ('echoforge', 10, 256, {}),
  'echoforge, lite, clip': ('echoforge', 10, 128, {'backbone': 'lite'}),
}


def noise(*shape: int) -> np.ndarray:
  """Normal numbers, float32, the same in every run."""
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def stem(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """7x7 convolution of stride 2, frames [N, H, W, 1] to [N, H/2, W/2, F]."""
  return jax.lax.conv_general_dilated(
    x, kernel, (2, 2), [(3, 3)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _blocks(x: jax.Array) -> jax.Array:
  """Blocks of 2x2 pixels as channels, padded by 2 before and 1 after."""
  n, h, w, _ = x.shape
  x = x.reshape(n, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 2, 4)
  return jnp.pad(x.reshape(n, h // 2, w // 2, 4), ((0, 0), (2, 1), (2, 1), (0, 0)))


def _block_kernel(kernel: jax.Array) -> jax.Array:
  """The stem's kernel [7, 7, 1, F] for `_blocks`, [4, 4, 4, F]."""
  features = kernel.shape[-1]
  kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
  return kernel.reshape(4, 2, 4, 2, features).transpose(0, 2, 1, 3, 4).reshape(4, 4, 4, features)


def stem_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`stem` as a 4x4 convolution of blocks of 2x2 pixels."""
  return jax.lax.conv_general_dilated(
    _blocks(x), _block_kernel(kernel), (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def stem_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`stem` as one matrix product of sixteen shifted maps of blocks."""
  n, h, w, _ = x.shape
  blocks = _blocks(x)
  patches = jnp.concatenate(
    [blocks[:, i : i + h // 2, j : j + w // 2] for i in range(4) for j in range(4)], -1
  )
  y = patches.reshape(-1, 64) @ _block_kernel(kernel).reshape(64, -1)
  return y.reshape(n, h // 2, w // 2, -1)


def directions(
  function: Callable, x: np.ndarray, kernel: np.ndarray | None
) -> Iterator[tuple[str, Callable, tuple]]:
  """Forward, and the gradients in x and in the kernel where there is one."""
  inputs = (x,) if kernel is None else (x, kernel)
  ones = np.ones(jax.eval_shape(function, *inputs).shape, np.float32)
  yield 'forward', function, inputs
  for index, name in enumerate(('input gradient', 'kernel gradient')[: len(inputs)]):

    def gradient(cotangent, *inputs, index=index):
      return jax.vjp(function, *inputs)[1](cotangent)[index]

    yield name, gradient, (ones, *inputs)


def cases(frames: int) -> Iterator[tuple[str, str, Callable, tuple, dict | None]]:
  """What is timed: group, formulation, function, inputs, compiler options."""
  x, kernel = noise(frames, 256, 256, 1), noise(7, 7, 1, 64) / 7
  for name, function in (('convolution', stem), ('blocks', stem_blocks), ('product', stem_product)):
    for part, one, given in directions(function, x, kernel):
      if part != 'input gradient':  # Of the frames: nobody asks for it.
        yield f'stem, {part}', name, one, given, None
  for side, inputs, features in POINTWISE:
    x = noise(frames, side, side, inputs)
    kernel = noise(1, 1, inputs, features)
    for name, module in (
      ('convolution', nn.Conv(features, (1, 1), use_bias=False)),
      ('product', layers.PointwiseConv(features, use_bias=False)),
    ):

      def pointwise(x, kernel, module=module):
        return module.apply({'params': {'kernel': kernel}}, x)

      for part, function, given in directions(pointwise, x, kernel):
        yield (f'1x1, {side} x {side}, {inputs} to {features}, {part}', name, function, given, None)
  x = np.maximum(noise(frames, 128, 128, 64), 0)
  for name, pool in (
    ('reduce_window', lambda x: nn.max_pool(x, (3, 3), (2, 2), [(1, 1)] * 2)),
    ('slices', layers.max_pool),
  ):
    for part, function, given in directions(pool, x, None):
      yield f'max pool, {part}', name, function, given, None
  for title, (name, count, side, options) in MODELS.items():
    model = build_model(name, **options)
    video = np.abs(noise(1, count, side, side, 1)) % 1
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    variables = jax.tree.map(
      lambda leaf: (
        noise(*leaf.shape) / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        if leaf.ndim > 1
        else np.ones(leaf.shape, leaf.dtype)
      ),
      shapes,
    )

    def segment(variables, video, model=model):
      return model.apply(variables, video)['logits']

    for library, compiler in LIBRARY.items():
      yield title, library, segment, (variables, video), compiler


def main() -> None:
  """Prints a line a case, and writes them all where --out says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument(
    '--only', default='', metavar='A,B', help='groups that begin with these (default: all)'
  )
  parser.add_argument('--clips', type=int, default=1, help='of 10 frames; whole models get one')
  parser.add_argument(
    '--dtype',
    default='float32',
    choices=['float32', 'bfloat16'],
    help="of all but whole models' weights",
  )
  parser.add_argument('--out', type=pathlib.Path)
  flags = parser.parse_args()
  about = {
    'device': provenance.device_kind(),
    'versions': provenance.versions(),
    'git_revision': provenance.git_revision(),
  }
  rows = []
  only = tuple(filter(None, flags.only.split(',')))
  for group, name, function, given, options in cases(10 * flags.clips):
    if (
      options is not None
      and jax.default_backend() != 'cpu'
      or (only and not group.startswith(only))
    ):
      continue
    given = jax.device_put(given)
    if group not in MODELS:
      given = jax.tree.map(lambda x: x.astype(flags.dtype), given)
    lowered = jax.jit(function).lower(*given)
    program = lowered.compile(options)
    seconds, _ = timing.time_calls(lambda: program(*given), flags.repeats)
    flops = count_flops(lowered)
    middle = float(np.median(seconds))
    rows.append(
      {
        'group': group,
        'formulation': name,
        'ms': 1e3 * middle,
        'min_ms': 1e3 * seconds.min(),
        'max_ms': 1e3 * seconds.max(),
        'gflop_per_s': flops / middle / 1e9,
        'clips': flags.clips,
        'dtype': flags.dtype,
        **about,
      }
    )
    print(
      f'{group:45}{name:18}{1e3 * middle:9.3g} ms '
      f'({rows[-1]["min_ms"]:.3g} to {rows[-1]["max_ms"]:.3g})',
      flush=True,
    )
  if flags.out:
    flags.out.write_text(''.join(json.dumps(row) + '\n' for row in rows))


if __name__ == '__main__':
  main()
