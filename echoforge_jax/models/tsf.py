"""TSF, temporal semantic fusion: prototypes carried from frame to frame."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.models.attention import MASKED, CrossAttention, SelfAttention
from echoforge_jax.models.layers import Dtype, FeedForward, einsum32
from echoforge_jax.models.memory import TokenMemory, windows


def semantic_tokens(features: jax.Array, masks: jax.Array) -> jax.Array:
  """Returns T_sem, float32 [..., N, C], the masked means of a frame's features (paper, TSF).

  Features are [..., P, C]; masks are float32 [..., P, N] in [0, 1], one column per class and
  background.
  """
  total = jnp.sum(masks, axis=-2)[..., None] + 1e-6
  return einsum32('...pn,...pc->...nc', masks.astype(features.dtype), features) / total


class InContextFusion(nn.Module):
  """Transformer block between context tokens and the target frame.

  The (M + 1) (K + 1) tokens of the frame and of its memory, marked with their age and class (ours),
  attend to each other, then to the target's pixels, then pass an FFN. Their mean over ages with
  learned weights gives one prototype per class (ours). The target's pixels attend to the tokens:
  F'_t (ours: the paper does not say how the target is enhanced).
  """

  heads: int = 4
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, pixels: jax.Array, context: jax.Array, valid: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Fuses purified target tokens `pixels` [N, P, C] with the context.

    `context` is float32 [N, M + 1, K + 1, C], semantic tokens, the target's last; `valid` is bool
    [N, M + 1]. Returns P_sem [N, K + 1, C] and the enhanced target F'_t [N, P, C].
    """
    n, ages, classes, c = context.shape
    init = nn.initializers.normal(0.02)
    age = self.param('age', init, (ages, c), jnp.float32)
    kind = self.param('kind', init, (classes, c), jnp.float32)
    tokens = context + age[None, :, None] + kind[None, None]
    tokens = tokens.reshape(n, ages * classes, c).astype(self.dtype)
    bias = jnp.where(jnp.repeat(valid, classes, axis=1), 0.0, MASKED)[:, None]
    tokens = tokens + SelfAttention(self.heads, self.dtype, name='self_attention')(tokens, bias)
    query = nn.LayerNorm(dtype=self.dtype, name='cross_norm')(tokens)
    tokens = tokens + CrossAttention(self.heads, 'queries', self.dtype, name='cross_attention')(
      query, pixels
    )
    tokens = tokens + FeedForward(self.dropout, self.dtype, name='ffn')(tokens, train)

    score = nn.Dense(1, use_bias=False, dtype=self.dtype, name='age_score')(
      nn.LayerNorm(dtype=self.dtype, name='age_norm')(tokens)
    )
    score = score.astype(jnp.float32).reshape(n, ages, classes)
    score = score + jnp.where(valid, 0.0, MASKED)[..., None]
    weights = jax.nn.softmax(score, axis=1).astype(self.dtype)
    prototypes = jnp.einsum('nak,nakc->nkc', weights, tokens.reshape(n, ages, classes, c))

    keys = nn.LayerNorm(dtype=self.dtype, name='target_norm')(tokens)
    features = pixels + CrossAttention(self.heads, 'keys', self.dtype, name='target_attention')(
      pixels, keys, bias
    )
    return prototypes, features


class JointMasks(nn.Module):
  """Learned queries and prototypes make the masks together.

  The queries are dealt out to background and classes in turn.
  """

  num_queries: int = 16
  heads: int = 4
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, prototypes: jax.Array, pixels: jax.Array, masks: jax.Array, train: bool
  ) -> jax.Array:
    """Returns features [N, P, C] for the decoder; masks are coarse, float32 [N, P, K + 1]."""
    n, classes, c = prototypes.shape

    def ffn(x, name):
      return x + FeedForward(self.dropout, self.dtype, name=name)(x, train)

    # One module, called twice: the paper's shared weights.
    shared = SelfAttention(self.heads, self.dtype, name='shared_attention')
    start = self.param('queries', nn.initializers.normal(1.0), (self.num_queries, c), jnp.float32)
    queries = start.astype(self.dtype)[None]
    # The queries' self-attention sees no image: once for all frames.
    queries = jnp.broadcast_to(queries + shared(queries), (n, self.num_queries, c))
    own = np.arange(self.num_queries) % classes
    # Weights times the mask and renormalized, as a bias: soft, so a class
    # that is nowhere to be seen leaves plain attention and no nan (ours).
    mask = jnp.stack([masks[..., k] for k in own], axis=1)
    query = nn.LayerNorm(dtype=self.dtype, name='query_norm')(queries)
    queries = queries + CrossAttention(self.heads, 'queries', self.dtype, name='masked_attention')(
      query, pixels, jnp.log(mask + 1e-4)
    )
    queries = ffn(queries, 'query_ffn')
    prototypes = ffn(prototypes + shared(prototypes), 'prototype_ffn')

    left = nn.LayerNorm(dtype=self.dtype, name='final_query_norm')(queries)
    right = nn.LayerNorm(dtype=self.dtype, name='final_prototype_norm')(prototypes)
    affinity = nn.Dense(c, use_bias=False, dtype=self.dtype, name='affinity')(left)
    affinity = einsum32('npc,nqc->npq', pixels, affinity)
    gate = nn.Dense(c, use_bias=False, dtype=self.dtype, name='gate')(left)
    gate = einsum32('nqc,nkc->nqk', gate, right)
    joint = jnp.einsum(
      'npq,nqk->npk',
      jax.nn.softmax(affinity / np.sqrt(c), axis=-1),
      jax.nn.sigmoid(gate / np.sqrt(c)),
    )
    painted = jnp.einsum('npk,nkc->npc', joint.astype(self.dtype), right)
    return ffn(pixels + painted, 'mask_ffn')


class TemporalSemanticFusion(nn.Module):
  """TSF of T frames at once, causal; T = 1 with a memory is the stream."""

  num_queries: int = 16
  heads: int = 4
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, masks: jax.Array, memory: TokenMemory, train: bool
  ) -> tuple[jax.Array, TokenMemory]:
    """Fuses a clip.

    Args:
      x: [B, T, h, w, C] purified tokens.
      masks: float32 [B, T, h, w, K + 1] coarse masks, background first.
      memory: of the frames before the clip's first.
      train: whether dropout is active.

    Returns:
      features [B, T, h, w, C] for the decoder and the memory after the clip.
    """
    b, t, h, w, c = x.shape
    pixels = x.reshape(b * t, h * w, c)
    masks = masks.reshape(b * t, h * w, -1)
    tokens = semantic_tokens(pixels, masks).reshape(b, t, -1, c)
    context, valid, after = windows(memory, tokens)
    fused = InContextFusion(self.heads, self.dropout, self.dtype, name='in_context')(
      pixels, context.reshape(b * t, *context.shape[2:]), valid.reshape(b * t, -1), train
    )
    out = JointMasks(self.num_queries, self.heads, self.dropout, self.dtype, name='joint')(
      *fused, masks, train
    )
    return out.reshape(x.shape), after
