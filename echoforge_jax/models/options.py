"""Options of a model, checked before it is built."""

from collections.abc import Mapping, Sequence
import numbers
from typing import Any, TypeVar

from flax import linen as nn

from echoforge_jax.errors import InputError

Model = TypeVar('Model', bound=nn.Module)
Range = tuple[float, float | None]
_TYPES = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}


def make_checked(
  name: str,
  kind: type[Model],
  options: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
  ranges: Mapping[str, Range],
) -> Model:
  """Builds a module from named options.

  Args:
    name: the model's name, for messages.
    kind: the module's class.
    options: its fields.
    choices: field -> the values that it may take.
    ranges: field -> its least and its largest value (None: any).

  Raises:
    InputError: an option is unknown, or its value is none that it may take.
  """
  fields = kind.__dataclass_fields__
  known = [field for field in fields if field not in ('parent', 'name')]
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise InputError(
      f'model {name}: unknown option {", ".join(unknown)}; choose from {", ".join(known)}'
    )
  for option, value in options.items():
    wanted = _wanted(fields[option].type, value, choices, ranges, option)
    if wanted:
      raise InputError(f'model option {option}: found {value!r}, wanted {wanted}')
  return kind(**options)


def _wanted(
  kind: Any,
  value: Any,
  choices: Mapping[str, Sequence[Any]],
  ranges: Mapping[str, Range],
  option: str,
) -> str:
  """Says what is wanted instead of a value; '' if nothing is."""
  if option in choices:
    allowed = choices[option]
    return '' if value in allowed else f'one of {", ".join(map(str, allowed))}'
  if kind in _TYPES and (
    not isinstance(value, _TYPES[kind]) or (kind is not bool and isinstance(value, bool))
  ):
    return f'a value of type {kind.__name__}'
  low, high = ranges.get(option, (None, None))
  if low is not None and not low <= value:
    return f'at least {low}'
  if high is not None and not value <= high:
    return f'at most {high}'
  return ''
