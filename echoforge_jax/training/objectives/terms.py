"""Terms of an objective, each weighted and with what it logs.

A function here takes a term's settings and returns a `base.Term`; `num_unlabeled` is that of
`base.unlabeled_frames`.
"""

from clu import metrics
import jax
import jax.numpy as jnp

from echoforge_jax.training import losses
from echoforge_jax.training.objectives.base import (
  Term,
  average,
  labeled_pair,
  take_frames,
  unlabeled_frames,
)


def supervised(weight: float = 1.0) -> Term:
  """Returns weight (BCE + Dice of `logits` on labeled frames) (paper, loss)."""

  def term(outputs, teacher, batch, values):
    loss = losses.supervised_loss(outputs['logits'], batch['masks'])
    dice, counted = losses.hard_dice(jax.lax.stop_gradient(outputs['logits']), batch['masks'])
    return weight * loss.value, {
      'loss_supervised': average(loss.value, loss.count),
      'train_dice': metrics.Average(total=(dice * counted).sum(), count=counted.sum()),
    }

  return term


def coarse(weight: float) -> Term:
  """Returns weight (BCE + Dice of `coarse_logits`, if any, on labeled frames) (ours)."""

  def term(outputs, teacher, batch, values):
    if 'coarse_logits' not in outputs:
      return jnp.zeros((), jnp.float32), {}
    loss = losses.coarse_loss(outputs['coarse_logits'], batch['masks'])
    return weight * loss.value, {'loss_coarse': average(loss.value, loss.count)}

  return term


def episodic(weight: float) -> Term:
  """Returns weight (BCE + Dice of two reforged frames with labels) (ours).

  `reforged_logits` [B, 2, H, W, K] are those of `base.labeled_pair`.
  """

  def term(outputs, teacher, batch, values):
    frames, valid = labeled_pair(batch['labeled'])
    loss = losses.supervised_loss(
      outputs['reforged_logits'], take_frames(batch['masks'], frames), valid
    )
    return weight * loss.value, {'loss_episodic': average(loss.value, loss.count)}

  return term


def pseudo_labels(num_unlabeled: int | None = None) -> Term:
  """Returns lambda(e) (BCE + Dice on confident unlabeled pixels) (paper).

  The teacher gives its logits [B, F, H, W, K] of the frames that `base.unlabeled_frames` picks.
  """

  def term(outputs, teacher, batch, values):
    frames, valid = unlabeled_frames(batch['labeled'], num_unlabeled)
    loss = losses.pseudo_label_loss(
      take_frames(outputs['logits'], frames), teacher, valid, values.threshold
    )
    active = (values.weight > 0).astype(jnp.float32)
    return values.weight * loss.value, {
      'loss_unsupervised': average(loss.value, active * loss.count),
      'confident_share': metrics.Average(
        total=active * loss.confident, count=active * loss.candidates
      ),
    }

  return term


def consistency(num_unlabeled: int | None = None) -> Term:
  """Returns lambda(e) (mean squared distance of probabilities on unlabeled frames)."""

  def term(outputs, teacher, batch, values):
    frames, valid = unlabeled_frames(batch['labeled'], num_unlabeled)
    loss = losses.consistency_loss(take_frames(outputs['logits'], frames), teacher, valid)
    active = (values.weight > 0).astype(jnp.float32)
    return values.weight * loss.value, {
      'loss_unsupervised': average(loss.value, active * loss.count)
    }

  return term
