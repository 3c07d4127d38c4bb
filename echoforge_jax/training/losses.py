"""Losses: masked cross-entropy and soft Dice, one sigmoid logit per class.

Every loss is a mean over what its weights select, and zero (with a zero gradient) where they select
nothing. Class k has the mask value k + 1; the mask value `IGNORE` takes a pixel out. Logits are
float32 z, targets y in [0, 1], weights w >= 0, and p = sigmoid(z).
"""

from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from echoforge_jax.clip import IGNORE

# In pixels (ours): an empty target that is met by an empty prediction costs nothing.
DICE_SMOOTH = 1.0
# Share of either side of a pseudo-label that has to be confident (ours).
LEAST_CONFIDENT = 0.1

Scalar = Float[Array, '']
Logits = Float[Array, 'b t h w k']
Masks = Integer[Array, 'b t h w']


class Term(NamedTuple):
  """One term of an objective."""

  value: Scalar  # A mean; 0 where `count` is 0.
  count: Scalar  # Frames that it is a mean over.


def class_targets(masks: Masks, num_classes: int) -> tuple[Array, Array]:
  """Returns binary targets [B, T, H, W, K], and [B, T, H, W, 1], 1 where a pixel is labeled."""
  masks = masks.astype(jnp.int32)  # Background and `IGNORE` are no class.
  targets = jax.nn.one_hot(masks - 1, num_classes, dtype=jnp.float32)
  return targets, (masks != IGNORE)[..., None].astype(jnp.float32)


def masked_bce(logits: Logits, targets: Logits, weights: Logits) -> Scalar:
  """Returns sum w (softplus(z) - y z) / sum w: -y log p - (1 - y) log(1 - p) without p."""
  loss = jax.nn.softplus(logits) - targets * logits
  total = weights.sum()
  return (loss * weights).sum() / jnp.where(total > 0, total, 1.0)


def masked_dice(logits: Logits, targets: Logits, weights: Logits) -> Scalar:
  """Returns the mean of 1 - (2 sum w p y + s) / (sum w p + sum w y + s), s = `DICE_SMOOTH`.

  The sums are over the pixels of one frame and class; frames and classes without weight are left
  out of the mean.
  """
  probabilities = jax.nn.sigmoid(logits) * weights
  overlap = (probabilities * targets).sum((2, 3))
  sizes = probabilities.sum((2, 3)) + (targets * weights).sum((2, 3))
  loss = 1 - (2 * overlap + DICE_SMOOTH) / (sizes + DICE_SMOOTH)
  counted = (weights.sum((2, 3)) > 0).astype(jnp.float32)
  return (loss * counted).sum() / jnp.maximum(counted.sum(), 1.0)


def _bce_dice(logits: Logits, targets: Logits, weights: Logits) -> Term:
  """BCE + Dice, counted in frames with any weight."""
  logits = logits.astype(jnp.float32)
  value = masked_bce(logits, targets, weights) + masked_dice(logits, targets, weights)
  frames = (weights.sum((2, 3, 4)) > 0).astype(jnp.float32)
  return Term(value, frames.sum())


def supervised_loss(logits: Logits, masks: Masks, frames: Bool[Array, 'b t'] | None = None) -> Term:
  """Returns BCE + Dice on labeled pixels of `frames` (paper section 3, loss)."""
  targets, valid = class_targets(masks, logits.shape[-1])
  if frames is not None:
    valid = valid * frames[:, :, None, None, None]
  return _bce_dice(logits, targets, jnp.broadcast_to(valid, logits.shape))


def coarse_loss(coarse_logits: Float[Array, 'b t i j k'], masks: Masks) -> Term:
  """Returns BCE + Dice of coarse masks against area-averaged labels (ours).

  A token's target is the class's share of its labeled pixels, its weight their share of all.
  """
  batch, time, height, width = masks.shape
  rows, columns, classes = coarse_logits.shape[2:]
  if height % rows or width % columns:
    raise ValueError(
      f'masks of {height}x{width} pixels do not divide into the coarse {rows}x{columns} grid; use '
      "an image size that is a multiple of the model's token stride"
    )
  targets, valid = class_targets(masks, classes)

  def area_sum(x: Array) -> Array:
    blocks = x.reshape(batch, time, rows, height // rows, columns, width // columns, x.shape[-1])
    return blocks.sum((3, 5))

  labeled = area_sum(valid)
  targets = area_sum(targets * valid) / jnp.maximum(labeled, 1.0)
  weights = labeled / ((height // rows) * (width // columns))
  return _bce_dice(coarse_logits, targets, jnp.broadcast_to(weights, coarse_logits.shape))


class PseudoTerm(NamedTuple):
  """The unsupervised term and how much of the clip it counted."""

  value: Scalar
  count: Scalar  # Frames with at least one counted pixel.
  confident: Scalar  # Counted pixels (times classes); of soft labels the sum of their weights.
  candidates: Scalar  # Pixels that could have counted.


def balanced_weights(
  targets: Logits, confident: Bool[Array, 'b t h w k'], least: float = LEAST_CONFIDENT
) -> Logits:
  """Returns confident pixels' weights that balance both sides of a mask.

  Background becomes confident long before a structure does. If all confident pixels weighed the
  same, such a frame would teach that there is no structure, the teacher would follow, and soon find
  none: measured, that loop emptied the masks (docs/ablation.md). So, per frame and class (ours),

  * the confident pixels of either side weigh together as much as all pixels of that side of the
    pseudo-label: n_side / n_confident,side each;
  * a frame counts only where at least the share `least` of either side is confident: no weight
    exceeds 1 / least, and a mask that shows no structure is no evidence that there is none.
  """
  weights, counts = [], []
  for side in (targets > 0, targets <= 0):
    counted = (side & confident).astype(jnp.float32)
    size = side.sum((2, 3), keepdims=True, dtype=jnp.float32)
    found = counted.sum((2, 3), keepdims=True)
    weights.append(counted * size / jnp.maximum(found, 1.0))
    counts.append((size > 0) & (found >= least * size))
  return jnp.where(counts[0] & counts[1], weights[0] + weights[1], 0.0)


def pseudo_label_loss(
  logits: Logits, teacher_logits: Logits, frames: Bool[Array, 'b t'], threshold: Scalar | float
) -> PseudoTerm:
  """Returns BCE + Dice against confident pseudo-labels of `frames` (paper, FlameRise).

  With p = sigmoid(teacher logits) the pseudo-label is [p >= 1/2]; a pixel counts for a class where
  max(p, 1 - p) >= `threshold`, with `balanced_weights`. No gradient reaches the teacher.
  """
  teacher_logits = jax.lax.stop_gradient(teacher_logits.astype(jnp.float32))
  probabilities = jax.nn.sigmoid(teacher_logits)
  targets = (probabilities >= 0.5).astype(jnp.float32)
  confident = jnp.maximum(probabilities, 1 - probabilities) >= threshold
  candidates = jnp.broadcast_to(frames[:, :, None, None, None], logits.shape)
  weights = balanced_weights(targets, confident) * candidates
  value, count = _bce_dice(logits, targets, weights)
  confident = (weights > 0).sum(dtype=jnp.float32)
  return PseudoTerm(value, count, confident, candidates.sum(dtype=jnp.float32))


def soft_label_loss(
  logits: Logits, targets: Logits, weights: Logits, candidates: Bool[Array, 'b t h w']
) -> PseudoTerm:
  """Returns BCE + Dice against soft labels, as means over all `candidates` (ours).

  Candidates are pixels without a label, whatever their weights: where few weigh anything the loss
  is small, and is not made up for, so that its factor is its weight. The Dice of a frame and class,
  1 - (2 sum w p y + s) / (sum w p^2 + sum w y^2 + s), is least at p = y, and counts by the mean
  weight of the frame's candidates. No gradient reaches targets and weights.
  """
  logits = logits.astype(jnp.float32)
  targets, weights = jax.lax.stop_gradient((targets, weights))
  mask = jnp.broadcast_to(candidates[..., None], logits.shape).astype(jnp.float32)
  weights = weights * mask
  total = jnp.maximum(mask.sum(), 1.0)
  bce = (weights * (jax.nn.softplus(logits) - targets * logits)).sum() / total
  p = jax.nn.sigmoid(logits)
  overlap = (weights * p * targets).sum((2, 3))
  sizes = (weights * (p * p + targets * targets)).sum((2, 3))
  dice = 1 - (2 * overlap + DICE_SMOOTH) / (sizes + DICE_SMOOTH)
  dice = (dice * weights.sum((2, 3))).sum() / total
  frames = candidates.any((2, 3)).sum(dtype=jnp.float32)
  return PseudoTerm(bce + dice, frames, weights.sum(), mask.sum())


def consistency_loss(logits: Logits, teacher_logits: Logits, frames: Bool[Array, 'b t']) -> Term:
  """Returns mean (sigmoid(z) - sigmoid(z_teacher))^2 over `frames` (mean teacher; SSCF)."""
  teacher_logits = jax.lax.stop_gradient(teacher_logits.astype(jnp.float32))
  distance = (jax.nn.sigmoid(logits.astype(jnp.float32)) - jax.nn.sigmoid(teacher_logits)) ** 2
  weights = frames.astype(jnp.float32)
  count = weights.sum()
  return Term((distance.mean((2, 3, 4)) * weights).sum() / jnp.maximum(count, 1.0), count)


def hard_dice(logits: Logits, masks: Masks) -> tuple[Float[Array, 'b t k'], Float[Array, 'b t k']]:
  """Returns the Dice, 1 where both masks are empty; and 1 where a frame is labeled.

  As in evaluation, a pixel is of the class of the largest logit, where that is not negative.
  """
  targets, valid = class_targets(masks, logits.shape[-1])
  # Not `logits == logits.max(-1)`: a compiler may compute the two with other rounding.
  largest = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
  predicted = (logits >= 0) * largest * valid
  targets = targets * valid
  overlap = (predicted * targets).sum((2, 3))
  sizes = predicted.sum((2, 3)) + targets.sum((2, 3))
  dice = jnp.where(sizes > 0, 2 * overlap / jnp.maximum(sizes, 1.0), 1.0)
  counted = (valid.sum((2, 3)) > 0).astype(jnp.float32)
  return dice, jnp.broadcast_to(counted, dice.shape)
