"""What EchoForge is compared with, for any model that gives logits.

All of them average a teacher, and it is the teacher that is evaluated: rows of
a comparison differ in what is learned from, not in the averaging.
"""

from echoforge_jax.training.objectives import terms
from echoforge_jax.training.objectives.base import Objective, compose
from echoforge_jax.training.objectives.echoforge import plain_teacher


def supervised(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  num_unlabeled: int | None = None,
) -> Objective:
  """Labeled frames alone; the teacher learns nothing and gives nothing.

  Args:
    supervised_weight: of BCE + Dice on labeled frames.
    coarse_weight: of the coarse masks, where the model gives any.
    num_unlabeled: not used.

  Returns:
    Objective.
  """
  del num_unlabeled
  return compose(
    [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  )


def mean_teacher(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  num_unlabeled: int | None = None,
) -> Objective:
  """Supervised loss and consistency with the teacher on unlabeled frames.

  Mean teacher (Tarvainen and Valpola 2017): the squared distance of both
  networks' probabilities, times the schedule's weight. SSCF's objective.

  Args:
    supervised_weight: of BCE + Dice on labeled frames.
    coarse_weight: of the coarse masks, where the model gives any.
    num_unlabeled: F, the largest number of unlabeled frames a clip can have;
      None: every frame may be unlabeled.

  Returns:
    Objective.
  """
  return compose(
    [
      terms.supervised(supervised_weight),
      terms.coarse(coarse_weight),
      terms.consistency(num_unlabeled),
    ],
    teacher=plain_teacher(num_unlabeled),
  )


def fixmatch(
  *,
  supervised_weight: float = 1.0,
  coarse_weight: float = 0.4,
  num_unlabeled: int | None = None,
) -> Objective:
  """Supervised loss and hard pseudo-labels where the weak view is confident.

  In the manner of FixMatch (Sohn et al. 2020), with the averaged teacher in
  place of the network itself (ours). The confidence is the schedule's: equal
  at start and end it is FixMatch's constant.

  Args:
    supervised_weight: of BCE + Dice on labeled frames.
    coarse_weight: of the coarse masks, where the model gives any.
    num_unlabeled: F, as in `mean_teacher`.

  Returns:
    Objective.
  """
  return compose(
    [
      terms.supervised(supervised_weight),
      terms.coarse(coarse_weight),
      terms.pseudo_labels(num_unlabeled),
    ],
    teacher=plain_teacher(num_unlabeled),
  )
