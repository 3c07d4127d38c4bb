"""FixMatch: hard pseudo-labels where the teacher is confident."""

from echoforge_jax.training.objectives import base, terms


def fixmatch(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, num_unlabeled: int | None = None
) -> base.Objective:
  """Returns the supervised loss and hard, confident pseudo-labels.

  After FixMatch (Sohn et al. 2020), with the averaged teacher in place of the network itself (ours)
  and the schedule's confidence: equal at start and end it is FixMatch's constant.
  """
  labeled = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  parts = [*labeled, terms.pseudo_labels(num_unlabeled)]
  return base.compose(parts, teacher=base.plain_teacher(num_unlabeled))
