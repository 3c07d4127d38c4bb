"""Ways to write the same operation, timed side by side on this machine.

  python benchmarks/formulations.py [--repeats=5] [--out=FILE.jsonl]

What docs/performance.md says of 1x1 convolutions, max pooling and YNNPACK comes
from here. One XLA device, float32, the shapes of ResNet-50 on a clip of 10
frames of 256 x 256; every line is the median of the repeats and their range.
"""

import argparse
from collections.abc import Callable, Iterator
import json
import pathlib

from flax import linen as nn
import jax
import numpy as np

from echoforge_jax.bench import speed_timing as timing
from echoforge_jax.evaluation import receipt
from echoforge_jax.models import build_model, layers

# Side, channels in, channels out, of 1x1 convolutions.
POINTWISE = ((64, 64, 64), (64, 64, 256), (64, 256, 64), (32, 128, 512),
             (32, 512, 128), (16, 256, 1024), (8, 512, 2048))
# What XLA's CPU compiler hands to YNNPACK; None: as it comes.
OPTION = 'xla_cpu_experimental_ynn_fusion_type'
LIBRARY = {'as it comes': None,
           'reductions only': {OPTION: 'LIBRARY_FUSION_TYPE_REDUCE'},
           'nothing': {OPTION: ''}}
MODELS = {'sscf, one target': ('sscf', 3, 256, {}),
          'sscf, clip of ten': ('sscf', 10, 256, {'clips': True}),
          'echoforge, resnet50, clip': ('echoforge', 10, 256, {}),
          'echoforge, lite, clip': (
              'echoforge', 10, 128, {'backbone': 'lite'})}


def noise(*shape: int) -> np.ndarray:
  """Normal numbers, float32, the same in every run."""
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def directions(function: Callable, x: np.ndarray, kernel: np.ndarray | None
               ) -> Iterator[tuple[str, Callable, tuple]]:
  """Forward, and the gradients in x and in the kernel where there is one."""
  inputs = (x,) if kernel is None else (x, kernel)
  ones = np.ones(jax.eval_shape(function, *inputs).shape, np.float32)
  yield 'forward', function, inputs
  for index, name in enumerate(('input gradient', 'kernel gradient')[
      :len(inputs)]):
    def gradient(cotangent, *inputs, index=index):
      return jax.vjp(function, *inputs)[1](cotangent)[index]
    yield name, gradient, (ones, *inputs)


def cases() -> Iterator[tuple[str, str, Callable, tuple, dict | None]]:
  """What is timed: group, formulation, function, inputs, compiler options."""
  for side, inputs, features in POINTWISE:
    x = noise(10, side, side, inputs)
    kernel = noise(1, 1, inputs, features)
    for name, module in (
        ('convolution', nn.Conv(features, (1, 1), use_bias=False)),
        ('product', layers.PointwiseConv(features, use_bias=False))):
      def pointwise(x, kernel, module=module):
        return module.apply({'params': {'kernel': kernel}}, x)
      for part, function, given in directions(pointwise, x, kernel):
        yield (f'1x1, {side} x {side}, {inputs} to {features}, {part}', name,
               function, given, None)
  x = np.maximum(noise(10, 128, 128, 64), 0)
  for name, pool in (
      ('reduce_window', lambda x: nn.max_pool(
          x, (3, 3), (2, 2), [(1, 1)] * 2)), ('slices', layers.max_pool)):
    for part, function, given in directions(pool, x, None):
      yield f'max pool, {part}', name, function, given, None
  for title, (name, frames, side, options) in MODELS.items():
    model = build_model(name, **options)
    video = np.abs(noise(1, frames, side, side, 1)) % 1
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    variables = jax.tree.map(
        lambda leaf: noise(*leaf.shape) / np.float32(
            np.sqrt(np.prod(leaf.shape[:-1]))) if leaf.ndim > 1
        else np.ones(leaf.shape, leaf.dtype), shapes)

    def segment(variables, video, model=model):
      return model.apply(variables, video)['logits']
    for library, compiler in LIBRARY.items():
      yield title, library, segment, (variables, video), compiler


def main() -> None:
  """Prints a line a case, and writes them all where --out says."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--out', type=pathlib.Path)
  flags = parser.parse_args()
  about = {'device': receipt.device_kind(), 'versions': receipt.versions(),
           'git_revision': receipt.git_revision()}
  rows = []
  for group, name, function, given, options in cases():
    if options is not None and jax.default_backend() != 'cpu':
      continue
    given = jax.device_put(given)
    program = jax.jit(function).lower(*given).compile(options)
    seconds, _ = timing.time_calls(lambda: program(*given), flags.repeats)
    flops = (program.cost_analysis() or {}).get('flops', 0.0)
    middle = float(np.median(seconds))
    rows.append({'group': group, 'formulation': name, 'ms': 1e3 * middle,
                 'min_ms': 1e3 * seconds.min(), 'max_ms': 1e3 * seconds.max(),
                 'gflop_per_s': flops / middle / 1e9, **about})
    print(f'{group:45}{name:16}{1e3 * middle:9.1f} ms '
          f'({rows[-1]["min_ms"]:.1f} to {rows[-1]["max_ms"]:.1f})', flush=True)
  if flags.out:
    flags.out.write_text(''.join(json.dumps(row) + '\n' for row in rows))


if __name__ == '__main__':
  main()
