"""ARC, anchor recalibration: clears up ambiguous patches (paper: ASA, fig. 2).

Per frame: initial anchors, their nearest pixels in feature space, updated anchors, similarities,
and the pull of ambiguous patches to an anchor.
"""

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.models.attention import MASKED
from echoforge_jax.models.layers import Dtype, einsum32

# anchors -> (foreground anchors per class, background anchors); ours for 3, 4:
# the background of a sector image is more varied than the cavity.
LAYOUTS = {1: (1, 0), 2: (1, 1), 3: (1, 2), 4: (2, 2)}
KNN = ('exact', 'approx')
PULLS = ('rising', 'falling')
# Initial value of the learned temperature of the similarities (ours).
TEMPERATURE = 0.1


class ArcOutput(NamedTuple):
  """Results of ARC."""

  features: jax.Array  # [N, h, w, C] purified tokens.
  # float32 [N, h, w, K + 1], log-scores of background, class 1, ..., K; their softmax is the
  # coarse mask.
  scores: jax.Array
  anchors: jax.Array  # [N, A, C], updated.
  ambiguous: jax.Array  # bool [N, h / patch, w / patch], the patches that were altered.


def anchor_groups(anchors: int, num_classes: int) -> tuple[int, ...]:
  """Returns the group of every similarity column: 0 background, k class k.

  Foreground anchors come first, class by class, background anchors last. With one anchor
  there is no background anchor; a learned constant similarity stands for it (ours).
  """
  front, back = LAYOUTS[anchors]
  foreground = [k + 1 for k in range(num_classes) for _ in range(front)]
  return tuple(foreground + [0] * max(back, 1))


def group_scores(similarities: jax.Array, groups: tuple[int, ...]) -> jax.Array:
  """Returns float32 [..., K + 1], the log-sum-exp of each group's similarities [..., A'].

  Similarities are divided by the temperature; the softmax of the result is s_BG, s_1, ..., s_K.
  """
  columns = (
    [similarities[..., i] for i, g in enumerate(groups) if g == group]
    for group in range(max(groups) + 1)
  )
  return jnp.stack([functools.reduce(jnp.logaddexp, members) for members in columns], -1)


def nearest_bias(pixels: jax.Array, anchors: jax.Array, neighbours: int, knn: str) -> jax.Array:
  """Returns the attention bias that leaves each anchor its K nearest pixels.

  Masking attention over all pixels equals gathering K of them and needs no gather, for A h w C
  multiply-adds, a thousandth of the encoder's. Distances are Euclidean in feature space. Ties at
  the K-th distance are all kept.

  Args:
    pixels: [N, P, C].
    anchors: [N, A, C].
    neighbours: K; P if larger.
    knn: 'exact' (a sort) or 'approx' (`jax.lax.approx_max_k`, fast on TPUs).

  Returns:
    float32 [N, A, P]: 0 for neighbours, `MASKED` elsewhere; no gradient.
  """
  pixels = jax.lax.stop_gradient(pixels)
  anchors = jax.lax.stop_gradient(anchors)
  norms = jnp.sum(jnp.square(pixels.astype(jnp.float32)), -1)
  dots = einsum32('nac,npc->nap', anchors, pixels)
  closeness = 2.0 * dots - norms[:, None]
  k = min(neighbours, pixels.shape[1])
  if knn == 'exact':
    # Not top_k: devices that share a batch would gather it whole for that.
    threshold = jax.lax.sort(closeness)[..., -k][..., None]
  else:
    threshold = jnp.min(jax.lax.approx_max_k(closeness, k)[0], axis=-1, keepdims=True)
  return jnp.where(closeness >= threshold, 0.0, MASKED)


class AnchorUpdate(nn.Module):
  """Cross-attention of each anchor with its neighbours, plus a residual.

  The key projection is applied to the query instead (q W_k^T), the value projection after the
  weighted sum: the pixels are never projected.
  """

  neighbours: int = 32
  knn: str = 'exact'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, anchors: jax.Array, pixels: jax.Array) -> jax.Array:
    """Updates anchors [N, A, C] from pixels [N, P, C]; same shape."""
    c = anchors.shape[-1]
    bias = nearest_bias(pixels, anchors, self.neighbours, self.knn)

    def dense(name):
      return nn.Dense(c, use_bias=False, dtype=self.dtype, name=name)

    query = nn.LayerNorm(dtype=self.dtype, name='norm')(anchors)
    query = dense('key_transposed')(dense('query')(query))
    logits = einsum32('nac,npc->nap', query, pixels)
    weights = jax.nn.softmax(logits / np.sqrt(c) + bias, axis=-1)
    mixed = jnp.einsum('nap,npc->nac', weights.astype(self.dtype), pixels)
    return anchors + dense('value')(mixed)


def pull_ambiguous(
  x: jax.Array,
  similarities: jax.Array,
  anchors: jax.Array,
  groups: tuple[int, ...],
  *,
  band: float,
  pull: float,
  shape: str = 'rising',
) -> tuple[jax.Array, jax.Array]:
  """Moves ambiguous patches towards their more confident anchor.

  With r = s_top / (s_top + s_second) over the groups' probabilities, a patch is ambiguous if
  r <= 0.5 + band. For one class that is exactly the paper's s_FG in [0.5 - band, 0.5 + band]; for
  more it is the same rule on the two likeliest groups (ours). Its pixels become x + g (anchor - x)
  with g = pull (2 r - 1) / (2 band), from 0 without evidence to `pull` at the band's edge (ours;
  the paper only says that it depends on the confidence). This `shape` jumps to 0 at the edge; the
  shape 'falling' (ours) has g = pull (1 - (2 r - 1) / (2 band)), largest without evidence and 0 at
  the edge, and moves towards the mean of all anchors, weighted by their similarities: two anchors
  that tie pull alike, and nothing jumps. (With one anchor it does: only patches that lean to the
  anchor move.)

  Args:
    x: [N, h, w, C].
    similarities: float32 [N, h / patch, w / patch, A'] over the temperature.
    anchors: [N, A, C], A <= A'.
    groups: group of each column of `similarities`.
    band, pull, shape: of `AnchorRecalibration`.

  Returns:
    Features [N, h, w, C], bit-identical outside ambiguous patches, and
    ambiguous: bool [N, h / patch, w / patch].
  """
  n, h, w, c = x.shape
  rows, columns = similarities.shape[1:3]
  probabilities = jax.nn.softmax(group_scores(similarities, groups), axis=-1)
  top = jax.nn.one_hot(jnp.argmax(probabilities, -1), max(groups) + 1, dtype=jnp.bool)
  first = jnp.max(probabilities, -1)
  second = jnp.max(jnp.where(top, 0.0, probabilities), -1)
  confidence = first / (first + second)
  # The most similar anchor of the likeliest group.
  member = jnp.stack([top[..., g] for g in groups], -1)
  chosen = jnp.argmax(jnp.where(member, similarities, -jnp.inf), -1)
  count = anchors.shape[1]
  # Without a background anchor there is nothing to be pulled to.
  ambiguous = (confidence <= 0.5 + band) & (chosen < count)
  share, weight = jax.nn.one_hot(chosen, count), (2.0 * confidence - 1.0) / (2.0 * band)
  if shape == 'falling':
    share, weight = jax.nn.softmax(similarities[..., :count]), 1.0 - weight
  target = jnp.einsum('nrca,nad->nrcd', share.astype(x.dtype), anchors)
  weight = (pull * weight).astype(x.dtype)

  tiled = x.reshape(n, rows, h // rows, columns, w // columns, c)

  def per_pixel(v):
    return v[:, :, None, :, None]

  moved = tiled + per_pixel(weight[..., None]) * (per_pixel(target) - tiled)
  out = jnp.where(per_pixel(ambiguous[..., None]), moved, tiled)
  return out.reshape(x.shape), ambiguous


class AnchorRecalibration(nn.Module):
  """ARC of one frame (paper: anchor semantic awareness)."""

  num_classes: int = 1
  anchors: int = 2  # A key of `LAYOUTS` (paper: 2).
  neighbours: int = 32  # K of the nearest-neighbour search (ours).
  patch: int = 2  # Side of a patch in tokens of 8 pixels (ours).
  band: float = 0.1  # Half the width of the ambiguous band around 0.5 (paper).
  pull: float = 0.5  # Largest interpolation weight (ours).
  pull_shape: str = 'rising'  # How it depends on the confidence, see `pull_ambiguous`.
  least_temperature: float = 0.0  # Below which the learned temperature does not fall (ours).
  knn: str = 'exact'  # Or 'approx'.
  dtype: Dtype = jnp.float32

  def _initial(self, pixels: jax.Array, count: int) -> jax.Array:
    """Returns the initial anchors float32 [N, A, C]: sum(M_i X) / sum(M_i)."""
    logits = nn.Dense(count, dtype=self.dtype, name='assign')(pixels).astype(jnp.float32)
    # A softmax over one anchor would be constant (ours).
    weights = jax.nn.sigmoid(logits) if count == 1 else jax.nn.softmax(logits)
    mass = jnp.sum(weights, axis=1)[..., None] + 1e-6
    return einsum32('npa,npc->nac', weights.astype(self.dtype), pixels) / mass

  @nn.compact
  def __call__(self, x: jax.Array) -> ArcOutput:
    """Recalibrates tokens x [N, h, w, C]; h and w multiples of `patch`."""
    n, h, w, c = x.shape
    if h % self.patch or w % self.patch:
      raise InputError(
        f'model option patch: found {self.patch}, wanted a divisor of the '
        f'token grid {h}x{w}; the grid is an eighth of the image'
      )
    groups = anchor_groups(self.anchors, self.num_classes)
    count = len(groups) - (self.anchors == 1)
    pixels = x.reshape(n, h * w, c)
    initial = self._initial(pixels, count).astype(self.dtype)
    updated = AnchorUpdate(self.neighbours, self.knn, self.dtype, name='update')(initial, pixels)

    log_temperature = self.param(
      'log_temperature', lambda _: jnp.full((1,), np.log(TEMPERATURE), jnp.float32)
    )
    wide = updated.astype(jnp.float32)
    unit = wide * jax.lax.rsqrt(jnp.sum(wide * wide, -1, keepdims=True) + 1e-6)
    dots = einsum32('npc,nac->npa', pixels, unit.astype(self.dtype)).reshape(n, h, w, count)
    least = np.log(self.least_temperature) if self.least_temperature else -np.inf
    if count < len(groups):
      constant = self.param('background', nn.initializers.zeros, (1,), jnp.float32)[0]

    def similarity(dots, vectors):
      """Returns cosines over the temperature, with the constant column where needed."""
      square = jnp.sum(jnp.square(vectors.astype(jnp.float32)), -1)
      cosine = dots * jax.lax.rsqrt(square + 1e-6)[..., None]
      if count < len(groups):
        cosine = jnp.concatenate([cosine, jnp.broadcast_to(constant, (*cosine.shape[:-1], 1))], -1)
      return cosine * jnp.exp(-jnp.maximum(log_temperature[0], least))

    # The mean of dots is the dot of the mean: one product serves both.
    def pooled(v):
      side = self.patch
      return jnp.mean(v.reshape(n, h // side, side, w // side, side, -1), axis=(2, 4))

    scores = group_scores(similarity(dots, x), groups)
    coarse = similarity(pooled(dots), pooled(x))
    features, ambiguous = pull_ambiguous(
      x, coarse, updated, groups, band=self.band, pull=self.pull, shape=self.pull_shape
    )
    return ArcOutput(features, scores, updated, ambiguous)
