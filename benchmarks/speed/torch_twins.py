"""Twins in plain eager torch, where torch is installed."""

from collections.abc import Callable
import importlib.util
import math
from typing import Any

import jax
import numpy as np

from benchmarks.speed import timing
from benchmarks.speed import torch_sscf as twin
from benchmarks.speed.parts import Bench
from benchmarks.speed.timing import Found, NotMeasuredError
from echoforge_jax.models.backbone import RESNETS


def _convolution(nn, channels: int, features: int, size: int, stride: int = 1):
  return nn.Sequential(
    nn.Conv2d(channels, features, size, stride, size // 2, bias=False),
    nn.BatchNorm2d(features),
  )


def resnet(torch, variant: str):
  """A ResNet with a grayscale stem that gives the maps of all four stages.

  Args:
    torch: the module.
    variant: a key of `models.backbone.RESNETS`.

  Returns:
    A torch module, frames [N, 1, H, W] -> list of maps.
  """
  nn = torch.nn

  class Block(nn.Module):
    """Convolutions with a shortcut."""

    def __init__(self, channels, features, stride, bottleneck):
      super().__init__()
      wide = 4 * features if bottleneck else features
      self.path = nn.Sequential(
        *(
          [
            _convolution(nn, channels, features, 1),
            nn.ReLU(),
            _convolution(nn, features, features, 3, stride),
            nn.ReLU(),
            _convolution(nn, features, wide, 1),
          ]
          if bottleneck
          else [
            _convolution(nn, channels, features, 3, stride),
            nn.ReLU(),
            _convolution(nn, features, features, 3),
          ]
        )
      )
      self.shortcut = (
        nn.Identity()
        if stride == 1 and channels == wide
        else _convolution(nn, channels, wide, 1, stride)
      )

    def forward(self, x):
      return torch.relu(self.path(x) + self.shortcut(x))

  class Trunk(nn.Module):
    """Stem and stages."""

    def __init__(self):
      super().__init__()
      depths, bottleneck = RESNETS[variant]
      self.stem = nn.Sequential(
        _convolution(nn, 1, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
      )
      self.stages, channels = nn.ModuleList(), 64
      for stage, depth in enumerate(depths):
        blocks = []
        for index in range(depth):
          stride = 2 if stage and not index else 1
          blocks.append(Block(channels, 64 * 2**stage, stride, bottleneck))
          channels = 64 * 2**stage * (4 if bottleneck else 1)
        self.stages.append(nn.Sequential(*blocks))

    def forward(self, x):
      maps = [self.stem(x)]
      for stage in self.stages:
        maps.append(stage(maps[-1]))
      return maps[1:]

  return Trunk().eval()


def _import_torch(dtype: str) -> tuple[Any, str, Any]:
  """Torch, the place that JAX's default device is, and torch's dtype."""
  if importlib.util.find_spec('torch') is None:
    raise NotMeasuredError('torch is not installed (make torch)')
  try:
    import torch
  except (ImportError, OSError) as error:  # Such as a lacking CUDA library.
    raise NotMeasuredError(f'torch cannot be imported: {error}') from error
  accelerated = jax.default_backend() == 'gpu'
  if accelerated and not torch.cuda.is_available():
    raise NotMeasuredError('this torch does not see the GPU')
  return torch, 'cuda' if accelerated else 'cpu', getattr(torch, dtype)


def _timed(
  bench: Bench,
  torch: Any,
  model: Any,
  inputs: np.ndarray,
  place: str,
  dtype: Any,
  compared: str,
  values: dict[str, Any],
  run: Callable[[Any, Any], Any] | None = None,
) -> Found:
  """Times a module on inputs, one frame of the result for each.

  On a GPU channels are last and cuDNN tries its algorithms, which is the
  faster way there.
  """
  if place == 'cuda':
    torch.backends.cudnn.benchmark = True
    model = model.to(memory_format=torch.channels_last)
  model = model.to(place, dtype)
  inputs = torch.from_numpy(inputs).to(place, dtype)
  if place == 'cuda':
    inputs = inputs.contiguous(memory_format=torch.channels_last)

  def call():
    if run is None:
      with torch.inference_mode():
        model(inputs)
    else:
      run(model, inputs)
    if place == 'cuda':
      torch.cuda.synchronize()

  series, seconds = timing.rate(call, bench.repeats, len(inputs), 'frames/s')
  times = bench.times(compared, seconds)
  return Found(
    main=series,
    seconds=seconds,
    values={
      f'{compared}_time_over_this': None if times is None else 1 / times,
      'torch': torch.__version__,
      'threads': torch.get_num_threads(),
      'parameters_m': sum(math.prod(p.shape) for p in model.parameters()) / 1e6,
      **values,
    },
  )


def _torch_trunk(bench: Bench, compared: str, train: bool) -> Found:
  torch, place, dtype = _import_torch(bench.config.dtype)
  variant = bench.config.model.get('backbone', 'resnet50')
  if bench.config.model.name != 'echoforge' or variant not in RESNETS:
    raise NotMeasuredError(
      f'the model {bench.config.model.name} ({variant}) has no residual '
      f'network to compare; choose a backbone of {", ".join(RESNETS)}'
    )
  frames = np.random.default_rng(0).random(
    (bench.clips * bench.frames, 1, *2 * [bench.image_size]), np.float32
  )

  def gradients(model, inputs):
    model.zero_grad(set_to_none=True)
    sum(x.float().square().mean() for x in model(inputs)).backward()

  model = resnet(torch, variant).train(train)
  return _timed(
    bench,
    torch,
    model,
    frames,
    place,
    dtype,
    compared,
    {'backbone': variant, 'norm': 'batch'},
    gradients if train else None,
  )


def torch_trunk(bench: Bench) -> Found:
  """The same residual network in eager torch, batch norm in inference mode."""
  return _torch_trunk(bench, 'trunk', False)


def torch_trunk_train(bench: Bench) -> Found:
  """Its gradients, as `speed_parts.trunk_train` takes them."""
  return _torch_trunk(bench, 'trunk_train', True)


def torch_sscf(bench: Bench) -> Found:
  """SSCF as published, in eager torch: one window for each target frame."""
  config = bench.config.model
  if config.name != 'sscf':
    raise NotMeasuredError(
      f'the model is {config.name}, not sscf; choose configs/camus_sscf.py'
    )
  torch, place, dtype = _import_torch(bench.config.dtype)
  model = twin.make_twin(
    torch, width=config.width, num_classes=len(bench.config.data.classes)
  )
  count = bench.clips * (bench.frames if config.clips else 1)
  windows = np.random.default_rng(0).random(
    (count, 3, *2 * [bench.image_size]), np.float32
  )
  return _timed(
    bench,
    torch,
    model,
    windows,
    place,
    dtype,
    'forward',
    {'windows_a_call': count},
  )
