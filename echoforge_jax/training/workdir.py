"""A run's workdir: where it is, its config, its steps, and who may use it.

It holds `config.json` (resolved) and `checkpoints/STEP/` with four items each: `student` and
`teacher` (parameters and batch statistics), `training` (step, optimizer state, root key) and `data`
(position in the data, the same for every process). It may be in a bucket: paths go through epath.
"""

from collections.abc import Mapping, Sequence
import json
import math

from absl import logging
from etils import epath
import jax
from ml_collections import ConfigDict

from echoforge_jax.config import as_tuples, config_to_json, flatten, is_runtime_field
from echoforge_jax.errors import InputError
from echoforge_jax.models import network_file
from echoforge_jax.textio import write_text

CONFIG_FILE = 'config.json'
DIRECTORY = 'checkpoints'
ITEMS = ('student', 'teacher', 'training', 'data')
# Orbax writes this file into a step's directory before it renames it.
_COMPLETE = '_CHECKPOINT_METADATA'


def workdir_path(workdir: epath.PathLike) -> epath.Path:
  """Returns a workdir's absolute path, or a bucket's address as it is."""
  path = epath.Path(workdir)
  return path if '://' in str(path) else epath.Path(path.absolute())


def read_config(workdir: epath.PathLike) -> ConfigDict:
  """Reads `workdir/config.json`, or a network file's config, locked."""
  if network_file.is_network_path(workdir):
    return ConfigDict(as_tuples(network_file.read(workdir)[1]['config'])).lock()
  path = workdir_path(workdir) / CONFIG_FILE
  try:
    fields = json.loads(path.read_text())
  except OSError as error:
    raise InputError(
      f'{path}: {error.strerror or error}; wanted the workdir of a training '
      'run, which holds config.json and checkpoints/'
    ) from error
  except json.JSONDecodeError as error:
    raise InputError(f'{path} is not JSON ({error}); restore it, or start a new workdir') from error
  if not isinstance(fields, Mapping):
    raise InputError(
      f'{path}: found {type(fields).__name__}, wanted an object; restore it, or start a new workdir'
    )
  return ConfigDict(as_tuples(fields)).lock()


def step_folders(workdir: epath.PathLike) -> list[epath.Path]:
  """Returns the folders of checkpoints, complete or not, in order."""
  root = workdir_path(workdir) / DIRECTORY
  found = root.iterdir() if root.is_dir() else ()
  return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))


def is_complete(folder: epath.Path, items: Sequence[str] = ITEMS) -> bool:
  """Returns whether a step's folder is whole and has these items."""
  return (folder / _COMPLETE).is_file() and all((folder / item).is_dir() for item in items)


def latest_folder(workdir: epath.PathLike, items: Sequence[str] = ITEMS) -> epath.Path:
  """Returns the latest checkpoint that is complete in these items."""
  for folder in reversed(step_folders(workdir)):
    if is_complete(folder, items):
      return folder
  raise InputError(
    f'{workdir_path(workdir) / DIRECTORY} holds no complete checkpoint; train '
    'until the first one is saved (config.checkpoint_every)'
  )


def choose_step(
  workdir: epath.PathLike, step: str | int = 'latest', which: str = 'teacher'
) -> tuple[int, dict]:
  """Finds the checkpoint to use.

  Args:
    workdir: as `checkpoint.restore_for_inference` takes it.
    step: 'latest'; 'best', the one with the largest `config.eval.best_metric` on the validation
      clips of those that are kept (the latest of equal ones); or a number of updates.
    which: 'teacher' or 'student'; the checkpoint must hold it.

  Returns:
    Its updates; and for receipts 'step_choice', which is 'latest', 'given' or such as
    'best dice_teacher', with 'step_score' of the best.
  """
  if network_file.is_network_path(workdir):
    meta = network_file.read(workdir)[1]
    if str(step) not in ('latest', str(meta['step'])):
      raise InputError(
        f'{workdir}: holds one network, after {meta["step"]} updates, found --step={step}; leave '
        '--step out'
      )
    return meta['step'], {'step_choice': 'latest'} | {
      key: meta[key] for key in ('step_choice', 'step_score') if key in meta
    }
  config = read_config(workdir)  # A folder without one is no run.
  if step == 'best':
    return _best_step(workdir, which, config.get('eval', {}).get('best_metric', ''))
  if step == 'latest':
    return int(latest_folder(workdir, (which,)).name), {'step_choice': 'latest'}
  steps = [int(path.name) for path in step_folders(workdir) if is_complete(path, (which,))]
  if not str(step).isdecimal() or int(step) not in steps:
    raise InputError(
      f'{workdir_path(workdir) / DIRECTORY}: found --step={step}, wanted latest, best or one of '
      f'those that are kept: {", ".join(map(str, steps)) or "none"}'
    )
  return int(step), {'step_choice': 'given'}


def _best_step(workdir: epath.PathLike, which: str, metric: str) -> tuple[int, dict]:
  kept = [path for path in step_folders(workdir) if is_complete(path, (which,))]
  scores = {int(path.name): _scores_of(path).get(metric) for path in kept}
  scored = [(s, step) for step, s in scores.items() if s is not None and math.isfinite(s)]
  if not scored:
    reason = f'{len(kept)} kept, none with a score {metric!r}' if metric else "best_metric is ''"
    raise InputError(
      f'{workdir_path(workdir) / DIRECTORY} keeps no best checkpoint ({reason}); leave --step out, '
      'or train with config.eval.best_metric and config.eval.every set, and '
      'config.checkpoint_every a multiple of that'
    )
  score, step = max(scored)
  return step, {'step_choice': f'best {metric}', 'step_score': score}


def _scores_of(folder: epath.Path) -> dict[str, float]:
  """Returns the validation scores that a checkpoint was saved with; empty without any."""
  try:
    scores = json.loads((folder / 'metrics' / 'metrics').read_text())
    return {name: float(value) for name, value in scores.items()}
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, AttributeError, TypeError) as error:
    raise InputError(
      f'{folder / "metrics"}: cannot be read ({error}); copy the checkpoint again, or give the '
      'number of a step'
    ) from error


def set_aside_incomplete(workdir: epath.PathLike) -> None:
  """Renames what an interrupted copy left, so that it is never restored."""
  for folder in step_folders(workdir):
    if not is_complete(folder):
      aside = folder.with_name(f'incomplete_{folder.name}')
      while aside.exists():  # Not the first of this step.
        aside = aside.with_name(aside.name + '_')
      logging.warning('%s is not a complete checkpoint; moved to %s', folder, aside)
      folder.rename(aside)


def check_same_config(workdir: epath.PathLike, config: ConfigDict) -> None:
  """Raises `InputError` where a workdir's config differs in what is learned."""
  found = flatten(read_config(workdir_path(workdir)).to_dict())
  wanted = flatten(as_tuples(json.loads(config_to_json(config))))
  differing = [
    f'{name} is {found.get(name, "absent")!r} there and {wanted.get(name, "absent")!r} now'
    for name in sorted(found.keys() | wanted.keys())
    if found.get(name, 'absent') != wanted.get(name, 'absent') and not is_runtime_field(name)
  ]
  if differing:
    raise InputError(
      f'{workdir_path(workdir) / CONFIG_FILE} belongs to a run with another '
      f'config: {"; ".join(differing)}. Use the same values to resume it, or '
      'another --workdir to start anew'
    )


def claim_workdir(workdir: epath.PathLike, config: ConfigDict) -> None:
  """Writes the config into a workdir without checkpoints, or checks it against the old one."""
  path = workdir_path(workdir) / CONFIG_FILE
  try:
    resumes = bool(step_folders(path.parent))
    if resumes and not path.is_file():
      raise InputError(
        f'{path}: not there, but {path.parent / DIRECTORY} holds checkpoints of some run; wanted '
        'both or neither: restore config.json, or start in another --workdir'
      )
  except OSError as error:
    raise InputError(
      f'--workdir {workdir} cannot be read ({error.strerror or error}); '
      'choose a directory you may read and write'
    ) from error
  if resumes:
    check_same_config(workdir, config)
  if jax.process_index():
    return
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, config_to_json(config))
  except OSError as error:
    raise InputError(
      f'--workdir {workdir} cannot be written ({error.strerror or error}); '
      'choose a directory you may write to'
    ) from error
