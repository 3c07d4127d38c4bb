"""Small layers that every part of the model shares."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.errors import InputError

Dtype = Any
NORMS = ('batch', 'frozen', 'group')
# Channels that share one mean and variance in group normalization.
GROUP_CHANNELS = 16
# Sums products in float32, whatever the dtype of the operands.
einsum32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class GroupNorm(nn.Module):
  """Group normalization as one reduction and one scale-and-shift (ours).

  The moments, always float32, are taken per channel first and only then joined into groups, so the
  map is read once for both moments and once for the affine step, in its own layout: on a CPU
  half the time of the five-dimensional textbook form. `dtype` is that of the result.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes x [N, h, w, C] per item and group; same shape."""
    n, _, _, c = x.shape
    groups = 1 if c % GROUP_CHANNELS else c // GROUP_CHANNELS
    scale = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    wide = x.astype(jnp.float32)

    def grouped(per_channel):
      return per_channel.reshape(n, groups, c // groups).mean(-1)

    mean = grouped(jnp.mean(wide, (1, 2)))
    square = grouped(jnp.mean(wide * wide, (1, 2)))
    variance = jnp.maximum(square - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + 1e-5)
    gain = jnp.repeat(inverse, c // groups, axis=1) * scale[None]
    shift = bias[None] - jnp.repeat(mean, c // groups, axis=1) * gain
    return (wide * gain[:, None, None] + shift[:, None, None]).astype(self.dtype)


def make_norm(kind: str, *, train: bool, dtype: Dtype, name: str) -> nn.Module:
  """Returns the normalization of maps [N, h, w, C]; 'frozen' always uses running statistics."""
  if kind == 'group':
    return GroupNorm(dtype=dtype, name=name)
  if kind in ('batch', 'frozen'):
    running = kind == 'frozen' or not train
    return nn.BatchNorm(running, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)
  raise InputError(f'model option norm: found {kind!r}, wanted one of {", ".join(NORMS)}')


class PointwiseConv(nn.Module):
  """1x1 convolution as one matrix product, with the fields and parameters of `nn.Conv`.

  For ResNet-50's shapes XLA's CPU convolution takes 1.1 to 9 times as long (docs/performance.md).
  """

  features: int
  stride: int = 1
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N, h, w, C] to [N, h / stride, w / stride, features]."""
    kernel = self.param('kernel', self.kernel_init, (1, 1, x.shape[-1], self.features), jnp.float32)
    if self.stride > 1:
      # Not x[:, ::stride, ::stride]: XLA's GPU compiler aborts on a product of
      # a strided slice (seen in JAX 0.10.2 and 0.11.2; openxla/xla#47381).
      n, h, w, c = x.shape
      s = self.stride
      x = x.reshape(n, h // s, s, w // s, s, c)[:, :, 0, :, 0]
    y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ kernel[0, 0].astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      y = y + bias.astype(self.dtype)[None]
    return y.reshape(*x.shape[:-1], self.features)


def _halve_max(x: jax.Array, axis: int) -> jax.Array:
  """Takes the maxima of elements 2i - 1, 2i and 2i + 1 along one axis."""
  pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
  even = jax.lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
  odd = jax.lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
  shift = [(0, 0, 0)] * x.ndim
  shift[axis] = (1, -1, 0)
  before = jax.lax.pad(odd, jnp.array(-jnp.inf, x.dtype), shift)
  return jnp.maximum(jnp.maximum(even, odd), before)


def max_pool(x: jax.Array) -> jax.Array:
  """Takes 3x3 maxima of x [N, H, W, C], H and W even, at stride 2, padded by one.

  `nn.max_pool` finds its gradient with four maps of indices on a CPU, which takes four times as
  long; among equal maxima it takes the first, here they share.
  """
  return _halve_max(_halve_max(x, 1), 2)


class FeedForward(nn.Module):
  """Two dense layers with a GELU between them, pre-normalized, no residual."""

  dropout: float = 0.0  # Probability of dropping a hidden unit in training.
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x [..., C] to [..., C]."""
    c = x.shape[-1]
    y = nn.LayerNorm(dtype=self.dtype, name='norm')(x)
    y = nn.gelu(nn.Dense(2 * c, dtype=self.dtype, name='expand')(y))
    if self.dropout:
      y = nn.Dropout(self.dropout, deterministic=not train)(y)
    return nn.Dense(c, dtype=self.dtype, name='project')(y)


def _double_axis(x: jax.Array, axis: int) -> jax.Array:
  """Up-samples linearly by two along one axis, between half-pixel centres."""
  size = x.shape[axis]
  first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
  last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
  padded = jnp.concatenate([first, x, last], axis)
  before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
  after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
  near = 0.75 * x
  pair = jnp.stack([0.25 * before + near, near + 0.25 * after], axis + 1)
  return pair.reshape(x.shape[:axis] + (2 * size,) + x.shape[axis + 1 :])


def upsample2(x: jax.Array) -> jax.Array:
  """Up-samples x [N, h, w, C] bilinearly by two, with clamped edges."""
  return _double_axis(_double_axis(x, 1), 2)


def upsample_logits(x: jax.Array, factor: int) -> jax.Array:
  """Up-samples x, float32 [N, h, w, K], bilinearly by `factor`, as two matrix products."""
  _, h, w, _ = x.shape

  def weights(size):
    return jax.image.resize(jnp.eye(size, dtype=x.dtype), (factor * size, size), 'linear')

  x = jnp.einsum('Hh,nhwk->nkHw', weights(h), x)
  return jnp.einsum('nkHw,Ww->nHWk', x, weights(w))
