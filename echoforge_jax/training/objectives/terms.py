"""Terms of an objective, each weighted and with what it logs.

A function here takes a term's settings and returns a `base.Term`; `num_unlabeled` is that of
`base.unlabeled_frames`.
"""

from clu import metrics
import jax
import jax.numpy as jnp

from echoforge_jax.training import losses
from echoforge_jax.training.objectives import base


def supervised(weight: float = 1.0) -> base.Term:
  """Returns weight (BCE + Dice of `logits` on labeled frames) (paper, loss)."""

  def term(outputs, teacher, batch, values, key, extra):
    loss = losses.supervised_loss(outputs['logits'], batch['masks'])
    dice, counted = losses.hard_dice(jax.lax.stop_gradient(outputs['logits']), batch['masks'])
    return weight * loss.value, {
      'loss_supervised': base.average(loss.value, loss.count),
      'train_dice': metrics.Average(total=(dice * counted).sum(), count=counted.sum()),
    }

  return term


def coarse(weight: float) -> base.Term:
  """Returns weight (BCE + Dice of `coarse_logits`, if any, on labeled frames) (ours)."""

  def term(outputs, teacher, batch, values, key, extra):
    if 'coarse_logits' not in outputs:
      return jnp.zeros((), jnp.float32), {}
    loss = losses.coarse_loss(outputs['coarse_logits'], batch['masks'])
    logged = {'loss_coarse': base.average(loss.value, loss.count)}
    if 'ambiguous' in outputs:  # Patches that ARC altered.
      logged['ambiguous_share'] = base.average(outputs['ambiguous'].mean())
    return weight * loss.value, logged

  return term


def episodic(weight: float) -> base.Term:
  """Returns weight (BCE + Dice of the reforged frames of `base.labeled_pair`) (ours)."""

  def term(outputs, teacher, batch, values, key, extra):
    frames, valid = base.labeled_pair(batch['labeled'])
    masks = base.take_frames(batch['masks'], frames)
    loss = losses.supervised_loss(outputs['reforged_logits'], masks, valid)
    return weight * loss.value, {'loss_episodic': base.average(loss.value, loss.count)}

  return term


def pseudo_labels(num_unlabeled: int | None = None) -> base.Term:
  """Returns lambda(e) (BCE + Dice on confident unlabeled pixels) (paper).

  The teacher gives its logits [B, F, H, W, K] of the frames that `base.unlabeled_frames` picks.
  """

  def term(outputs, teacher, batch, values, key, extra):
    frames, valid = base.unlabeled_frames(batch['labeled'], num_unlabeled)
    logits = base.take_frames(outputs['logits'], frames)
    loss = losses.pseudo_label_loss(logits, teacher, valid, values.threshold)
    active = (values.weight > 0).astype(jnp.float32)
    shown = metrics.Average(total=active * loss.confident, count=active * loss.candidates)
    unsupervised = base.average(loss.value, active * loss.count)
    logged = {'loss_unsupervised': unsupervised, 'confident_share': shown}
    return values.weight * loss.value, logged

  return term


def soft_labels(weight: float = 1.0) -> base.Term:
  """Returns weight lambda(e) (BCE + Dice against `SoftLabels`, over all unlabeled pixels) (ours).

  The teacher gives `base.SoftLabels` of all frames.
  """

  def term(outputs, teacher, batch, values, key, extra):
    loss = losses.soft_label_loss(outputs['logits'], *teacher)
    active = (values.weight > 0).astype(jnp.float32)
    shown = metrics.Average(total=active * loss.confident, count=active * loss.candidates)
    logged = {'loss_unsupervised': base.average(loss.value, active * loss.count)}
    return weight * values.weight * loss.value, logged | {'confident_share': shown}

  return term


def consistency(num_unlabeled: int | None = None) -> base.Term:
  """Returns lambda(e) (mean squared distance of probabilities on unlabeled frames)."""

  def term(outputs, teacher, batch, values, key, extra):
    frames, valid = base.unlabeled_frames(batch['labeled'], num_unlabeled)
    loss = losses.consistency_loss(base.take_frames(outputs['logits'], frames), teacher, valid)
    unsupervised = base.average(loss.value, (values.weight > 0) * loss.count)
    return values.weight * loss.value, {'loss_unsupervised': unsupervised}

  return term
