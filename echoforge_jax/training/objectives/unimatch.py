"""UniMatch: two strong views and one of dropped features, against one weak view."""

import jax
import jax.numpy as jnp

from echoforge_jax.training.objectives import base, terms


def unimatch(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, dropped: float = 0.5
) -> base.Objective:
  """Returns the supervised loss and soft pseudo-labels of two strong views.

  After UniMatch (Yang et al. 2023): both strong views, of one geometry, learn from the teacher's
  probabilities on the weak one, each with half of lambda(e). In place of its feature dropout,
  patches of the second view are dropped (ours), the share `dropped` of a grid of 8 x 8: features
  inside a network are not an objective's to change.
  """

  def student(apply, batch, key, extra):
    outputs = dict(apply(batch['video_strong']))
    video = batch['video_strong_2']
    kept = jax.random.bernoulli(key, 1 - dropped, (len(video), 8, 8))
    kept = jax.image.resize(kept.astype(jnp.float32), (len(video), *video.shape[2:4]), 'nearest')
    seen = (video * (kept[:, None, ..., None] > 0)).astype(video.dtype)
    outputs['logits_2'] = apply(seen)['logits']
    return outputs

  def teacher(apply, batch, key, extra) -> base.SoftLabels:
    return base.soft_labels(apply(batch['video_weak'])['logits'], batch)

  one = terms.soft_labels(0.5)

  def both(outputs, *given):
    value, logged = one(outputs, *given)
    return value + one({'logits': outputs['logits_2']}, *given)[0], logged

  return base.compose(
    [terms.supervised(supervised_weight), terms.coarse(coarse_weight), both],
    student=student,
    teacher=teacher,
    batch_keys=(*base.BATCH_KEYS, 'video_strong_2'),
  )
