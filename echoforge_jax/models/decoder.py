"""Light decoder: stride-8 features and a stride-4 skip to full-size logits."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.models.layers import Dtype, GroupNorm, PointwiseConv, upsample2, upsample_logits


class Decoder(nn.Module):
  """Mask head (paper: light decoder; its form is ours), to float32 logits.

  Features are narrowed before they are up-sampled, joined with the skip at stride 4, mixed by one
  3x3 convolution and read out by a 1x1 convolution, whose logits are up-sampled bilinearly. A
  second 1x1 read-out gives every pixel of a 4x4 cell its own correction, so that contours are not
  bound to the stride-4 grid; it costs less than a thousandth of the encoder.
  """

  num_classes: int = 1
  dim: int = 64  # Channels of the skip and of everything at stride 4.
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, features: jax.Array, skip: jax.Array) -> jax.Array:
    """Decodes [N, h, w, C] and skips [N, 2h, 2w, dim] to [N, 8h, 8w, K]."""
    x = PointwiseConv(self.dim, use_bias=False, dtype=self.dtype, name='narrow')(features)
    x = GroupNorm(dtype=self.dtype, name='join_norm')(upsample2(x) + skip)
    x = nn.Conv(self.dim, (3, 3), use_bias=False, dtype=self.dtype, name='mix')(nn.relu(x))
    x = nn.relu(GroupNorm(dtype=self.dtype, name='mix_norm')(x))
    k = self.num_classes
    logits = PointwiseConv(k, dtype=jnp.float32, name='logits')(x)
    init = nn.initializers.normal(1e-2)
    fine = PointwiseConv(16 * k, use_bias=False, kernel_init=init, name='fine')(x)
    n, h, w, _ = fine.shape
    fine = fine.reshape(n, h, w, 4, 4, k).transpose(0, 1, 3, 2, 4, 5)
    return upsample_logits(logits, 4) + fine.reshape(n, 4 * h, 4 * w, k)
