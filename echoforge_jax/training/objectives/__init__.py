"""Objectives by name: EchoForge's and the baselines it is compared with.

Others come from outside the package, as 'module.path:function' of one that returns an `Objective`.
"""

import inspect

from echoforge_jax.errors import InputError
from echoforge_jax.loading import load_object
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
  """Builds an objective with the fields of `config.objective` as options.

  `name` is one of `OBJECTIVES`, or 'module.path:function' of a function with keyword arguments.
  """
  field = 'config.objective.name'
  if name not in OBJECTIVES and ':' not in name:
    wanted = f"{', '.join(OBJECTIVES)}, or 'module.path:function'"
    raise InputError(f'{field} is {name!r}; choose one of {wanted}')
  make = OBJECTIVES[name] if name in OBJECTIVES else load_object(name, field)
  parameters = inspect.signature(make).parameters
  known = [key for key in parameters if key != 'num_unlabeled']
  foreign = sorted(set(options) - set(known))
  if foreign and all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
    raise InputError(
      f'config.objective.{foreign[0]} is no setting of the objective '
      f'{name!r}, which has {", ".join(known) or "none"}; give '
      'config.objective these alone, or choose the objective through the '
      f"config's argument where it has one (--config=FILE:{name})"
    )
  if name in OBJECTIVES or 'num_unlabeled' in parameters:
    options['num_unlabeled'] = num_unlabeled
  objective = make(**options)
  if not isinstance(objective, Objective):
    kind = type(objective).__name__
    raise InputError(f'{field}: {name} returns a {kind}, wanted an Objective (docs/training.md)')
  return objective
