"""Multi-head attention between a few tokens and many pixels."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from echoforge_jax.models.layers import Dtype, einsum32

# Logit of a masked pair: finite, so that a row without keys is no nan.
MASKED = -1e9
_lecun = functools.partial(nn.initializers.variance_scaling, 1.0, 'fan_in', 'truncated_normal')


class CrossAttention(nn.Module):
  """Multi-head attention, bias-free, without a projection of the pixels.

  softmax(q W_q (k W_k)^T / sqrt(D)) k W_v W_o is evaluated in the order that spares the side with
  many rows: W_q W_k^T and W_v W_o act on the few tokens, never on the h w pixels. The function and
  its parameters are those of usual attention; only the order of the products is ours. Logits and
  softmax are float32.
  """

  heads: int = 4  # Must divide C.
  few: str = 'queries'  # Or 'keys', whichever are the few tokens.
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, queries: jax.Array, keys: jax.Array, bias: jax.Array | None = None
  ) -> jax.Array:
    """Maps queries [N, Lq, C] and keys, also the values, [N, Lk, C] to [N, Lq, C], no residual.

    `bias`, float32 [N or 1, Lq or 1, Lk], is added to every head's logits.
    """
    c = queries.shape[-1]
    d = c // self.heads
    wq, wk, wv = (
      self.param(name, _lecun(in_axis=(0,), out_axis=(1, 2)), (c, self.heads, d))
      for name in ('query', 'key', 'value')
    )
    wo = self.param('out', _lecun(in_axis=(0, 1), out_axis=(2,)), (self.heads, d, c))
    wq, wk, wv, wo, queries, keys = (x.astype(self.dtype) for x in (wq, wk, wv, wo, queries, keys))
    if self.few == 'queries':
      few = jnp.einsum('nqc,chd->nqhd', queries, wq)
      few = jnp.einsum('nqhd,chd->nhqc', few, wk)
      logits = einsum32('nhqc,nkc->nhqk', few, keys)
    else:
      few = jnp.einsum('nkc,chd->nkhd', keys, wk)
      few = jnp.einsum('nkhd,chd->nhkc', few, wq)
      logits = einsum32('nqc,nhkc->nhqk', queries, few)
    logits = logits / jnp.sqrt(jnp.float32(d))
    if bias is not None:
      logits = logits + bias[:, None]
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    if self.few == 'queries':
      mixed = jnp.einsum('nhqk,nkc->nqhc', weights, keys)
      mixed = jnp.einsum('nqhc,chd->nqhd', mixed, wv)
      return jnp.einsum('nqhd,hdc->nqc', mixed, wo)
    values = jnp.einsum('nkc,chd->nkhd', keys, wv)
    values = jnp.einsum('nkhd,hdc->nhkc', values, wo)
    return jnp.einsum('nhqk,nhkc->nqc', weights, values)


class SelfAttention(nn.Module):
  """Pre-normalized attention of a few tokens among themselves, no residual."""

  heads: int = 4
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Maps x [N, L, C] to [N, L, C]; bias as in `CrossAttention`."""
    x = nn.LayerNorm(dtype=self.dtype, name='norm')(x)
    return CrossAttention(self.heads, dtype=self.dtype, name='attention')(x, x, bias)
