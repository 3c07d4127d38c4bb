"""Labels alone, for any model that gives logits."""

from echoforge_jax.training.objectives import base, terms


def supervised(*, supervised_weight: float = 1.0, coarse_weight: float = 0.4) -> base.Objective:
  """Returns the loss on labeled frames alone; a teacher is averaged all the same."""
  return base.compose([terms.supervised(supervised_weight), terms.coarse(coarse_weight)])
