"""Checkpoints: the only importer of orbax, which renames a step once all `ITEMS` are there."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import hashlib
import json
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
from echoforge_jax.textio import first_line
from echoforge_jax.training import workdir as workdir_lib
from echoforge_jax.training.state import TrainState, compare_trees, named_leaves, shorten


class SaveError(RuntimeError):
  """A checkpoint that could not be written; the message says what is left."""


def _as_items(state: TrainState) -> dict[str, dict]:
  training = {'step': state.step, 'opt_state': state.opt_state, 'rng': state.rng}
  if jax.tree.leaves(state.extra):
    training['extra'] = state.extra
  return {
    'student': {'params': state.params, 'batch_stats': state.batch_stats},
    'teacher': {'params': state.teacher_params, 'batch_stats': state.teacher_batch_stats},
    'training': training,
  }


class Checkpointer:
  """Saves and restores a training state and its data iterator together."""

  def __init__(self, workdir: epath.PathLike, *, keep: int = 2, best_metric: str = ''):
    """Opens `workdir/checkpoints`, creating it; sets incomplete steps aside.

    The latest `keep` checkpoints stay, and the one with the largest `best_metric` ('': none).
    """
    self._root = workdir_lib.workdir_path(workdir) / workdir_lib.DIRECTORY
    if jax.process_index() == 0:
      workdir_lib.set_aside_incomplete(workdir)
    managers = ocp.checkpoint_managers
    policies = [managers.LatestN(n=keep)]
    # Without a best_fn orbax writes no scores: a run that is resumed would forget the best.
    best_fn = (lambda metrics: metrics[best_metric]) if best_metric else None
    if best_metric:
      policies.append(
        managers.BestN(get_metric_fn=best_fn, n=1, keep_checkpoints_without_metrics=False)
      )
    logging.get_absl_logger().addFilter(_is_worth_telling)
    self._manager = ocp.CheckpointManager(
      self._root,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        save_decision_policy=managers.FixedIntervalPolicy(1),
        best_fn=best_fn,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
      ),
    )

  def latest_step(self) -> int | None:
    """Returns the latest complete step, or None."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: TrainState, iterator: Any, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Starts saving; the state may be donated as soon as this returns.

    Saving a step again does nothing. `iterator.get_state()` is JSON, the same in every process;
    `metrics` are the state's scores. Also raises for the checkpoint that was still being written.
    """
    if step in self._manager.all_steps():
      return
    self._check_space(state)
    items = {'data': ocp.args.JsonSave(iterator.get_state())}
    items |= {name: ocp.args.StandardSave(tree) for name, tree in _as_items(state).items()}
    scores = dict(metrics) if metrics else None
    with self._saving():
      self._manager.save(step, args=ocp.args.Composite(**items), metrics=scores)

  def restore(self, step: int, abstract_state: TrainState, iterator: Any) -> TrainState:
    """Restores a state bit for bit, and the iterator in place.

    Leaves of `abstract_state` are `jax.ShapeDtypeStruct` with the wanted shardings; the iterator is
    of the same pipeline, in any number of processes.
    """
    folder = self._root / str(step)
    items = {}
    for name, tree in _as_items(abstract_state).items():
      _check_tree(folder / name, tree)
      items[name] = ocp.args.StandardRestore(tree)
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    try:
      position = ocp.args.Composite(data=ocp.args.JsonRestore())
      iterator.set_state(self._manager.restore(step, args=position)['data'])
    except (KeyError, OSError, TypeError, ValueError) as error:
      raise InputError(
        f'{folder / "data"}: this position in the data does not fit the input pipeline ({error}); '
        'resume with the version that saved it, or start a new workdir'
      ) from error
    teacher = {f'teacher_{k}': v for k, v in restored['teacher'].items()}
    return abstract_state.replace(**restored['student'], **teacher, **restored['training'])

  def reached_preemption(self, step: int) -> bool:
    """Returns True once every process of a run knows of a preemption."""
    return self._manager.reached_preemption(step)

  def preempted_before(self, step: int) -> bool:
    """Returns whether starting processes know of a preemption, which JAX tells at one step only."""
    several = jax.process_count() > 1
    return several and any(map(self.reached_preemption, range(step + 1)))

  def wait(self) -> None:
    """Waits until the checkpoint being written is complete; may raise."""
    with self._saving():
      self._manager.wait_until_finished()

  def _check_space(self, state: TrainState) -> None:
    """Raises before a write that would leave half of a checkpoint."""
    if '://' in str(self._root):
      return
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    free = shutil.disk_usage(self._root).free
    if free < needed:
      raise self._save_error(f'{needed / 1e6:.1f} MB wanted, {free / 1e6:.1f} MB free')

  def _save_error(self, reason: str) -> SaveError:
    kept = 'there is no whole checkpoint yet'
    for folder in filter(workdir_lib.is_complete, workdir_lib.step_folders(self._root.parent)):
      kept = f'step {folder.name} is the last whole checkpoint'
    return SaveError(
      f'{self._root}: a checkpoint could not be written ({reason}); {kept}. '
      'Free space, or make it writable, and run the same command again'
    )

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    """Says in one sentence that a write failed, whatever orbax raises."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      raise self._save_error(_reason(error)) from error

  def close(self) -> None:
    """Waits, then releases the manager's threads."""
    with self._saving():
      self._manager.close()


def _is_worth_telling(record: Any) -> bool:
  """Drops what orbax logs of errors that are raised as well, and of checkpoints without scores."""
  idle = record.exc_info or 'did not provide metrics' in str(record.msg)
  return not ('orbax' in record.pathname and idle)


def _reason(error: BaseException) -> str:
  """Returns the system's own words where an exception has them, in one line."""
  for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EIO'):
    words = os.strerror(getattr(errno, name))
    if words in str(error):
      return words
  return first_line(error)


def _saved_tree(folder: epath.Path) -> Any:
  """Returns shapes and dtypes of a saved item, as nested dictionaries."""
  return ocp.StandardCheckpointHandler().metadata(folder).tree


def _check_tree(folder: epath.Path, wanted: Any) -> None:
  """Raises an `InputError` naming where a saved item differs from a tree."""
  saved = _saved_tree(folder)
  problems = compare_trees(saved, wanted)
  missing = named_leaves(wanted).keys() - named_leaves(saved).keys()
  problems += [f'{path}: not in the checkpoint' for path in missing]
  if problems:
    raise InputError(
      f'{folder} does not fit the model: {shorten(problems)}. Use the '
      'config it was trained with, or start a new workdir'
    )


def fingerprint(workdir: epath.PathLike) -> tuple[int, str]:
  """Returns the step of the latest whole checkpoint and a digest of all that it holds."""
  folder = workdir_lib.latest_folder(workdir)
  digest = hashlib.sha256()
  for item in workdir_lib.ITEMS[:-1]:
    tree = ocp.StandardCheckpointHandler().restore(folder / item)
    for path, leaf in sorted(named_leaves(tree).items()):
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      array = np.asarray(leaf)
      digest.update(f'{item}/{path} {array.dtype} {array.shape}'.encode())
      digest.update(array.tobytes())
  data = ocp.JsonCheckpointHandler().restore(folder / workdir_lib.ITEMS[-1])
  digest.update(json.dumps(data, sort_keys=True).encode())
  return int(folder.name), digest.hexdigest()


def restore_for_inference(
  workdir: epath.PathLike, which: str = 'teacher', step: str | int = 'latest'
) -> tuple[ConfigDict, dict, int]:
  """Restores one network of a run, without its optimizer.

  Args:
    workdir: the run's directory, a `network_file`, or 'default'.
    which: 'teacher' (the usual choice) or 'student'.
    step: which checkpoint, see `workdir.choose_step`.

  Returns:
    The config, locked; {'params': ...} and, with batch norm, 'batch_stats', on the first local
    device; updates the network has seen.
  """
  if which not in ('teacher', 'student'):
    raise InputError(f'which is {which!r}; choose teacher or student')
  config = workdir_lib.read_config(workdir)
  step, _ = workdir_lib.choose_step(workdir, step, which)
  if network_file.is_network_path(workdir):
    variables, meta = network_file.read(workdir)
    # 'teacher' is what is asked for where nothing is.
    if which == 'student' != meta['which']:
      raise InputError(
        f'{workdir}: holds the {meta["which"]} only, found {which} asked for; leave --which out'
      )
    return config, jax.device_put(variables, jax.local_devices()[0]), step
  folder = workdir_lib.workdir_path(workdir) / workdir_lib.DIRECTORY / str(step) / which
  sharding = SingleDeviceSharding(jax.local_devices()[0])
  try:
    abstract = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      _saved_tree(folder),
    )
    tree = ocp.StandardCheckpointHandler().restore(folder, args=ocp.args.StandardRestore(abstract))
  except Exception as error:  # Whatever the reading library makes of damage.
    raise InputError(
      f'{folder}: cannot be read ({first_line(error)}); wanted a whole checkpoint: copy it again, '
      f'or delete {folder.parent} and take an earlier one'
    ) from error
  return config, {name: value for name, value in tree.items() if value}, step
