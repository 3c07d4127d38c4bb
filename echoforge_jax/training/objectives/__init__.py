"""Objectives by name: EchoForge's and the baselines it is compared with.

To add one, write a function that returns an `Objective` in a file of its own and name it here.
"""

import inspect

from echoforge_jax.errors import InputError
from echoforge_jax.training.objectives.base import Objective
from echoforge_jax.training.objectives.baselines import fixmatch, mean_teacher, supervised
from echoforge_jax.training.objectives.echoforge import echoforge

OBJECTIVES = {
  'echoforge': echoforge,
  'supervised': supervised,
  'mean_teacher': mean_teacher,
  'fixmatch': fixmatch,
}


def make_objective(name: str, *, num_unlabeled: int | None = None, **options) -> Objective:
  """Builds an objective of `OBJECTIVES` with the fields of `config.objective` as options."""
  if name not in OBJECTIVES:
    raise InputError(f'config.objective.name is {name!r}; choose one of {", ".join(OBJECTIVES)}')
  parameters = inspect.signature(OBJECTIVES[name]).parameters
  known = [key for key in parameters if key != 'num_unlabeled']
  foreign = sorted(set(options) - set(known))
  if foreign and all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
    raise InputError(
      f'config.objective.{foreign[0]} is no setting of the objective '
      f'{name!r}, which has {", ".join(known) or "none"}; give '
      'config.objective these alone, or choose the objective through the '
      f"config's argument where it has one (--config=FILE:{name})"
    )
  return OBJECTIVES[name](num_unlabeled=num_unlabeled, **options)
