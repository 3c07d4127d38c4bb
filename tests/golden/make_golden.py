"""Writes the outputs of PyTorch networks that the tests compare with.

  python -m pip install torch==2.13.0   # in an environment of its own
  python tests/golden/make_golden.py

The networks are written here anew, with torchvision's names and those of the
published SSCF module. Weights follow from names and shapes by `make_weights`,
here as in the tests, so that a file holds only names, shapes, an input and
outputs. Nothing but `main` needs torch.
"""

import json
import math
import pathlib
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent
DEPTHS = {'resnet18': (2, 2, 2, 2), 'resnet34': (3, 4, 6, 3), 'resnet50': (3, 4, 6, 3)}


def noise(name, shape):
  """Uniform of deviation 1 from a generator that no version will change."""
  count = math.prod(shape)
  bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(count // 2 + 1)
  unit = bits.view(np.uint32)[:count].astype(np.float32) / np.float32(2**32)
  return ((unit - np.float32(0.5)) * np.float32(math.sqrt(12))).reshape(shape)


def make_weights(shapes):
  """Name -> float32 array, from name -> shape.

  Scales keep activations near 1 and the attention of SSCF off its ends, where
  errors would hide; no statistic is the initial 0 or 1.
  """
  weights = {}
  for name, shape in shapes.items():
    x = noise(name, shape)
    if name.endswith('running_var'):
      x = 1 + 0.25 * np.abs(x)
    elif name.endswith('condition'):
      x = x / (3 * shape[0])
    elif len(shape) == 4:
      gain = (
        0.1 if '.Tq.' in name or '.Tk.' in name else 5.0 if name.startswith('finalconv') else 1.0
      )
      fan_in = math.prod(shape[1:]) / (4 if 'deconv2' in name else 1)
      x = x * (gain / math.sqrt(fan_in))
    elif name.endswith('.weight'):
      x = 1 + 0.1 * x
    else:
      x = 0.1 * x
    weights[name] = x.astype(np.float32)
  return weights


def main():
  """Writes one file a network beside this one."""
  import torch
  from torch import nn

  def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

  class Block(nn.Module):
    """A residual block; three convolutions if `wide`, else two."""

    def __init__(self, inputs, inside, stride, wide):
      super().__init__()
      outputs = inside * (4 if wide else 1)
      plan = (
        [(inputs, inside, 1, 1), (inside, inside, 3, stride), (inside, outputs, 1, 1)]
        if wide
        else [(inputs, inside, 3, stride), (inside, outputs, 3, 1)]
      )
      self.count = len(plan)
      for i, sides in enumerate(plan, start=1):
        setattr(self, f'conv{i}', conv(*sides))
        setattr(self, f'bn{i}', nn.BatchNorm2d(sides[1]))
      self.downsample = None
      if stride != 1 or inputs != outputs:
        self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
      y = x
      for i in range(1, self.count + 1):
        y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
        y = y.relu() if i < self.count else y
      return (y + (x if self.downsample is None else self.downsample(x))).relu()

  def stages(name):
    wide, inputs = name == 'resnet50', 64
    for level, depth in enumerate(DEPTHS[name]):
      blocks = []
      for index in range(depth):
        inside = 64 * 2**level
        blocks.append(Block(inputs, inside, 2 if level and not index else 1, wide))
        inputs = inside * (4 if wide else 1)
      yield nn.Sequential(*blocks)

  class ResNet(nn.Module):
    """torchvision's names, without the classifier."""

    def __init__(self, name):
      super().__init__()
      self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
      self.layer1, self.layer2, self.layer3, self.layer4 = stages(name)

    def forward(self, x):
      x = self.bn1(self.conv1(x)).relu()
      x = nn.functional.max_pool2d(x, 3, 2, 1)
      maps = []
      for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
        x = layer(x)
        maps.append(x)
      return maps

  class Encoder(nn.Module):
    """ResNet-18 without max pooling, by SSCF's names."""

    def __init__(self):
      super().__init__()
      self.first = nn.Sequential(conv(1, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU())
      (self.encoder1, self.encoder2, self.encoder3, self.encoder4) = stages('resnet18')

    def forward(self, x):
      maps = [self.first(x)]
      for level in range(1, 5):
        maps.append(getattr(self, f'encoder{level}')(maps[-1]))
      return maps[1:]

  class Calibration(nn.Module):
    """One convolution a sample, with the kernel that its pair makes."""

    def __init__(self, c):
      super().__init__()
      self.Tq, self.Tk = nn.Conv2d(c, c, 3), nn.Conv2d(c, c, 3)
      self.condition = nn.Parameter(torch.ones(c, c, 3, 3))

    def forward(self, neighbour, target):
      def summary(x):
        return torch.cat(
          [nn.functional.adaptive_max_pool2d(x, size).flatten(1) for size in (1, 3, 5, 7)], dim=1
        )

      outputs = []
      for one, other in zip(neighbour, target):
        attention = (summary(self.Tq(one[None])[0]) @ summary(self.Tk(other[None])[0]).T).sigmoid()
        kernel = torch.einsum('qk,kiyx->qiyx', attention, self.condition)
        outputs.append(nn.functional.conv2d(one[None], kernel, padding=1))
        spread.append(float(attention.std()))
      return torch.cat(outputs)

  class Fusion(nn.Module):
    """Forward-calibrated, target, backward-calibrated; 1x1; batch norm."""

    def __init__(self, c):
      super().__init__()
      self.forward_calibration = Calibration(c)
      self.backward_calibration = Calibration(c)
      self.out_conv = nn.Sequential(conv(3 * c, c, 1), nn.BatchNorm2d(c))

    def forward(self, before, target, after):
      return self.out_conv(
        torch.cat(
          [
            self.forward_calibration(before, target),
            target,
            self.backward_calibration(after, target),
          ],
          dim=1,
        )
      )

  class Decoder(nn.Module):
    """A LinkNet block."""

    def __init__(self, c):
      super().__init__()
      q = c // 4
      self.conv1, self.norm1 = nn.Conv2d(c, q, 1), nn.BatchNorm2d(q)
      self.deconv2 = nn.ConvTranspose2d(q, q, 3, 2, 1, 1)
      self.norm2 = nn.BatchNorm2d(q)
      self.conv3, self.norm3 = nn.Conv2d(q, c // 2, 1), nn.BatchNorm2d(c // 2)

    def forward(self, x):
      x = self.norm1(self.conv1(x)).relu()
      x = self.norm2(self.deconv2(x)).relu()
      return self.norm3(self.conv3(x)).relu()

  class Sscf(nn.Module):
    """SSCF for windows [N, 1, 3, H, W]."""

    def __init__(self):
      super().__init__()
      widths = (64, 128, 256, 512)
      self.TCE = nn.Module()
      self.TCE.FE = nn.ModuleList([Encoder() for _ in range(3)])
      self.STFT = nn.Module()
      self.STFT.stages = nn.ModuleList([Fusion(c) for c in widths])
      self.decoder4, self.decoder3, self.decoder2, self.decoder1 = (
        Decoder(c) for c in widths[::-1]
      )
      self.finalconv2 = nn.Conv2d(32, 32, 3, padding=1)
      self.finalconv3 = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x):
      maps = zip(*(encoder(x[:, :, i]) for i, encoder in enumerate(self.TCE.FE)))
      x1, x2, x3, x4 = (stage(*three) for stage, three in zip(self.STFT.stages, maps))
      x = self.decoder4(x4) + x3
      x = self.decoder3(x) + x2
      x = self.decoder1(self.decoder2(x) + x1)
      return [self.finalconv3(self.finalconv2(x).relu())]

  spread = []
  rng = np.random.RandomState(0)
  for name in (*DEPTHS, 'sscf'):
    network = (Sscf() if name == 'sscf' else ResNet(name)).eval()
    shapes = {
      key: tuple(value.shape)
      for key, value in network.state_dict().items()
      if not key.endswith('num_batches_tracked')
    }
    network.load_state_dict(
      {key: torch.from_numpy(value) for key, value in make_weights(shapes).items()}, strict=False
    )
    shape = (2, 1, 3, 64, 96) if name == 'sscf' else (1, 1, 32, 64)
    x = rng.uniform(size=shape).astype(np.float32)
    gray = torch.from_numpy(x)
    with torch.no_grad():
      outputs = network(gray if name == 'sscf' else gray.expand(-1, 3, -1, -1))
    for y in outputs:
      print(
        name, tuple(y.shape), f'deviation {float(y.std()):.3f}, largest {float(y.abs().max()):.3f}'
      )
    np.savez_compressed(
      HERE / f'{name}.npz',
      shapes=np.array(json.dumps(shapes)),
      x=x,
      **{f'y{i}': y.numpy() for i, y in enumerate(outputs)},
    )
  print(
    'deviation of the attention within a pair, each level, direction and sample:',
    ' '.join(f'{value:.2f}' for value in spread),
  )


if __name__ == '__main__':
  main()
