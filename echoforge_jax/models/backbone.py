"""Encoders: ResNet-{18,34,50} and a small one for CPUs.

All of them map frames [N, H, W, 1] to maps at strides 4, 8, 16 and 32. H and W
are multiples of 32. Names and stride placement of the residual networks are
torchvision's (stride on the 3x3 convolution of a bottleneck), so its weights
map one to one: `layer1.0.conv2.weight` is `layer1_0/conv2/kernel`,
`layer1.0.downsample.0` is `downsample_conv`, `.1` is `downsample_bn`.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.models.layers import (
  Dtype,
  PointwiseConv,
  make_norm,
  max_pool,
)

# Name -> (blocks a stage, bottleneck).
RESNETS = {
  'resnet18': ((2, 2, 2, 2), False),
  'resnet34': ((3, 4, 6, 3), False),
  'resnet50': ((3, 4, 6, 3), True),
}
BACKBONES = (*RESNETS, 'lite')
STRIDES = (4, 8, 16, 32)


def _conv(
  features: int, size: int, stride: int, dtype: Dtype, name: str
) -> nn.Module:
  """Bias-free convolution, padded like torch's (size // 2 on every side)."""
  init = nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
  if size == 1:
    return PointwiseConv(
      features, stride, use_bias=False, dtype=dtype, kernel_init=init, name=name
    )
  pad = size // 2
  return nn.Conv(
    features,
    (size, size),
    (stride, stride),
    [(pad, pad)] * 2,
    use_bias=False,
    dtype=dtype,
    name=name,
    kernel_init=init,
  )


class BasicBlock(nn.Module):
  """Two 3x3 convolutions with a shortcut.

  Attributes:
    features: channels out.
    stride: of the first convolution.
    norm: 'batch', 'frozen' or 'group'.
    train: whether the model trains.
    dtype: compute dtype.
  """

  features: int
  stride: int
  norm: str
  train: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N, h, w, C] to [N, h / stride, w / stride, features]."""

    def normed(y, name):
      return make_norm(
        self.norm, train=self.train, dtype=self.dtype, name=name
      )(y)

    y = _conv(self.features, 3, self.stride, self.dtype, 'conv1')(x)
    y = nn.relu(normed(y, 'bn1'))
    y = normed(_conv(self.features, 3, 1, self.dtype, 'conv2')(y), 'bn2')
    if self.stride != 1 or x.shape[-1] != self.features:
      x = _conv(self.features, 1, self.stride, self.dtype, 'downsample_conv')(x)
      x = normed(x, 'downsample_bn')
    return nn.relu(x + y)


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 convolutions with a shortcut; expansion four.

  Attributes:
    features: channels inside; four times as many come out.
    stride: of the 3x3 convolution.
    norm: 'batch', 'frozen' or 'group'.
    train: whether the model trains.
    dtype: compute dtype.
  """

  features: int
  stride: int
  norm: str
  train: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N, h, w, C] to [N, h / stride, w / stride, 4 features]."""

    def normed(y, name):
      return make_norm(
        self.norm, train=self.train, dtype=self.dtype, name=name
      )(y)

    wide = 4 * self.features
    y = _conv(self.features, 1, 1, self.dtype, 'conv1')(x)
    y = nn.relu(normed(y, 'bn1'))
    y = _conv(self.features, 3, self.stride, self.dtype, 'conv2')(y)
    y = nn.relu(normed(y, 'bn2'))
    y = normed(_conv(wide, 1, 1, self.dtype, 'conv3')(y), 'bn3')
    if self.stride != 1 or x.shape[-1] != wide:
      x = _conv(wide, 1, self.stride, self.dtype, 'downsample_conv')(x)
      x = normed(x, 'downsample_bn')
    return nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet-{18,34,50} with a grayscale stem (paper: ImageNet ResNet-50).

  Attributes:
    variant: a key of `RESNETS`.
    norm: 'batch', 'frozen' or 'group'.
    remat: recompute each block in the backward pass to save memory.
    dtype: compute dtype; parameters are float32.
    width: channels of the stem; torchvision's is 64.
    max_pool: whether the stem pools, as torchvision's does; without it all
      strides are halved.
  """

  variant: str = 'resnet50'
  norm: str = 'batch'
  remat: bool = False
  dtype: Dtype = jnp.float32
  width: int = 64
  max_pool: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
    """Encodes frames.

    Args:
      x: [N, H, W, 1], standardised.
      train: whether batch norm uses the batch's statistics.

    Returns:
      Four maps [N, H / s, W / s, C_s] at strides 4, 8, 16, 32: 64, 128, 256,
      512 channels, four times as many with bottlenecks.
    """
    depths, bottleneck = RESNETS[self.variant]
    block: Callable = Bottleneck if bottleneck else BasicBlock
    if self.remat:
      block = nn.remat(block)
    x = _conv(self.width, 7, 2, self.dtype, 'conv1')(x)
    x = nn.relu(
      make_norm(self.norm, train=train, dtype=self.dtype, name='bn1')(x)
    )
    if self.max_pool:
      x = max_pool(x)
    outputs = []
    for stage, depth in enumerate(depths):
      for index in range(depth):
        stride = 2 if stage and not index else 1
        x = block(
          self.width * 2**stage,
          stride,
          self.norm,
          train,
          self.dtype,
          name=f'layer{stage + 1}_{index}',
        )(x)
      outputs.append(x)
    return tuple(outputs)


class LiteEncoder(nn.Module):
  """Small encoder that trains on two CPU cores (ours).

  A stride-2 space-to-depth stem (no convolution at full size), then per stage
  one stride-2 convolution and one residual block; widths are powers of two.

  Attributes:
    widths: channels at strides 2, 4, 8, 16, 32.
    norm: 'batch', 'frozen' or 'group'.
    remat: recompute each block in the backward pass to save memory.
    dtype: compute dtype; parameters are float32.
  """

  widths: tuple[int, ...] = (16, 32, 64, 128, 128)
  norm: str = 'group'
  remat: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
    """Encodes frames.

    Args:
      x: [N, H, W, 1], standardised.
      train: whether batch norm uses the batch's statistics.

    Returns:
      Four maps [N, H / s, W / s, widths[i]] at strides 4, 8, 16, 32.
    """
    n, h, w, _ = x.shape
    block = nn.remat(BasicBlock) if self.remat else BasicBlock

    def down(x, features, stride, name):
      x = _conv(features, 3, stride, self.dtype, f'{name}_conv')(x)
      return nn.relu(
        make_norm(self.norm, train=train, dtype=self.dtype, name=f'{name}_bn')(
          x
        )
      )

    x = x.reshape(n, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 2, 4)
    x = down(x.reshape(n, h // 2, w // 2, 4), self.widths[0], 1, 'stem')
    outputs = []
    for stage, features in enumerate(self.widths[1:], start=1):
      x = down(x, features, 2, f'down{stage}')
      x = block(
        features, 1, self.norm, train, self.dtype, name=f'layer{stage}_0'
      )(x)
      outputs.append(x)
    return tuple(outputs)


def make_backbone(
  kind: str, *, norm: str, remat: bool, dtype: Dtype, name: str = 'backbone'
) -> nn.Module:
  """The encoder that `kind` names.

  Args:
    kind: one of `BACKBONES`.
    norm: 'batch', 'frozen' or 'group'.
    remat: recompute blocks in the backward pass.
    dtype: compute dtype.
    name: name of the submodule.

  Returns:
    A module (frames [N, H, W, 1], train) -> maps at strides 4, 8, 16, 32.

  Raises:
    InputError: `kind` is unknown.
  """
  if kind == 'lite':
    return LiteEncoder(norm=norm, remat=remat, dtype=dtype, name=name)
  if kind in RESNETS:
    return ResNet(variant=kind, norm=norm, remat=remat, dtype=dtype, name=name)
  raise InputError(
    f'model option backbone: found {kind!r}, wanted one of '
    f'{", ".join(BACKBONES)}'
  )
