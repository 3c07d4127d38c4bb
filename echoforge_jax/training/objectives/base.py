"""An objective: what it asks of the two networks, and the sum of its terms."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from clu import metrics
from jax import Array
import jax.numpy as jnp

from echoforge_jax.training.schedules import ScheduleValues

Batch = Mapping[str, Array]
Outputs = Mapping[str, Array]
# A network with its variables: apply(video uint8 or float, **inputs) -> dict.
Apply = Callable[..., Outputs]
Metrics = dict[str, metrics.Average]
# (student outputs, teacher outputs or None, batch, schedule values) -> (float32 scalar, weighted
# and ready to be added; what is logged of it).
Term = Callable[[Outputs, Any, Batch, ScheduleValues], tuple[Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a step minimizes; docs/training.md adds one as an example."""

  # Calls the student once, for what `loss` reads.
  student: Callable[[Apply, Batch], Outputs]
  # Returns any arrays; outside the gradient, and only while the unsupervised weight is above zero
  # (until then zeros of the same shapes). None: no forward pass of the teacher at all.
  teacher: Callable[[Apply, Batch], Any] | None
  loss: Term  # Of all terms.
  # Fields of the batch that are read, and so transferred.
  batch_keys: tuple[str, ...] = ('video_weak', 'video_strong', 'masks', 'labeled')


def strong_view(apply: Apply, batch: Batch) -> Outputs:
  """Returns the student's own masks of the strong view, its usual call."""
  return apply(batch['video_strong'])


def compose(
  terms: Sequence[Term],
  *,
  student: Callable[[Apply, Batch], Outputs] = strong_view,
  teacher: Callable[[Apply, Batch], Any] | None = None,
) -> Objective:
  """Returns the objective that is the sum of its terms, logged as 'loss'.

  No two terms log under the same name. Without a teacher the weak view is not transferred.
  """

  def loss(
    outputs: Outputs, teacher_outputs: Any, batch: Batch, values: ScheduleValues
  ) -> tuple[Array, Metrics]:
    total, logged = jnp.zeros((), jnp.float32), {}
    for term in terms:
      value, own = term(outputs, teacher_outputs, batch, values)
      total = total + value
      assert not logged.keys() & own.keys(), own.keys()
      logged |= own
    return total, {'loss': average(total)} | logged

  keys = Objective.batch_keys
  if teacher is None:
    keys = tuple(key for key in keys if key != 'video_weak')
  return Objective(student, teacher, loss, keys)


def average(value: Array, count: Array | float = 1.0) -> metrics.Average:
  """Returns a metric as the pair (value * count, count)."""
  count = jnp.asarray(count, jnp.float32)
  return metrics.Average(total=jnp.asarray(value, jnp.float32) * count, count=count)


def labeled_pair(labeled: Array) -> tuple[Array, Array]:
  """Picks the first and the last labeled frame per clip, for episodic CPR.

  They are ED and ES, the pair that differs most, also where every frame is labeled (ours).
  Returns int32 [B, 2], and bool [B, 2], False where a clip has fewer than two.
  """
  first = jnp.argmax(labeled, axis=1)
  last = labeled.shape[1] - 1 - jnp.argmax(labeled[:, ::-1], axis=1)
  valid = labeled.any(axis=1) & (first != last)
  frames = jnp.stack([first, last], axis=1).astype(jnp.int32)
  return frames, jnp.broadcast_to(valid[:, None], frames.shape)


def unlabeled_frames(labeled: Array, count: int | None = None) -> tuple[Array, Array]:
  """Picks `count` = F (None: T) frames per clip, unlabeled ones first, in order of time.

  F is the most unlabeled frames that a clip can have; labeled ones fill the rest. Returns
  int32 [B, F], and bool [B, F], True where the frame is unlabeled.
  """
  frames = jnp.argsort(labeled, axis=1, stable=True)[:, :count]
  valid = ~jnp.take_along_axis(labeled, frames, axis=1)
  return frames.astype(jnp.int32), valid


def take_frames(x: Array, frames: Array) -> Array:
  """Gathers frames [B, F] of x [B, T, ...]; returns [B, F, ...]."""
  index = frames.reshape(frames.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)
