"""Options of a model, checked before it is built."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from flax import linen as nn

from echoforge_jax.errors import InputError

Model = TypeVar('Model', bound=nn.Module)


def make_checked(
  name: str,
  kind: type[Model],
  options: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
) -> Model:
  """Builds a module from named options.

  Args:
    name: the model's name, for messages.
    kind: the module's class.
    options: its fields.
    choices: field -> the values that it may take.

  Returns:
    The module.

  Raises:
    InputError: an option is unknown, is none of its choices, or there are no
      classes.
  """
  known = [f for f in kind.__dataclass_fields__ if f not in ('parent', 'name')]
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise InputError(
      f'model {name}: unknown option {", ".join(unknown)}; choose from '
      f'{", ".join(known)}'
    )
  model = kind(**options)
  for option, allowed in choices.items():
    if getattr(model, option) not in allowed:
      raise InputError(
        f'model option {option}: found {getattr(model, option)!r}, wanted '
        f'one of {", ".join(map(str, allowed))}'
      )
  if model.num_classes < 1:
    raise InputError(
      f'model option num_classes: found {model.num_classes}, wanted at least 1'
    )
  return model
