"""Checkpoints: the only importer of orbax.

A workdir holds `config.json` (the resolved config) and `checkpoints/STEP/`
with four items each: `student` and `teacher` (parameters and batch statistics:
all that inference needs), `training` (step, optimizer state, root key) and
`data` (the position in the data, the same for every process). Orbax writes a
step into a temporary directory and renames it when every item is there.

A workdir may be a bucket (`gs://...`): every path goes through epath.
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import hashlib
import json
import logging as logging_lib
import math
import os
import shutil
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
import numpy as np
import orbax.checkpoint as ocp

from echoforge_jax.errors import InputError
from echoforge_jax.models import network_file
from echoforge_jax.training.state import TrainState
from echoforge_jax.training.workdir import DIRECTORY, read_config, workdir_path

ITEMS = ('student', 'teacher', 'training', 'data')
# Orbax writes this file into a step's directory before it renames it.
_COMPLETE = '_CHECKPOINT_METADATA'


class SaveError(RuntimeError):
  """A checkpoint that could not be written; the message says what is left."""


def _is_complete(directory: epath.Path) -> bool:
  return (directory / _COMPLETE).is_file() and all(
    (directory / item).is_dir() for item in ITEMS
  )


def _as_items(state: TrainState) -> dict[str, dict]:
  return {
    'student': {'params': state.params, 'batch_stats': state.batch_stats},
    'teacher': {
      'params': state.teacher_params,
      'batch_stats': state.teacher_batch_stats,
    },
    'training': {
      'step': state.step,
      'opt_state': state.opt_state,
      'rng': state.rng,
    },
  }


class Checkpointer:
  """Saves and restores a training state and its data iterator together."""

  def __init__(
    self, workdir: epath.PathLike, *, keep: int = 2, best_metric: str = ''
  ):
    """Opens `workdir/checkpoints`, creating it.

    A step's directory that is not complete (an interrupted copy, say) is set
    aside as `incomplete_STEP`, so that it is never restored.

    Args:
      workdir: the run's directory.
      keep: how many of the latest checkpoints stay.
      best_metric: also keep the checkpoint with the largest value of this
        metric (see `save`); '' keeps none for its score.
    """
    root = workdir_path(workdir) / DIRECTORY
    if root.is_dir() and jax.process_index() == 0:
      _set_aside_incomplete(root)
    managers = ocp.checkpoint_managers
    policies = [managers.LatestN(n=keep)]
    if best_metric:
      policies.append(
        managers.BestN(
          get_metric_fn=lambda metrics: metrics[best_metric],
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    _keep_orbax_quiet()
    self._root = root
    self._manager = ocp.CheckpointManager(
      root,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        save_decision_policy=managers.FixedIntervalPolicy(1),
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
      ),
    )

  def latest_step(self) -> int | None:
    """The latest complete step, or None."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: TrainState,
    iterator: Any,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts saving; returns when the device and the iterator may go on.

    Args:
      step: updates done; saving the same step again does nothing.
      state: the state; it may be donated as soon as this returns.
      iterator: advanced exactly `step` times; its `get_state()` is the same in
        every process, and JSON.
      metrics: scores of this state, for `best_metric`.

    Raises:
      SaveError: where this checkpoint, or the one before it, which was still
        being written, could not be.
    """
    if step in self._manager.all_steps():
      return
    self._check_space(state)
    items = {
      name: ocp.args.StandardSave(tree)
      for name, tree in _as_items(state).items()
    }
    items['data'] = ocp.args.JsonSave(iterator.get_state())
    with self._saving():
      self._manager.save(
        step,
        args=ocp.args.Composite(**items),
        metrics=dict(metrics) if metrics else None,
      )

  def restore(
    self, step: int, abstract_state: TrainState, iterator: Any
  ) -> TrainState:
    """Restores a state, and the iterator in place.

    Args:
      step: a step that was saved.
      abstract_state: `jax.ShapeDtypeStruct` leaves with the wanted shardings.
      iterator: of the same pipeline; any number of processes and workers.

    Returns:
      The state, bit for bit as it was saved.

    Raises:
      InputError: where the saved tree does not fit, naming the tree paths, or
        the iterator's state does not fit the pipeline.
    """
    wanted = _as_items(abstract_state)
    for item, tree in wanted.items():
      _check_tree(
        self._root / str(step) / item, tree, _saved_tree(self._root, step, item)
      )
    items = {
      name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()
    }
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    try:
      data = self._manager.restore(
        step, args=ocp.args.Composite(data=ocp.args.JsonRestore())
      )['data']
      iterator.set_state(data)
    except (KeyError, OSError, TypeError, ValueError) as error:
      raise InputError(
        f'{self._root / str(step) / "data"}: this position in the data does '
        f'not fit the input pipeline ({error}); resume with the version that '
        'saved it, or start a new workdir'
      ) from error
    student, teacher = restored['student'], restored['teacher']
    return abstract_state.replace(
      params=student['params'],
      batch_stats=student['batch_stats'],
      teacher_params=teacher['params'],
      teacher_batch_stats=teacher['batch_stats'],
      **restored['training'],
    )

  def reached_preemption(self, step: int) -> bool:
    """True once every process of a run has learned of a preemption."""
    return self._manager.reached_preemption(step)

  def preempted_before(self, step: int) -> bool:
    """Whether processes that start at `step` learned of a preemption already.

    JAX chooses the step after the last one that any process asked about, and
    tells at that very step only: a run that starts later would never hear.
    """
    return jax.process_count() > 1 and any(
      self.reached_preemption(earlier) for earlier in range(step + 1)
    )

  def wait(self) -> None:
    """Waits until the checkpoint being written is complete.

    Raises:
      SaveError: where it could not be written.
    """
    with self._saving():
      self._manager.wait_until_finished()

  def _check_space(self, state: TrainState) -> None:
    """Stops before a write that cannot succeed: it would leave half of it."""
    if '://' in str(self._root):
      return
    needed = sum(
      math.prod(leaf.shape) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(state)
    )
    free = shutil.disk_usage(self._root).free
    if free < needed:
      raise self._save_error(
        f'{needed / 1e6:.1f} MB wanted, {free / 1e6:.1f} MB free'
      )

  def _save_error(self, reason: str) -> SaveError:
    whole = sorted(
      int(path.name)
      for path in self._root.iterdir()
      if path.name.isdigit() and _is_complete(path)
    )
    kept = (
      f'step {whole[-1]} is the last whole checkpoint'
      if whole
      else 'there is no whole checkpoint yet'
    )
    return SaveError(
      f'{self._root}: a checkpoint could not be written ({reason}); {kept}. '
      'Free space, or make it writable, and run the same command again'
    )

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    """Tells a failed write, whatever orbax makes of it, in one sentence."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      raise self._save_error(_reason(error)) from error

  def close(self) -> None:
    """Waits, then releases the manager's threads."""
    with self._saving():
      self._manager.close()


class _WithoutTracebacks(logging_lib.Filter):
  """Drops what orbax's threads log of an error that is raised as well."""

  def filter(self, record: logging_lib.LogRecord) -> bool:
    return not ('orbax' in record.pathname and record.exc_info)


def _keep_orbax_quiet() -> None:
  logger = logging.get_absl_logger()
  if not any(isinstance(f, _WithoutTracebacks) for f in logger.filters):
    logger.addFilter(_WithoutTracebacks())


def _reason(error: BaseException) -> str:
  """The system's own words where an exception has them, in one line."""
  text = str(error)
  for code in (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EIO,
  ):
    if os.strerror(code) in text:
      return os.strerror(code)
  return next(iter(text.strip().splitlines()), type(error).__name__)[:200]


def _set_aside_incomplete(root: epath.Path) -> None:
  for directory in root.iterdir():
    if directory.name.isdigit() and not _is_complete(directory):
      aside = root / f'incomplete_{directory.name}'
      while aside.exists():  # Not the first of this step.
        aside = aside.with_name(aside.name + '_')
      logging.warning(
        '%s is not a complete checkpoint; moved to %s', directory, aside
      )
      directory.rename(aside)


def _flat(tree: Any) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    '/'.join(_key_name(key) for key in path): leaf for path, leaf in leaves
  }


def _key_name(key: Any) -> str:
  for attribute in ('key', 'name', 'idx'):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)


def _saved_tree(root: epath.Path, step: int, item: str) -> Any:
  """Shapes and dtypes of a saved item, as nested dictionaries."""
  return ocp.StandardCheckpointHandler().metadata(root / str(step) / item).tree


def _check_tree(where: epath.Path, wanted: Any, saved: Any) -> None:
  """Raises an `InputError` naming what differs between two trees."""
  wanted, saved = _flat(wanted), _flat(saved)
  problems = [
    f'{path}: not in the checkpoint' for path in wanted if path not in saved
  ]
  problems += [
    f'{path}: in the checkpoint only' for path in saved if path not in wanted
  ]
  for path in wanted.keys() & saved.keys():
    if jax.dtypes.issubdtype(wanted[path].dtype, jax.dtypes.prng_key):
      continue
    if tuple(wanted[path].shape) != tuple(saved[path].shape):
      problems.append(
        f'{path}: shape {tuple(saved[path].shape)} in the '
        f'checkpoint, {tuple(wanted[path].shape)} in the model'
      )
  if problems:
    shown = '; '.join(sorted(problems)[:4])
    more = f' (and {len(problems) - 4} more)' if len(problems) > 4 else ''
    raise InputError(
      f'{where} does not fit the model: {shown}{more}. Use the config it '
      'was trained with, or start a new workdir'
    )


def fingerprint(workdir: epath.PathLike) -> tuple[int, str]:
  """What the latest whole checkpoint of a run holds, in one number.

  Args:
    workdir: the run's directory.

  Returns:
    step: updates done.
    digest: SHA-256 over paths, dtypes, shapes and bytes of every array of
      student, teacher and training (optimizer, step, root key), and over the
      position in the data. Equal digests are equal bits.

  Raises:
    InputError: where there is no whole checkpoint.
  """
  root = workdir_path(workdir) / DIRECTORY
  step = _latest(root, ITEMS)
  digest = hashlib.sha256()
  for item in ITEMS[:-1]:
    tree = ocp.StandardCheckpointHandler().restore(root / str(step) / item)
    for path, leaf in sorted(_flat(tree).items()):
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      array = np.asarray(leaf)
      digest.update(f'{item}/{path} {array.dtype} {array.shape}'.encode())
      digest.update(array.tobytes())
  data = ocp.JsonCheckpointHandler().restore(root / str(step) / ITEMS[-1])
  digest.update(json.dumps(data, sort_keys=True).encode())
  return step, digest.hexdigest()


def _latest(root: epath.Path, items: tuple[str, ...]) -> int:
  """The latest step that is whole and has these items."""
  steps = (
    [
      int(path.name)
      for path in root.iterdir()
      if path.name.isdigit()
      and (path / _COMPLETE).is_file()
      and all((path / item).is_dir() for item in items)
    ]
    if root.is_dir()
    else []
  )
  if not steps:
    raise InputError(
      f'{root} holds no complete checkpoint; train until the '
      'first one is saved (config.checkpoint_every)'
    )
  return max(steps)


def restore_for_inference(
  workdir: epath.PathLike, which: str = 'teacher'
) -> tuple[ConfigDict, dict, int]:
  """Restores one network of a run, without its optimizer.

  Args:
    workdir: the run's directory, a `network_file`, or 'default'.
    which: 'teacher' (the usual choice) or 'student'.

  Returns:
    config: the run's config, locked.
    variables: {'params': ...} and, with batch norm, 'batch_stats', on the
      first local device.
    step: updates the network has seen.

  Raises:
    InputError: where there is no run or no complete checkpoint, or a file
      holds the other network.
  """
  if which not in ('teacher', 'student'):
    raise InputError(f'which is {which!r}; choose teacher or student')
  config = read_config(workdir)
  if network_file.is_network_path(workdir):
    variables, meta = network_file.read(workdir)
    # 'teacher' is what is asked for where nothing is.
    if which == 'student' != meta['which']:
      raise InputError(
        f'{workdir}: holds the {meta["which"]} only, found '
        f'{which} asked for; leave --which out'
      )
    return (
      config,
      jax.device_put(variables, jax.local_devices()[0]),
      (meta['step']),
    )
  root = workdir_path(workdir) / DIRECTORY
  step = _latest(root, (which,))
  folder = root / str(step) / which
  sharding = SingleDeviceSharding(jax.local_devices()[0])
  try:
    abstract = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      _saved_tree(root, step, which),
    )
    tree = ocp.StandardCheckpointHandler().restore(
      folder, args=ocp.args.StandardRestore(abstract)
    )
  except Exception as error:  # Whatever the reading library makes of damage.
    raise InputError(
      f'{folder}: cannot be read ({str(error).strip().splitlines()[0][:200]}'
      f'); wanted a whole checkpoint: copy it again, or delete '
      f'{folder.parent} and take an earlier one'
    ) from error
  return config, {name: value for name, value in tree.items() if value}, step
