"""The objective of EchoForge (paper, loss)."""

from collections.abc import Callable

from jax import Array
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.training.objectives import terms
from echoforge_jax.training.objectives.base import (
  Apply,
  Batch,
  Objective,
  Outputs,
  compose,
  labeled_pair,
  strong_view,
  take_frames,
  unlabeled_frames,
)

PSEUDO_LABELS = ('reforged', 'plain')


def echoforge(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  episodic_weight: float = 0.4,
  pseudo_labels: str = 'reforged',
  num_unlabeled: int | None = None,
) -> Objective:
  """Returns what EchoForge minimizes.

    w_s (BCE + Dice on labeled frames)
    + w_c (coarse masks on labeled frames)             (ours)
    + w_e (episodic CPR: ED reforges ES, ES reforges ED)  (ours)
    + lambda(e) (BCE + Dice on confident pixels of unlabeled frames)

  The student sees `video_strong`, the teacher `video_weak`. The student decodes reforged logits
  only of its two episodic frames, the teacher only of frames that may be unlabeled.

  Args:
    supervised_weight: w_s.
    coarse_weight: w_c; counts only where the model gives `coarse_logits`.
    episodic_weight: w_e; 0 where the model has no CPR.
    pseudo_labels: 'reforged' (CPR of the teacher) or 'plain' (the teacher's own logits).
    num_unlabeled: F, the most unlabeled frames that a clip can have; None: all.
  """
  if pseudo_labels not in PSEUDO_LABELS:
    raise InputError(
      f'config.objective.pseudo_labels is {pseudo_labels!r}; choose one of '
      f'{", ".join(PSEUDO_LABELS)}'
    )

  def student(apply: Apply, batch: Batch) -> Outputs:
    frames, _ = labeled_pair(batch['labeled'])
    return apply(
      batch['video_strong'], labeled=batch['labeled'], reforge=True, reforge_frames=frames
    )

  def reforge(apply: Apply, batch: Batch) -> Array:
    labeled = batch['labeled']
    frames, _ = unlabeled_frames(labeled, num_unlabeled)
    outputs = apply(batch['video_weak'], labeled=labeled, reforge=True, reforge_frames=frames)
    # Without a single label there is nothing to reforge with (ours).
    return jnp.where(
      labeled.any(), outputs['reforged_logits'], take_frames(outputs['logits'], frames)
    )

  parts = [
    terms.supervised(supervised_weight),
    terms.coarse(coarse_weight),
    terms.pseudo_labels(num_unlabeled),
  ]
  if episodic_weight:
    parts.append(terms.episodic(episodic_weight))
  return compose(
    parts,
    student=student if episodic_weight else strong_view,
    teacher=(reforge if pseudo_labels == 'reforged' else plain_teacher(num_unlabeled)),
  )


def plain_teacher(num_unlabeled: int | None) -> Callable[[Apply, Batch], Array]:
  """Returns the call for a teacher's own logits of unlabeled frames."""

  def teacher(apply: Apply, batch: Batch) -> Array:
    frames, _ = unlabeled_frames(batch['labeled'], num_unlabeled)
    return take_frames(apply(batch['video_weak'])['logits'], frames)

  return teacher
