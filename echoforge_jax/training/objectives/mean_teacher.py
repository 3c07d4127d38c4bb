"""Mean teacher with consistency; SSCF's objective."""

from echoforge_jax.training.objectives import base, terms


def mean_teacher(
  *, supervised_weight: float = 1.0, coarse_weight: float = 0.4, num_unlabeled: int | None = None
) -> base.Objective:
  """Returns the supervised loss and consistency on unlabeled frames.

  Mean teacher (Tarvainen and Valpola 2017): the squared distance of both networks' probabilities.
  """
  labeled = [terms.supervised(supervised_weight), terms.coarse(coarse_weight)]
  parts = [*labeled, terms.consistency(num_unlabeled)]
  return base.compose(parts, teacher=base.plain_teacher(num_unlabeled))
