"""Starting from weights that exist instead of from random ones."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.training import checkpoint
from echoforge_jax.training.state import TrainState


def replace_weights(state: TrainState, variables: dict, *, source: str,
                    sharding: Any) -> TrainState:
  """Puts given weights into student and teacher; the rest stays new.

  Args:
    state: a state before its first update.
    variables: {'params': ...} and perhaps {'batch_stats': ...}; any subtree of
      the model's variables, such as that of the backbone alone.
    source: where they come from, for messages.
    sharding: sharding of the state.

  Returns:
    The state; student and teacher hold separate copies.

  Raises:
    InputError: where a weight has no place in the model or another shape.
  """
  # A copy for each network: they are donated, and may share no buffer.
  copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree),
                 out_shardings=sharding)
  new = {}
  for name, old in (('params', state.params),
                    ('batch_stats', state.batch_stats)):
    values = jax.tree.map(np.asarray, variables.get(name, {}))
    _check(source, name, values, old)
    teacher = f'teacher_{name}'
    new[name] = _merge(old, copy(values))
    new[teacher] = _merge(getattr(state, teacher), copy(values))
  return state.replace(**new)


def _merge(old: Any, new: Any) -> Any:
  if not isinstance(old, dict):
    return new
  return {key: _merge(value, new[key]) if key in new else value
          for key, value in old.items()}


def _check(source: str, name: str, values: dict, old: dict) -> None:
  known = {jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
           for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
  problems = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(values):
    where = jax.tree_util.keystr(path, simple=True, separator='/')
    if where not in known:
      problems.append(f'{name}/{where}: not in the model')
    elif known[where] != leaf.shape:
      problems.append(f'{name}/{where}: shape {leaf.shape} there, '
                      f'{known[where]} in the model')
  if problems:
    more = f' (and {len(problems) - 4} more)' if len(problems) > 4 else ''
    raise InputError(
        f'{source} does not fit config.model: {"; ".join(problems[:4])}{more}. '
        'Use the config.model it was trained with')


def from_run(state: TrainState, workdir: str | os.PathLike, *,
             sharding: Any) -> TrainState:
  """Starts from the teacher of another run, such as one on the phantom.

  Raises:
    InputError: where there is no such run or it has another model.
  """
  _, variables, step = checkpoint.restore_for_inference(workdir, 'teacher')
  return replace_weights(
      state, variables, sharding=sharding,
      source=f'config.init_from={workdir} (step {step})')
