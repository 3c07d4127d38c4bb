"""Validation during training: mean Dice of student and teacher."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from echoforge_jax import cpu
from echoforge_jax.clip import IGNORE
from echoforge_jax.parallel import mesh as mesh_lib


def stack_clips(
  clips: Iterable[Mapping[str, Any]], *, batch_size: int, max_clips: int
) -> list[dict[str, np.ndarray]]:
  """Stacks clips into batches of one size; the last one is padded, with masks of `IGNORE`.

  Clips hold `video` uint8 [T, H, W, 1] and `masks` uint8 [T, H, W]. `max_clips` 0 takes all.
  """
  clips = list(itertools.islice(clips, max_clips or None))
  batches = []
  for start in range(0, len(clips), batch_size):
    part = clips[start : start + batch_size]
    batch = {}
    for name, padding in (('video', 0), ('masks', IGNORE)):
      values = np.stack([np.asarray(clip[name]) for clip in part])
      missing = [(0, batch_size - len(part))] + [(0, 0)] * (values.ndim - 1)
      batch[name] = np.pad(values, missing, constant_values=padding)
    batches.append(batch)
  return batches


def score_names(classes: Sequence[str]) -> tuple[str, ...]:
  """Names what `Validator` scores: means, then each of several classes."""
  each = [f'dice_teacher_{label}' for label in classes if len(classes) > 1]
  return ('dice_student', 'dice_teacher', *each)


class Validator:
  """Scores a state on fixed clips; compiles once, at the first call."""

  def __init__(
    self,
    eval_step: Callable[..., dict],
    batches: list[dict[str, np.ndarray]],
    classes: tuple[str, ...],
    mesh: Mesh,
    state_sharding: Any = None,
  ):
    """Keeps the batches of `stack_clips`, the same in every process, on the host.

    Their size divides by the number of devices. Without a sharding, every device has the state.
    """
    whole = mesh_lib.replicated(mesh)
    self._sharding = mesh_lib.batch_sharding(mesh)
    self._eval_step = cpu.jit(
      eval_step, in_shardings=(state_sharding or whole, self._sharding), out_shardings=whole
    )
    self._batches = batches
    self._classes = classes

  def __call__(self, state: Any, stopped: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Returns mean Dice over frames, named as in `score_names`; nothing once `stopped()`."""
    sums: dict[str, list[np.ndarray]] = {}
    for batch in self._batches:
      if stopped():
        return {}
      result = jax.device_get(self._eval_step(state, mesh_lib.put_same(batch, self._sharding)))
      for name, (total, count) in result.items():
        pair = sums.setdefault(name, [np.zeros(()), np.zeros(())])
        pair[0], pair[1] = pair[0] + total, pair[1] + count
    scores = {}
    for name, (total, count) in sums.items():
      per_class = total / np.maximum(count, 1)
      scores[name] = float(per_class.mean())
      if len(self._classes) > 1 and name == 'dice_teacher':
        for label, value in zip(self._classes, per_class):
          scores[f'{name}_{label}'] = float(value)
    return scores
