"""Encoders: ResNet-{10,18,34,50} and a small one for CPUs.

All map frames [N, H, W, 1] to maps at strides 4, 8, 16 and 32; H and W are multiples of 32. Names
and stride placement of the residual networks are torchvision's (stride on the 3x3 convolution of
a bottleneck), so its weights map one to one (`models.weights`).
"""

import inspect

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.loading import load_object
from echoforge_jax.models.layers import Dtype, PointwiseConv, make_norm, max_pool

# Name -> (blocks per stage, bottleneck).
RESNETS = {
  'resnet10': ((1, 1, 1, 1), False),
  'resnet18': ((2, 2, 2, 2), False),
  'resnet34': ((3, 4, 6, 3), False),
  'resnet50': ((3, 4, 6, 3), True),
}
BACKBONES = (*RESNETS, 'lite')
STRIDES = (4, 8, 16, 32)


def _conv_norm(
  module: nn.Module, train: bool, x: jax.Array, features: int, size: int, stride: int, names
) -> jax.Array:
  """Convolves as torch pads (size // 2), without bias, and normalizes; `names` of the two."""
  init = nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
  options = dict(use_bias=False, dtype=module.dtype, kernel_init=init, name=names[0])
  conv: nn.Module
  if size == 1:
    conv = PointwiseConv(features, stride, **options)
  else:
    pad = [(size // 2,) * 2] * 2
    conv = nn.Conv(features, (size,) * 2, (stride,) * 2, pad, **options)
  return make_norm(module.norm, train=train, dtype=module.dtype, name=names[1])(conv(x))


class BasicBlock(nn.Module):
  """Two 3x3 convolutions with a shortcut; `stride` is that of the first."""

  features: int
  stride: int
  norm: str
  train: bool
  dtype: Dtype

  def _conv(self, x, name, features, size, stride):
    return _conv_norm(self, self.train, x, features, size, stride, (f'conv{name}', f'bn{name}'))

  def _inner(self, x: jax.Array) -> jax.Array:
    y = nn.relu(self._conv(x, 1, self.features, 3, self.stride))
    return self._conv(y, 2, self.features, 3, 1)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N, h, w, C] to [N, h / stride, w / stride, channels out]."""
    y = self._inner(x)
    if self.stride != 1 or x.shape[-1] != y.shape[-1]:
      names = 'downsample_conv', 'downsample_bn'
      x = _conv_norm(self, self.train, x, y.shape[-1], 1, self.stride, names)
    return nn.relu(x + y)


class Bottleneck(BasicBlock):
  """1x1, 3x3 and 1x1 convolutions with a shortcut; four times the features."""

  def _inner(self, x: jax.Array) -> jax.Array:
    y = nn.relu(self._conv(x, 1, self.features, 1, 1))
    y = nn.relu(self._conv(y, 2, self.features, 3, self.stride))
    return self._conv(y, 3, 4 * self.features, 1, 1)


class ResNet(nn.Module):
  """ResNet-{10,18,34,50} with a grayscale stem (paper: ImageNet ResNet-50)."""

  variant: str = 'resnet50'  # A key of `RESNETS`.
  norm: str = 'batch'
  remat: bool = False  # Recomputes each block in the backward pass to save memory.
  dtype: Dtype = jnp.float32
  width: int = 64  # Channels of the stem; torchvision's is 64.
  max_pool: bool = True  # As torchvision's stem pools; without it all strides are halved.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
    """Encodes standardized frames [N, H, W, 1].

    Returns:
      Four maps [N, H / s, W / s, C_s] at strides 4, 8, 16, 32: width times 1, 2, 4, 8 channels,
      four times as many with bottlenecks.
    """
    depths, bottleneck = RESNETS[self.variant]
    block = Bottleneck if bottleneck else BasicBlock
    if self.remat:
      block = nn.remat(block)
    x = nn.relu(_conv_norm(self, train, x, self.width, 7, 2, ('conv1', 'bn1')))
    if self.max_pool:
      x = max_pool(x)
    outputs = []
    for stage, depth in enumerate(depths):
      for index in range(depth):
        stride = 2 if stage and not index else 1
        name = f'layer{stage + 1}_{index}'
        x = block(self.width * 2**stage, stride, self.norm, train, self.dtype, name=name)(x)
      outputs.append(x)
    return tuple(outputs)


class LiteEncoder(nn.Module):
  """Small encoder that trains on two CPU cores (ours).

  A stride-2 space-to-depth stem (no convolution at full size), then per stage one stride-2
  convolution and one residual block; widths are powers of two.
  """

  widths: tuple[int, ...] = (16, 32, 64, 128, 128)  # Channels at strides 2, 4, 8, 16, 32.
  norm: str = 'group'
  remat: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
    """Encodes frames as `ResNet` does, to widths[1:] channels."""
    n, h, w, _ = x.shape
    block = nn.remat(BasicBlock) if self.remat else BasicBlock

    def down(x, features, stride, name):
      names = f'{name}_conv', f'{name}_bn'
      return nn.relu(_conv_norm(self, train, x, features, 3, stride, names))

    x = x.reshape(n, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 2, 4)
    x = down(x.reshape(n, h // 2, w // 2, 4), self.widths[0], 1, 'stem')
    outputs = []
    for stage, features in enumerate(self.widths[1:], start=1):
      x = down(x, features, 2, f'down{stage}')
      x = block(features, 1, self.norm, train, self.dtype, name=f'layer{stage}_0')(x)
      outputs.append(x)
    return tuple(outputs)


def make_backbone(
  kind: str, *, norm: str, remat: bool, dtype: Dtype, name: str = 'backbone'
) -> nn.Module:
  """Returns the encoder that `kind` names: one of `BACKBONES`, or 'module.path:Name' of a module.

  A module from outside maps (frames, train) as `ResNet` does; of `norm`, `remat` and `dtype` it is
  given the fields that it has.
  """
  if kind == 'lite':
    return LiteEncoder(norm=norm, remat=remat, dtype=dtype, name=name)
  if kind in RESNETS:
    return ResNet(variant=kind, norm=norm, remat=remat, dtype=dtype, name=name)
  field = 'config.model.backbone'
  if ':' not in kind:
    wanted = f"{', '.join(BACKBONES)}, or 'module.path:Name'"
    raise InputError(f'model option backbone: found {kind!r}, wanted one of {wanted}')
  found = load_object(kind, field)
  if not (isinstance(found, type) and issubclass(found, nn.Module)):
    raise InputError(f'{field}: {kind} is no class of flax.linen.Module; examples/ has one')
  try:
    inspect.signature(found.__call__).bind('self', 'frames', True)
  except TypeError as error:
    raise InputError(f'{field}: {kind} cannot be called as (frames, train): {error}') from error
  options = {'norm': norm, 'remat': remat, 'dtype': dtype}
  own = {key: value for key, value in options.items() if key in found.__dataclass_fields__}
  return found(**own, name=name)


def check_maps(maps: tuple[jax.Array, ...], frames: jax.Array, kind: str) -> None:
  """Raises `InputError` unless maps are those of frames [N, H, W, 1] at all `STRIDES`."""
  n, height, width, _ = frames.shape
  wanted = [(n, height // s, width // s) for s in STRIDES]
  found = [np.shape(one)[:3] for one in maps]
  if found != wanted:
    raise InputError(
      f'config.model.backbone: {kind} gives maps of {found}, wanted [N, H, W] of {wanted}, at the '
      f'strides {", ".join(map(str, STRIDES))}'
    )
