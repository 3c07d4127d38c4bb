"""Objectives by name: NAME.py holds a function NAME that returns an `Objective`.

Its keyword arguments are the fields of `config.objective`. Others come from outside the package, as
'module.path:function'. Where there are such arguments, `num_unlabeled` receives the count of
`base.unlabeled_frames`, `layout` that of `base.unlabeled_rows`.
"""

import inspect

from echoforge_jax.config import BATCH_FACTS, objective_function, objective_names
from echoforge_jax.errors import InputError
from echoforge_jax.training.objectives.base import Objective

__all__ = ['Objective', 'make_objective', 'objective_function', 'objective_names']


def make_objective(
  name: str, *, num_unlabeled: int | None = None, layout: tuple[int, int] = (0, 1), **options
) -> Objective:
  """Builds an objective with the fields of `config.objective` as options."""
  make = objective_function(name)
  parameters = inspect.signature(make).parameters
  known = [key for key in parameters if key not in BATCH_FACTS]
  foreign = sorted(set(options) - set(known))
  if 'pseudo_labels' in foreign and name == 'echoforge':
    raise InputError(
      "config.objective.pseudo_labels is config.objective.cpr now: 'reforged' is 'paper', 'plain' "
      "is 'none'; a run of an earlier version is read, but not resumed"
    )
  if foreign and all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
    raise InputError(
      f'config.objective.{foreign[0]} is no setting of the objective '
      f'{name!r}, which has {", ".join(known) or "none"}; give '
      'config.objective these alone, or choose the objective by --config.objective.name or through '
      f"the config's argument where it has one (--config=FILE:{name})"
    )
  facts = dict(zip(BATCH_FACTS, (num_unlabeled, layout)))
  options |= {key: value for key, value in facts.items() if key in parameters}
  objective = make(**options)
  if not isinstance(objective, Objective):
    kind = type(objective).__name__
    raise InputError(
      f'config.objective.name: {name} returns a {kind}, wanted an Objective (docs/training.md)'
    )
  return objective
