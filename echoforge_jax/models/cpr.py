"""CPR, continuous pseudo-label reforging (training only; paper, CPR)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.models.layers import Dtype, einsum32


def reference_features(
  features: jax.Array, labeled: jax.Array, frames: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns F^L per target frame: the mean of the clip's other labeled frames.

  A clip without another labeled frame borrows the mean of the other clips' labeled frames (ours):
  the sum over the batch less the clip's own, so devices that share a batch exchange one frame's
  features and not every clip's. Within a clip no frame contributes to its own reference at all,
  across clips up to float32 rounding.

  Args:
    features: [B, T, h, w, C].
    labeled: bool [B, T].
    frames: int [B, F], indices of the target frames.

  Returns:
    references [B, F, h, w, C] and found: bool [B, F], False where the whole batch has no other
    labeled frame (the reference is zero then).
  """
  b, t = labeled.shape
  other = frames[..., None] != jnp.arange(t)[None, None]
  own = (labeled[:, None] & other).astype(jnp.float32)
  own_count = jnp.sum(own, -1)
  weights = (own / jnp.maximum(own_count, 1.0)[..., None]).astype(features.dtype)
  near = jnp.einsum('bft,bthwc->bfhwc', weights, features)
  known = labeled.astype(jnp.float32)
  clip_sum = einsum32('bt,bthwc->bhwc', known, features)
  clip_count = jnp.sum(known, -1)
  rest_count = jnp.sum(clip_count) - clip_count
  rest = jnp.maximum(rest_count, 1.0)[:, None, None, None]
  far = ((jnp.sum(clip_sum, 0)[None] - clip_sum) / rest).astype(features.dtype)
  has_own = own_count > 0
  references = jnp.where(has_own[..., None, None, None], near, far[:, None])
  return references, has_own | (rest_count > 0)[:, None]


def _identity(_, shape, dtype):
  return jnp.eye(*shape, dtype=dtype)


class PseudoLabelReforging(nn.Module):
  """Channel attention from labeled to unlabeled features (paper, CPR).

  Q = F^L W_q, K = F^U W_k, V = F^U W_v, all [P, C];
  A = softmax(InstanceNorm(Q^T K)) [C, C]; F_hat = A V^T, transposed back.

  Ours, so that reforging is well conditioned from the first step:
  - The projections start as identities, so that Q^T K starts as the cross-covariance of the
    channels of two frames of one heart and A mixes each channel with those that light up at the
    same places. Random projections would start with A nearly uniform and every channel the same
    mean.
  - Q and K take features centred over the pixels: a channel's offset would otherwise pass for
    similarity and drown the rest.
  - InstanceNorm has a learned gain that starts at 2, where F_hat starts with about .7 of F^U's
    contrast (.4 at a gain of 1, .1 without centring).

  Q^T K and its softmax are float32, whatever `dtype` is.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, labeled: jax.Array, target: jax.Array) -> jax.Array:
    """Returns F^U_hat for F^L (`labeled`) and F^U (`target`), all [N, P, C]."""
    c = target.shape[-1]

    def project(x, name):
      return nn.Dense(c, use_bias=False, dtype=self.dtype, name=name, kernel_init=_identity)(x)

    def centred(x):
      return x - jnp.mean(x, axis=1, keepdims=True, dtype=jnp.float32).astype(x.dtype)

    query = project(centred(labeled), 'query')
    key = project(centred(target), 'key')
    value = project(target, 'value')
    gram = einsum32('npc,npd->ncd', query, key)
    # InstanceNorm over the one-channel image [C, C]; a shift would cancel in
    # the softmax. Scaled by the area first: independent of the image size.
    gram = gram / query.shape[1]
    mean = jnp.mean(gram, axis=(1, 2), keepdims=True)
    gram = gram - mean
    variance = jnp.mean(gram * gram, axis=(1, 2), keepdims=True)
    gain = self.param('gain', nn.initializers.constant(2.0), (1,), jnp.float32)
    gram = gain[0] * gram * jax.lax.rsqrt(variance + 1e-8)
    attention = jax.nn.softmax(gram, axis=-1).astype(self.dtype)
    return jnp.einsum('ncd,npd->npc', attention, value)
