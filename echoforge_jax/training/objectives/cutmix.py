"""CutMix: boxes of other clips, with what is known or believed of them."""

import jax
from jax import Array
import jax.numpy as jnp

from echoforge_jax.clip import IGNORE
from echoforge_jax.training.objectives import base, terms


def cutmix(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, mixed: float = 0.5
) -> base.Objective:
  """Returns the supervised loss and soft pseudo-labels of clips that were pasted into each other.

  CutMix for segmentation (French et al. 2020) and, where one clip of a pair is labeled, the
  bidirectional copy-paste of BCP (Bai et al. 2023): the share `mixed` of the clips gets a box of
  its neighbor in the batch, with the neighbor's labels or the teacher's belief about it. The
  teacher saw the clips whole. Targets are soft, and every unlabeled pixel counts (ours).
  """

  def teacher(apply, batch, key, extra) -> base.SoftLabels:
    return base.soft_labels(apply(batch['video_weak'])['logits'], batch)

  parts = [terms.supervised(supervised_weight), terms.coarse(coarse_weight), terms.soft_labels()]
  return base.compose(parts, teacher=teacher, mix=lambda *given: paste(*given, mixed))


def boxes(key: Array, count: int, height: int, width: int) -> Array:
  """Draws a box for each of `count` clips, bool [count, height, width].

  It covers .1 to .5 of the image, at an aspect of 1/2 to 2, and lies anywhere within it.
  """
  share, aspect, top, left = jax.random.uniform(key, (4, count))
  share, aspect = 0.1 + 0.4 * share, 2 ** (2 * aspect - 1)

  def spans(extent: Array, place: Array, size: int) -> Array:
    extent = jnp.minimum(extent, 1)
    start = place * (1 - extent)
    grid = (jnp.arange(size, dtype=jnp.float32) + 0.5)[None] / size
    return (grid >= start[:, None]) & (grid < (start + extent)[:, None])

  rows = spans(jnp.sqrt(share * aspect), top, height)
  columns = spans(jnp.sqrt(share / aspect), left, width)
  return rows[:, :, None] & columns[:, None]


def paste(
  batch: base.Batch, teacher: base.SoftLabels, key: Array, mixed: float
) -> tuple[base.Batch, base.SoftLabels]:
  """Pastes boxes of the next clip into the strong view, its masks and its soft labels.

  Where a box brings a label into an unlabeled frame, or the other way round, each pixel keeps what
  it is: labeled ones have their mask, the others are candidates. `labeled` stays that of the clips.
  """
  masks = batch['masks']
  keys = jax.random.split(key)
  inside = boxes(keys[0], len(masks), *masks.shape[2:])
  inside &= jax.random.bernoulli(keys[1], mixed, (len(masks), 1, 1))
  inside = inside[:, None]

  def mix(x: Array) -> Array:
    chosen = inside[..., None] if x.ndim == 5 else inside
    return jnp.where(chosen, jnp.roll(x, 1, axis=0), x)

  known = jnp.broadcast_to(batch['labeled'][..., None, None], masks.shape)
  masks, known = mix(jnp.where(known, masks, IGNORE)), mix(known)
  labels = base.SoftLabels(mix(teacher.targets), mix(teacher.weights), ~known)
  return {**batch, 'video_strong': mix(batch['video_strong']), 'masks': masks}, labels
