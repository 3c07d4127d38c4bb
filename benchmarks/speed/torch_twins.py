"""Twins in plain eager torch, where torch is installed.

Functions that make networks take the module, so that nothing here imports it at
the start. SSCF is written anew from the published structure: each pair of
frames has a kernel of its own, which is made first and then convolved, all
pairs of the batch at once as groups, as the paper describes it.
"""

from collections.abc import Callable
import importlib.util
import math
from typing import Any

import jax
import numpy as np

from benchmarks.speed import timing
from benchmarks.speed.parts import Bench
from benchmarks.speed.timing import Found, NotMeasuredError
from echoforge_jax.models.backbone import RESNETS
from echoforge_jax.models.sscf import LEVELS, POOLS


def _block(torch, inputs: int, features: int, stride: int, bottleneck=False):
  """Makes a residual block with torchvision's names."""
  nn = torch.nn
  sizes = (1, 3, 1) if bottleneck else (3, 3)
  outputs = 4 * features if bottleneck else features
  channels = [inputs, *[features] * (len(sizes) - 1), outputs]

  class Block(nn.Module):
    """Convolutions with a shortcut."""

    def __init__(self):
      super().__init__()
      for n, size in enumerate(sizes, start=1):
        step = stride if n == len(sizes) - 1 else 1
        conv = nn.Conv2d(channels[n - 1], channels[n], size, step, size // 2, bias=False)
        setattr(self, f'conv{n}', conv)
        setattr(self, f'bn{n}', nn.BatchNorm2d(channels[n]))
      self.downsample = None
      if stride != 1 or inputs != outputs:
        self.downsample = nn.Sequential(
          nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
      y = x
      for n in range(1, len(sizes) + 1):
        y = getattr(self, f'bn{n}')(getattr(self, f'conv{n}')(y))
        if n < len(sizes):
          y = torch.relu(y)
      shortcut = x if self.downsample is None else self.downsample(x)
      return torch.relu(y + shortcut)

  return Block()


def _encoder(torch, widths, depths, *, pool: bool, bottleneck=False):
  """Makes a ResNet: frames [N, 1, H, W] -> list of the maps of all stages."""
  nn = torch.nn

  class Encoder(nn.Module):
    """Stem, then a stage after the other."""

    def __init__(self):
      super().__init__()
      self.first = nn.Sequential(
        nn.Conv2d(1, widths[0], 7, 2, 3, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        *[nn.MaxPool2d(3, 2, 1)] * pool,
      )
      inputs = widths[0]
      for stage, (width, depth) in enumerate(zip(widths, depths)):
        blocks = []
        for index in range(depth):
          stride = 2 if stage and not index else 1
          blocks.append(_block(torch, inputs, width, stride, bottleneck))
          inputs = width * (4 if bottleneck else 1)
        setattr(self, f'encoder{stage + 1}', nn.Sequential(*blocks))

    def forward(self, x):
      x, maps = self.first(x), []
      for stage in range(1, len(widths) + 1):
        x = getattr(self, f'encoder{stage}')(x)
        maps.append(x)
      return maps

  return Encoder()


def resnet(torch, variant: str):
  """Makes the trunk of a `models.backbone.RESNETS` key, grayscale stem."""
  depths, bottleneck = RESNETS[variant]
  widths = [64 * 2**stage for stage in range(len(depths))]
  return _encoder(torch, widths, depths, pool=True, bottleneck=bottleneck).eval()


def _fusion(torch, channels: int):
  """Makes ASSC of both neighbours and BSSF at one level."""
  nn, functional = torch.nn, torch.nn.functional

  def summary(x):
    return torch.cat([functional.adaptive_max_pool2d(x, side).flatten(2) for side in POOLS], dim=2)

  class Calibration(nn.Module):
    """A neighbour, convolved with the kernel of its pair."""

    def __init__(self):
      super().__init__()
      self.Tq = nn.Conv2d(channels, channels, 3)
      self.Tk = nn.Conv2d(channels, channels, 3)
      self.condition = nn.Parameter(torch.ones(channels, channels, 3, 3))

    def forward(self, neighbour, target):
      attention = torch.sigmoid(
        summary(self.Tq(neighbour)) @ summary(self.Tk(target)).transpose(1, 2)
      )
      count, c, height, width = neighbour.shape
      kernels = (attention @ self.condition.flatten(1)).reshape(count * c, c, 3, 3)
      found = functional.conv2d(
        neighbour.reshape(1, count * c, height, width), kernels, padding=1, groups=count
      )
      return found.reshape(neighbour.shape)

  class Fusion(nn.Module):
    """Three maps become one."""

    def __init__(self):
      super().__init__()
      self.forward_calibration = Calibration()
      self.backward_calibration = Calibration()
      self.out_conv = nn.Sequential(
        nn.Conv2d(3 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
      )

    def forward(self, previous, target, following):
      before = self.forward_calibration(previous, target)
      after = self.backward_calibration(following, target)
      return self.out_conv(torch.cat([before, target, after], dim=1))

  return Fusion()


def _decoder_block(torch, channels: int):
  """Makes a LinkNet block: twice the sides, half the channels."""
  nn, inside = torch.nn, channels // 4

  class Decoder(nn.Module):
    """1x1, transposed 3x3 and 1x1 convolution."""

    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(channels, inside, 1)
      self.norm1 = nn.BatchNorm2d(inside)
      self.deconv2 = nn.ConvTranspose2d(inside, inside, 3, 2, 1, 1)
      self.norm2 = nn.BatchNorm2d(inside)
      self.conv3 = nn.Conv2d(inside, channels // 2, 1)
      self.norm3 = nn.BatchNorm2d(channels // 2)

    def forward(self, x):
      x = torch.relu(self.norm1(self.conv1(x)))
      x = torch.relu(self.norm2(self.deconv2(x)))
      return torch.relu(self.norm3(self.conv3(x)))

  return Decoder()


def sscf(torch, *, width: int = 64, num_classes: int = 1):
  """Makes SSCF in inference mode, windows [N, 3, H, W] -> logits [N, K, H, W].

  It has the published names, which `models.weights.from_torch('sscf')` takes; `width` channels
  at stride 2 (published: 64).
  """
  nn = torch.nn
  widths = [width * 2**level for level in range(LEVELS)]

  class Twin(nn.Module):
    """Encoders, fusion and decoder."""

    def __init__(self):
      super().__init__()
      self.TCE, self.STFT = nn.Module(), nn.Module()
      self.TCE.FE = nn.ModuleList(
        _encoder(torch, widths, [2] * LEVELS, pool=False) for _ in range(3)
      )
      self.STFT.stages = nn.ModuleList(_fusion(torch, c) for c in widths)
      for level, c in enumerate(widths, start=1):
        setattr(self, f'decoder{level}', _decoder_block(torch, c))
      self.finalconv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1)
      self.finalconv3 = nn.Conv2d(width // 2, num_classes, 3, padding=1)

    def forward(self, windows):
      maps = zip(*(encoder(windows[:, [place]]) for place, encoder in enumerate(self.TCE.FE)))
      fused = [stage(*three) for stage, three in zip(self.STFT.stages, maps)]
      x = fused.pop()
      while fused:
        x = getattr(self, f'decoder{len(fused) + 1}')(x) + fused.pop()
      return self.finalconv3(torch.relu(self.finalconv2(self.decoder1(x))))

  return Twin().eval()


def _import_torch() -> Any:
  if importlib.util.find_spec('torch') is None:
    raise NotMeasuredError('torch is not installed (make torch)')
  try:
    import torch
  except (ImportError, OSError) as error:  # Such as a lacking CUDA library.
    raise NotMeasuredError(f'torch cannot be imported: {error}') from error
  if jax.default_backend() == 'gpu' and not torch.cuda.is_available():
    raise NotMeasuredError('this torch does not see the GPU')
  return torch


def _timed(
  bench: Bench,
  make: Callable[[Any], Any],
  shape: tuple[int, ...],
  compared: str,
  values: dict[str, Any],
  gradients: bool = False,
) -> Found:
  """Times a network on noise, one frame of the result for each input.

  On a GPU channels are last and cuDNN tries its algorithms, which is the
  faster way there.
  """
  torch = _import_torch()
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  dtype = getattr(torch, bench.config.dtype)
  model = make(torch).train(gradients).to(device, dtype)
  inputs = np.random.default_rng(0).random(shape, np.float32)
  inputs = torch.from_numpy(inputs).to(device, dtype)
  if device == 'cuda':
    torch.backends.cudnn.benchmark = True
    model = model.to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)

  def call():
    if gradients:
      model.zero_grad(set_to_none=True)
      sum(x.float().square().mean() for x in model(inputs)).backward()
    else:
      with torch.inference_mode():
        model(inputs)
    if device == 'cuda':
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


def _trunk(bench: Bench, compared: str, gradients: bool) -> Found:
  variant = bench.config.model.get('backbone', 'resnet50')
  if bench.config.model.name != 'echoforge' or variant not in RESNETS:
    raise NotMeasuredError(
      f'the model {bench.config.model.name} ({variant}) has no residual '
      f'network to compare; choose a backbone of {", ".join(RESNETS)}'
    )
  return _timed(
    bench,
    lambda torch: resnet(torch, variant),
    (bench.clips * bench.frames, 1, *2 * [bench.image_size]),
    compared,
    {'backbone': variant, 'norm': 'batch'},
    gradients,
  )


def torch_trunk(bench: Bench) -> Found:
  """The same residual network in eager torch, batch norm in inference mode."""
  return _trunk(bench, 'trunk', False)


def torch_trunk_train(bench: Bench) -> Found:
  """Its gradients, as `parts.trunk_train` takes them."""
  return _trunk(bench, 'trunk_train', True)


def torch_sscf(bench: Bench) -> Found:
  """SSCF as published, in eager torch: one window for each target frame."""
  config = bench.config.model
  if config.name != 'sscf':
    raise NotMeasuredError(f'the model is {config.name}, not sscf; choose configs/camus_sscf.py')
  classes = len(bench.config.data.classes)
  count = bench.clips * (bench.frames if config.clips else 1)
  return _timed(
    bench,
    lambda torch: sscf(torch, width=config.width, num_classes=classes),
    (count, 3, *2 * [bench.image_size]),
    'forward',
    {'windows_a_call': count},
  )
