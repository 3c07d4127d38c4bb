"""Feature-pyramid neck: tokens at stride 8 and a skip at stride 4 (ours)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.models.layers import Dtype, GroupNorm, PointwiseConv, upsample2


class Neck(nn.Module):
  """Joins the encoder's strides 8, 16, 32 into tokens X_t.

  Lateral 1x1 convolutions, top-down sums, then a residual bottleneck with a 3x3 convolution at a
  quarter of the width: a full-width one would cost as much as half a ResNet-18. Each token is
  normalized last, so that dot products and cosine similarities of tokens have a known scale. The
  paper gives neither stride nor width of X.
  """

  dim: int = 256
  skip_dim: int = 64
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """Maps maps [N, H / s, W / s, C_s] to tokens, stride 8, and a skip, stride 4."""

    def conv(features, name, use_bias=True):
      return PointwiseConv(features, use_bias=use_bias, dtype=self.dtype, name=name)

    skip, *rest = maps
    x = conv(self.dim, 'lateral32')(rest[2])
    x = conv(self.dim, 'lateral16')(rest[1]) + upsample2(x)
    x = conv(self.dim, 'lateral8')(rest[0]) + upsample2(x)
    y = conv(self.dim // 4, 'refine_in', use_bias=False)(nn.relu(x))
    y = nn.relu(GroupNorm(dtype=self.dtype, name='refine_norm1')(y))
    y = nn.Conv(self.dim // 4, (3, 3), use_bias=False, dtype=self.dtype, name='refine_mid')(y)
    y = nn.relu(GroupNorm(dtype=self.dtype, name='refine_norm2')(y))
    x = x + conv(self.dim, 'refine_out')(y)
    tokens = nn.LayerNorm(dtype=self.dtype, name='token_norm')(x)
    return tokens, conv(self.skip_dim, 'skip', use_bias=False)(skip)
