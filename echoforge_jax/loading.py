"""Classes and functions from outside the package, by the name 'module.path:Name'."""

from collections.abc import Callable
import importlib
import os
import sys
import sysconfig
import traceback
from typing import Any

from echoforge_jax.errors import InputError


def load_object(name: str, field: str) -> Callable[..., Any]:
  """Imports the class or function 'module.path:Name', from sys.path or the current folder.

  Args:
    name: dotted module, colon, name in that module, such as 'my_package.my_module:Reader'.
    field: what the user set, as an error names it, such as '--dataset'.

  Raises:
    InputError: no such module or name, a name that cannot be called, or an exception while
      importing, with its file and line.
  """
  module_name, _, attribute = name.partition(':')
  if not all(part.isidentifier() for part in (*module_name.split('.'), attribute)):
    raise InputError(
      f"{field}: found {name!r}, wanted 'module.path:Name', such as 'my_data:Reader'"
    )
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  importlib.invalidate_caches()
  try:
    module = importlib.import_module(module_name)
  except (Exception, SystemExit) as error:
    missing = isinstance(error, ModuleNotFoundError) and error.name
    if missing and f'{module_name}.'.startswith(f'{missing}.'):
      raise InputError(
        f'{field}={name}: no module {missing!r} on sys.path or in {os.getcwd()}; start in the '
        'folder that holds it, or add that folder to PYTHONPATH'
      ) from error
    kind, where = type(error).__name__, origin(error)
    text = ' '.join(str(error).split())
    raise InputError(
      f'{field}={name}: importing {module_name} fails at {where} ({kind}: {text}); mend that line'
    ) from error
  try:
    found = getattr(module, attribute)
  except AttributeError as error:
    own = [key for key, value in vars(module).items() if _is_own(key, value, module_name)]
    raise InputError(
      f'{field}={name}: {module.__file__ or module_name} has no {attribute!r}; it has '
      f'{", ".join(own[:8]) or "no public name"}'
    ) from error
  if not callable(found):
    kind = type(found).__name__
    raise InputError(f'{field}: {name} is of type {kind}, wanted a class or a function')
  return found


def _is_own(key: str, value: Any, module: str) -> bool:
  return not key.startswith('_') and getattr(value, '__module__', None) == module


def origin(error: BaseException) -> str:
  """Returns 'file:line' where an exception was raised, outside libraries where possible."""
  if isinstance(error, SyntaxError) and error.filename:
    return f'{error.filename}:{error.lineno}'
  libraries = ('<frozen', sysconfig.get_path('stdlib'), sysconfig.get_path('purelib'))
  frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
  own = [frame for frame in frames if not frame.filename.startswith(libraries)]
  frame = (own or frames)[-1]
  return f'{frame.filename}:{frame.lineno}'
