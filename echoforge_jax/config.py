"""Training configs: load, flatten, serialize, digest."""

import ast
from collections.abc import Callable, Mapping
import hashlib
import inspect
import json
from pathlib import Path
import runpy
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from echoforge_jax.errors import InputError
from echoforge_jax.loading import load_object


def config_folder() -> Path:
  """Returns the folder of this project's configs, in a wheel or in a clone."""
  package = Path(__file__).resolve().parent
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'configs'


def base_config(model: str = 'echoforge', *, lite: bool = False) -> ConfigDict:
  """Returns the config of `configs/base.py`, unlocked, for a config to change.

  `model` may be 'sscf', whose model and objective have other fields. `lite` asks for a small model
  and short clips, for minutes on two CPU cores.
  """
  base = runpy.run_path(str(config_folder() / 'base.py'))
  return base['get_config'](model, lite).unlock()


def parse_config(argv: list[str]) -> ConfigDict:
  """Reads --config=FILE[:ARG] and --config.field=value, without global flags.

  The flags come in any order. FILE may be the bare name of a config that comes with the project.
  The config is locked.
  """
  path, argv = _find_config_file(argv)
  argv, objective = _take_objective(argv)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=['train', *argv])
  try:
    rest = values(['train', *argv])[1:]
  except flags.UnrecognizedFlagError as error:
    raise InputError(
      f'unknown flag --{error.flagname}; train takes --config, --workdir and --config.FIELD=VALUE'
    ) from error
  except (AttributeError, KeyError) as error:
    if 'get_config' in str(error):
      raise InputError(
        f'--config={path}: no get_config() in this file; the files in configs/ show what one holds'
      ) from error
    raise InputError(
      f'no such field in the config: {error.args[0]}; configs/base.py lists every field'
    ) from error
  except (flags.Error, TypeError, ValueError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # The flag's parser quotes the name of an exception raised by `get_config`.
    raise InputError(lines[-1].rpartition('InputError: ')[-1].strip()) from error
  if rest:
    raise InputError(f'unexpected argument {rest[0]!r}; write flags as --name=value')
  config = values['config'].value
  if objective:
    set_objective(config, objective)
  return config


_OBJECTIVE = '--config.objective.'
_NO_OBJECTIVES = ('__init__', 'base', 'reforging', 'terms')
# Arguments of an objective that the batch decides, and no field of the config.
BATCH_FACTS = ('num_unlabeled', 'layout')


def objective_names() -> list[str]:
  """Returns the names of the package's objectives, the files of training/objectives."""
  folder = Path(__file__).parent / 'training' / 'objectives'
  return sorted({path.stem for path in folder.glob('*.py')} - {*_NO_OBJECTIVES})


def objective_function(name: str) -> Callable[..., Any]:
  """Loads an objective's function by one of `objective_names`, or 'module.path:function'."""
  field = 'config.objective.name'
  if ':' in name:
    return load_object(name, field)
  if name not in objective_names():
    wanted = f"{', '.join(objective_names())}, or 'module.path:function'"
    raise InputError(f'{field} is {name!r}; choose one of {wanted}')
  return load_object(f'echoforge_jax.training.objectives.{name}:{name}', field)


def _take_objective(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Takes the flags of the objective away, by their field.

  Its settings are no fields of the config before its name is known.
  """
  own = [flag for flag in argv if flag.startswith(_OBJECTIVE) and '=' in flag]
  found = dict(flag.removeprefix(_OBJECTIVE).split('=', 1) for flag in own)
  return [flag for flag in argv if flag not in own], found


def set_objective(config: ConfigDict, flags: Mapping[str, str]) -> None:
  """Gives a config the objective that flags name, with the arguments of its function.

  An argument takes the flag's value, or the config's where it has the field, or its default.
  """
  flags = dict(flags)
  name = flags.pop('name', config.objective.get('name'))
  if not name:
    raise InputError(f'{_OBJECTIVE}name is missing; choose one of {", ".join(objective_names())}')
  parameters = inspect.signature(objective_function(name)).parameters
  known = [key for key in parameters if key not in BATCH_FACTS]
  if unknown := sorted(set(flags) - set(known)):
    has = ', '.join(known) or 'none'
    raise InputError(f'config.objective.{unknown[0]} is no setting of {name}, which has {has}')
  fields = {'name': name}
  for key in known:
    default = parameters[key].default
    if key in flags:
      # A config may give what the function leaves open.
      like = config.objective.get(key) if default is parameters[key].empty else default
      fields[key] = _read_value(f'{_OBJECTIVE}{key}', flags[key], like)
    elif key in config.objective:
      fields[key] = config.objective[key]
    elif default is parameters[key].empty:
      raise InputError(f'{_OBJECTIVE}{key} is missing: {name} has no default for it')
    else:
      fields[key] = default
  with config.unlocked():
    config.objective = ConfigDict(fields)


def _read_value(flag: str, text: str, default: Any) -> Any:
  """Reads a flag's value in the type of a default."""
  if isinstance(default, str):
    return text
  try:
    value = ast.literal_eval(text.capitalize() if isinstance(default, bool) else text)
  except (SyntaxError, ValueError):
    value = text
  kind = type(default)
  if kind in (bool, int, float) and type(value) not in ((int, float) if kind is float else (kind,)):
    raise InputError(f'{flag}={text}: wanted a value of type {kind.__name__}')
  return kind(value) if kind is float else value


def _find_config_file(argv: list[str]) -> tuple[Path, list[str]]:
  """Finds the file that --config names, and puts it first among the flags."""
  for index, flag in enumerate(argv):
    name, equals, value = flag.partition('=')
    if name in ('--config', '-config'):
      end = index + 1 if equals else index + 2
      value = value if equals else ''.join(argv[index + 1 : end])
      wanted, colon, argument = value.partition(':')
      path = Path(wanted)
      # The project's own file answers to NAME and configs/NAME.py elsewhere.
      if not path.is_file() and str(path.parent) in ('.', 'configs'):
        own = config_folder() / path.with_suffix('.py').name
        path = own if own.is_file() else path
      if not path.is_file():
        shipped = ', '.join(sorted(p.stem for p in config_folder().glob('[a-z]*.py')))
        raise InputError(
          f'--config={value}: no file {path}; give the path of one, or the name of a config '
          f'that comes with this project: {shipped}'
        )
      if path.suffix != '.py':
        raise InputError(
          f'--config={value}: {path} is not a Python file; the configs that come with this project '
          'are in configs/'
        )
      # The flags' parser wants the file before the fields.
      return path, [f'--config={path}{colon}{argument}', *argv[:index], *argv[end:]]
  raise InputError('--config=FILE is missing, such as --config=configs/phantom_lite.py')


# Fields that do not change what is learned; they may differ on resume. Of a run, num_steps is the
# length, whether it was given or follows from num_epochs.
RUNTIME_FIELDS = (
  'num_epochs log_every checkpoint_every keep_checkpoints compilation_cache cpu_devices eval '
  'num_devices fsdp data.cache_mb'
).split()


def config_to_json(config: ConfigDict) -> str:
  """Returns the resolved config as sorted JSON."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def as_tuples(value: Any) -> Any:
  """Returns JSON's lists as tuples, so that a config field stays hashable."""
  if isinstance(value, list):
    return tuple(as_tuples(item) for item in value)
  if isinstance(value, dict):
    return {key: as_tuples(item) for key, item in value.items()}
  return value


def flatten(value: Mapping, prefix: str = '') -> dict[str, Any]:
  """Returns every field of nested mappings by its dotted name."""
  flat: dict[str, Any] = {}
  for key, item in value.items():
    if isinstance(item, Mapping) and item:
      flat |= flatten(item, f'{prefix}{key}.')
    else:
      flat[prefix + key] = item
  return flat


# Where a run lives, not what it learns.
_NOT_LEARNED = ('seed', 'data.data_dir')


def is_runtime_field(name: str) -> bool:
  """Returns whether a field, by its dotted name, may differ on resume."""
  return name in RUNTIME_FIELDS or name.split('.')[0] in RUNTIME_FIELDS


def config_digest(config: ConfigDict) -> str:
  """Returns what two runs of one experiment share, whatever their seeds.

  16 hex digits over every field of a resolved config except the training seed, the data folder and
  the `RUNTIME_FIELDS`, which do not change what is learned.
  """
  learned = {
    name: value
    for name, value in flatten(config.to_dict()).items()
    if name not in _NOT_LEARNED and not is_runtime_field(name)
  }
  return hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()[:16]
