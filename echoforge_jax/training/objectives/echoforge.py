"""The objective of EchoForge (paper, loss)."""

from jax import Array

from echoforge_jax.errors import InputError
from echoforge_jax.training.objectives import base, terms

PSEUDO_LABELS = ('reforged', 'plain')


def echoforge(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  episodic_weight: float = 0.4,
  pseudo_labels: str = 'reforged',
  num_unlabeled: int | None = None,
) -> base.Objective:
  """Returns what EchoForge minimizes.

    w_s (BCE + Dice on labeled frames)
    + w_c (coarse masks on labeled frames)             (ours)
    + w_e (episodic CPR: ED reforges ES, ES reforges ED)  (ours)
    + lambda(e) (BCE + Dice on confident pixels of unlabeled frames)

  The student sees `video_strong`, the teacher `video_weak`. The student decodes reforged logits
  only of its two episodic frames, the teacher only of frames that may be unlabeled.

  w_c counts only where the model gives `coarse_logits`; w_e is 0 for a model without CPR.
  Pseudo-labels are 'reforged' (CPR of the teacher) or 'plain' (its own logits). `num_unlabeled` is
  the count of `base.unlabeled_frames`.
  """
  if pseudo_labels not in PSEUDO_LABELS:
    raise InputError(
      f'config.objective.pseudo_labels is {pseudo_labels!r}; choose one of '
      f'{", ".join(PSEUDO_LABELS)}'
    )

  def student(apply, batch, key, extra) -> base.Outputs:
    frames, _ = base.labeled_pair(batch['labeled'])
    return apply(
      batch['video_strong'], labeled=batch['labeled'], reforge=True, reforge_frames=frames
    )

  def reforge(apply, batch, key, extra) -> Array:
    labeled = batch['labeled']
    frames, _ = base.unlabeled_frames(labeled, num_unlabeled)
    # Without a single label in the batch these are the plain logits (`EchoForge._reforge`).
    return apply(batch['video_weak'], labeled=labeled, reforge=True, reforge_frames=frames)[
      'reforged_logits'
    ]

  parts = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  parts.append(terms.pseudo_labels(num_unlabeled))
  if episodic_weight:
    parts.append(terms.episodic(episodic_weight))
  return base.compose(
    parts,
    student=student if episodic_weight else base.strong_view,
    teacher=(reforge if pseudo_labels == 'reforged' else base.plain_teacher(num_unlabeled)),
  )
