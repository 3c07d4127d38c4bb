"""The baselines, for any model that gives logits; arguments are those of `echoforge`.

All of them average a teacher, and it is the teacher that is evaluated: rows of a comparison differ
in what is learned from, not in the averaging.
"""

from echoforge_jax.training.objectives import terms
from echoforge_jax.training.objectives.base import Objective, compose
from echoforge_jax.training.objectives.echoforge import plain_teacher


def supervised(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, num_unlabeled: int | None = None
) -> Objective:
  """Returns the loss on labeled frames alone."""
  return compose([terms.supervised(supervised_weight), terms.coarse(coarse_weight)])


def mean_teacher(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, num_unlabeled: int | None = None
) -> Objective:
  """Returns the supervised loss and consistency on unlabeled frames; SSCF's objective.

  Mean teacher (Tarvainen and Valpola 2017): the squared distance of both networks' probabilities.
  """
  labeled = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  parts = [*labeled, terms.consistency(num_unlabeled)]
  return compose(parts, teacher=plain_teacher(num_unlabeled))


def fixmatch(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, num_unlabeled: int | None = None
) -> Objective:
  """Returns the supervised loss and hard, confident pseudo-labels.

  After FixMatch (Sohn et al. 2020), with the averaged teacher in place of the network itself (ours)
  and the schedule's confidence: equal at start and end it is FixMatch's constant.
  """
  labeled = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  parts = [*labeled, terms.pseudo_labels(num_unlabeled)]
  return compose(parts, teacher=plain_teacher(num_unlabeled))
