"""SSCF's twin in eager torch, by the published structure (written anew).

Nothing here imports torch: functions take the module. Each pair of frames has
a kernel of its own, which is made first and then convolved, all pairs of the
batch at once as groups, as the paper describes it.
"""

from typing import Any

from echoforge_jax.models.sscf import LEVELS, POOLS


def _residual_block(torch: Any, inputs: int, outputs: int, stride: int) -> Any:
  """A basic residual block, with torchvision's names."""
  nn = torch.nn

  class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
      self.bn1 = nn.BatchNorm2d(outputs)
      self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
      self.bn2 = nn.BatchNorm2d(outputs)
      self.downsample = None
      if stride != 1 or inputs != outputs:
        self.downsample = nn.Sequential(
          nn.Conv2d(inputs, outputs, 1, stride, bias=False),
          nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
      y = torch.relu(self.bn1(self.conv1(x)))
      shortcut = x if self.downsample is None else self.downsample(x)
      return torch.relu(self.bn2(self.conv2(y)) + shortcut)

  return Block()


def _encoder(torch: Any, width: int) -> Any:
  """ResNet-18 without max-pool: frames [N, 1, H, W] -> maps of four levels."""
  nn = torch.nn

  class Encoder(nn.Module):
    """Stem, then a level after the other."""

    def __init__(self):
      super().__init__()
      self.first = nn.Sequential(
        nn.Conv2d(1, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
      )
      inputs = width
      for level in range(LEVELS):
        outputs = width * 2**level
        setattr(
          self,
          f'encoder{level + 1}',
          nn.Sequential(
            _residual_block(torch, inputs, outputs, 2 if level else 1),
            _residual_block(torch, outputs, outputs, 1),
          ),
        )
        inputs = outputs

    def forward(self, x):
      x, maps = self.first(x), []
      for level in range(1, LEVELS + 1):
        x = getattr(self, f'encoder{level}')(x)
        maps.append(x)
      return maps

  return Encoder()


def _fusion(torch: Any, channels: int) -> Any:
  """ASSC of both neighbours and BSSF at one level."""
  nn, functional = torch.nn, torch.nn.functional

  def summary(x):
    return torch.cat(
      [functional.adaptive_max_pool2d(x, side).flatten(2) for side in POOLS],
      dim=2,
    )

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
      kernels = (attention @ self.condition.flatten(1)).reshape(
        count * c, c, 3, 3
      )
      found = functional.conv2d(
        neighbour.reshape(1, count * c, height, width),
        kernels,
        padding=1,
        groups=count,
      )
      return found.reshape(neighbour.shape)

  class Fusion(nn.Module):
    """Three maps become one."""

    def __init__(self):
      super().__init__()
      self.forward_calibration = Calibration()
      self.backward_calibration = Calibration()
      self.out_conv = nn.Sequential(
        nn.Conv2d(3 * channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
      )

    def forward(self, previous, target, following):
      return self.out_conv(
        torch.cat(
          [
            self.forward_calibration(previous, target),
            target,
            self.backward_calibration(following, target),
          ],
          dim=1,
        )
      )

  return Fusion()


def _decoder_block(torch: Any, channels: int) -> Any:
  """A LinkNet block: twice the sides, half the channels."""
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


def make_twin(torch: Any, *, width: int = 64, num_classes: int = 1) -> Any:
  """The whole network in inference mode, with the published names.

  Args:
    torch: the module.
    width: channels at stride 2 (published: 64).
    num_classes: K.

  Returns:
    A torch module, windows [N, 3, H, W] -> logits [N, K, H, W]; its
    `state_dict` is what `models.weights.from_torch('sscf')` takes.
  """
  nn = torch.nn
  widths = [width * 2**level for level in range(LEVELS)]

  class Twin(nn.Module):
    """Encoders, fusion and decoder."""

    def __init__(self):
      super().__init__()
      self.TCE, self.STFT = nn.Module(), nn.Module()
      self.TCE.FE = nn.ModuleList(_encoder(torch, width) for _ in range(3))
      self.STFT.stages = nn.ModuleList(_fusion(torch, c) for c in widths)
      for level, c in enumerate(widths, start=1):
        setattr(self, f'decoder{level}', _decoder_block(torch, c))
      self.finalconv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1)
      self.finalconv3 = nn.Conv2d(width // 2, num_classes, 3, padding=1)

    def forward(self, windows):
      maps = zip(
        *(
          encoder(windows[:, [place]])
          for place, encoder in enumerate(self.TCE.FE)
        )
      )
      fused = [stage(*three) for stage, three in zip(self.STFT.stages, maps)]
      x = fused.pop()
      while fused:
        x = getattr(self, f'decoder{len(fused) + 1}')(x) + fused.pop()
      return self.finalconv3(torch.relu(self.finalconv2(self.decoder1(x))))

  return Twin().eval()
