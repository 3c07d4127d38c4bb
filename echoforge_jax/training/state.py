"""The training state and the keys it hands out."""

from collections.abc import Callable
from typing import Any
import zlib

from flax import struct
import flax.linen as nn
import jax
from jax import Array
import jax.numpy as jnp
import optax


@struct.dataclass
class TrainState:
  """Everything a resumed run needs, as one pytree; float32 but for `step` and `rng`."""

  step: Array  # int32 scalar, updates done so far.
  params: dict
  batch_stats: dict  # Empty without batch norm.
  teacher_params: dict
  teacher_batch_stats: dict
  opt_state: optax.OptState
  rng: Array  # Typed root key; never advanced, see `stream_key`.
  extra: Any = struct.field(default_factory=dict)  # What the objective keeps between steps.


def stream_key(root: Array, stream: str, step: Array | int) -> Array:
  """Returns the key of one named stream ('params', 'dropout') at one step.

  The stream's name is folded in first, then the step: streams never share keys, and step n gives
  the same key from whatever step a run started.
  """
  return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(stream.encode())), step)


def create_train_state(
  *,
  model: nn.Module,
  tx: optax.GradientTransformation,
  seed: int,
  video: Array,
  init_extra: Callable[[Any], Any] | None = None,
) -> TrainState:
  """Initializes student, teacher and optimizer; pure, to be jitted.

  `model(video, train=False)` creates all parameters, those of CPR included; `video` is float32
  [B, T, H, W, 1]. The teacher is a copy: no two leaves may share a buffer, or donating would abort.
  `init_extra` is that of `objectives.base.Objective`.
  """
  root = jax.random.key(seed)
  keys = {stream: stream_key(root, stream, 0) for stream in ('params', 'dropout')}
  variables = model.init(keys, video, train=False)
  params = variables['params']
  batch_stats = variables.get('batch_stats', {})
  extra = {}
  if init_extra is not None:
    extra = init_extra(jax.eval_shape(lambda: model.apply(variables, video, train=False)))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    teacher_params=jax.tree.map(jnp.copy, params),
    teacher_batch_stats=jax.tree.map(jnp.copy, batch_stats),
    opt_state=tx.init(params),
    rng=root,
    extra=extra,
  )


def named_leaves(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by their paths, such as 'conv/kernel'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def compare_trees(given: Any, wanted: Any) -> list[str]:
  """Says which given leaves have no counterpart, or one of another shape."""
  given, wanted = named_leaves(given), named_leaves(wanted)
  problems = []
  for path, leaf in sorted(given.items()):
    if path not in wanted:
      problems.append(f'{path}: not in the model')
    elif not jax.dtypes.issubdtype(wanted[path].dtype, jax.dtypes.prng_key):
      there, here = tuple(leaf.shape), tuple(wanted[path].shape)
      if there != here:
        problems.append(f'{path}: shape {there} there, {here} in the model')
  return problems


def shorten(problems: list[str]) -> str:
  """Joins the first four problems and counts the others."""
  more = f' (and {len(problems) - 4} more)' if len(problems) > 4 else ''
  return '; '.join(sorted(problems)[:4]) + more
