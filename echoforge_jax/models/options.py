"""Options of a model, checked before it is built."""

from collections.abc import Mapping, Sequence
import numbers
from typing import Any, TypeVar

from flax import linen as nn

from echoforge_jax.errors import InputError

Model = TypeVar('Model', bound=nn.Module)
_TYPES = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}


def make_checked(
  name: str,
  kind: type[Model],
  options: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
  ranges: Mapping[str, tuple[float, float | None]],
) -> Model:
  """Builds a module of class `kind` from options, its fields.

  `choices` names the values that a field may take, `ranges` its least and largest (None: any).
  """
  fields = kind.__dataclass_fields__
  known = [field for field in fields if field not in ('parent', 'name')]
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise InputError(
      f'model {name}: unknown option {", ".join(unknown)}; choose from {", ".join(known)}'
    )
  for option, value in options.items():
    if wanted := _wanted(fields[option].type, value, choices.get(option), ranges.get(option)):
      raise InputError(f'model option {option}: found {value!r}, wanted {wanted}')
  return kind(**options)


def _wanted(kind: Any, value: Any, allowed: Sequence[Any] | None, bounds: Any) -> str:
  """Says what is wanted instead of a value; '' if nothing is."""
  if allowed is not None:
    return '' if value in allowed else f'one of {", ".join(map(str, allowed))}'
  if kind in _TYPES and (
    not isinstance(value, _TYPES[kind]) or (kind is not bool and isinstance(value, bool))
  ):
    return f'a value of type {kind.__name__}'
  low, high = bounds or (None, None)
  if low is not None and not low <= value:
    return f'at least {low}'
  if high is not None and not value <= high:
    return f'at most {high}'
  return ''
