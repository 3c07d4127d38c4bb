"""Terms of an objective, each weighted and with what it logs.

A function here takes a term's settings and returns a `objective.Term`: a pure
function of (student outputs, teacher outputs, batch, schedule values).
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
  """weight (BCE + Dice of `logits` on labeled frames) (paper, loss)."""

  def term(outputs, teacher, batch, values):
    del teacher, values
    found = losses.supervised_loss(outputs['logits'], batch['masks'])
    dice, counted = losses.hard_dice(
      jax.lax.stop_gradient(outputs['logits']), batch['masks']
    )
    return weight * found.value, {
      'loss_supervised': average(found.value, found.count),
      'train_dice': metrics.Average(
        total=(dice * counted).sum(), count=counted.sum()
      ),
    }

  return term


def coarse(weight: float) -> Term:
  """weight (BCE + Dice of `coarse_logits` on labeled frames) (ours).

  Zero for a model without coarse masks.
  """

  def term(outputs, teacher, batch, values):
    del teacher, values
    if 'coarse_logits' not in outputs:
      return jnp.zeros((), jnp.float32), {}
    found = losses.coarse_loss(outputs['coarse_logits'], batch['masks'])
    return weight * found.value, {
      'loss_coarse': average(found.value, found.count)
    }

  return term


def episodic(weight: float) -> Term:
  """weight (BCE + Dice of two reforged frames whose label is known) (ours).

  `reforged_logits` [B, 2, H, W, K] are those of `objective.labeled_pair`.
  """

  def term(outputs, teacher, batch, values):
    del teacher, values
    frames, valid = labeled_pair(batch['labeled'])
    found = losses.supervised_loss(
      outputs['reforged_logits'], take_frames(batch['masks'], frames), valid
    )
    return weight * found.value, {
      'loss_episodic': average(found.value, found.count)
    }

  return term


def pseudo_labels(num_unlabeled: int | None = None) -> Term:
  """lambda(e) (BCE + Dice on confident pixels of unlabeled frames) (paper).

  The teacher's outputs are its logits [B, F, H, W, K] of the frames that
  `objective.unlabeled_frames` picks.

  Args:
    num_unlabeled: F; None: every frame.
  """

  def term(outputs, teacher, batch, values):
    frames, valid = unlabeled_frames(batch['labeled'], num_unlabeled)
    found = losses.pseudo_label_loss(
      take_frames(outputs['logits'], frames), teacher, valid, values.threshold
    )
    active = (values.weight > 0).astype(jnp.float32)
    return values.weight * found.value, {
      'loss_unsupervised': average(found.value, active * found.count),
      'confident_share': metrics.Average(
        total=active * found.confident, count=active * found.candidates
      ),
    }

  return term


def consistency(num_unlabeled: int | None = None) -> Term:
  """lambda(e) (mean squared distance of probabilities on unlabeled frames).

  Mean teacher (Tarvainen and Valpola 2017), as SSCF trains. The teacher's
  outputs are as in `pseudo_labels`.

  Args:
    num_unlabeled: F; None: every frame.
  """

  def term(outputs, teacher, batch, values):
    frames, valid = unlabeled_frames(batch['labeled'], num_unlabeled)
    found = losses.consistency_loss(
      take_frames(outputs['logits'], frames), teacher, valid
    )
    active = (values.weight > 0).astype(jnp.float32)
    return values.weight * found.value, {
      'loss_unsupervised': average(found.value, active * found.count)
    }

  return term
