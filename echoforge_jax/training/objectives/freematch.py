"""FreeMatch: a threshold for every class that follows the teacher's own confidence."""

import jax
import jax.numpy as jnp

from echoforge_jax.training.objectives import base, terms


def freematch(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  decay: float = 0.99,
  sharpness: float = 10.0,
) -> base.Objective:
  """Returns the supervised loss and soft pseudo-labels weighted by an adaptive threshold.

  After FreeMatch (Wang et al. 2023): the threshold of a class and side (inside, outside) is the
  running mean of the teacher's confidence max(p, 1 - p) there, kept in `extra`. For segmentation
  (ours): a pixel of confidence c weighs sigmoid(sharpness (c - threshold) / (1 - threshold)).
  """

  def teacher(apply, batch, key, extra) -> base.SoftLabels:
    labels = base.soft_labels(apply(batch['video_weak'])['logits'], batch)
    inside = labels.targets >= 0.5
    confidence = jnp.maximum(labels.targets, 1 - labels.targets)
    outside, within = extra['confidence'].reshape(2, 1, 1, 1, 1, -1)
    threshold = jnp.where(inside, within, outside)
    margin = (confidence - threshold) / jnp.maximum(1 - threshold, 1e-3)
    return labels._replace(weights=jax.nn.sigmoid(sharpness * margin))

  def init_extra(outputs):
    return {'confidence': jnp.full((2, outputs['logits'].shape[-1]), 0.5)}

  def update_extra(extra, outputs, teacher, batch, values, key):
    targets, _, candidates = teacher
    confidence, means = jnp.maximum(targets, 1 - targets), []
    for side in (targets < 0.5, targets >= 0.5):
      seen = (side & candidates[..., None]).astype(jnp.float32)
      count = seen.sum((0, 1, 2, 3))
      mean = (confidence * seen).sum((0, 1, 2, 3)) / jnp.maximum(count, 1)
      means.append(jnp.where((count > 0) & (values.weight > 0), mean, jnp.nan))
    seen = jnp.stack(means)
    moved = decay * extra['confidence'] + (1 - decay) * seen
    return {'confidence': jnp.where(jnp.isnan(seen), extra['confidence'], moved)}

  parts = [terms.supervised(supervised_weight), terms.coarse(coarse_weight), terms.soft_labels()]
  return base.compose(parts, teacher=teacher, init_extra=init_extra, update_extra=update_extra)
