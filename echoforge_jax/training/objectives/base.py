"""An objective: what it asks of the two networks, and the sum of its terms."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from clu import metrics
import jax
from jax import Array
import jax.numpy as jnp

from echoforge_jax.training.schedules import ScheduleValues

Batch = Mapping[str, Array]
Outputs = Mapping[str, Any]
# A network with its variables: apply(video uint8 or float, **inputs) -> dict.
Apply = Callable[..., Outputs]
Metrics = dict[str, metrics.Average]
# What an objective keeps between steps: a tree of arrays, {} where it keeps nothing.
Extra = Any
# (apply, batch, key, extra) -> what the loss reads.
Call = Callable[[Apply, Batch, Array, Extra], Any]
# (student outputs, teacher outputs or None, batch, schedule values, key, extra) -> (float32 scalar,
# weighted and ready to be added; what is logged of it).
Term = Callable[[Outputs, Any, Batch, ScheduleValues, Array, Extra], tuple[Array, Metrics]]


class SoftLabels(NamedTuple):
  """What a teacher says of unlabeled pixels."""

  targets: Array  # float32 [B, T, H, W, K] in [0, 1].
  weights: Array  # float32 [B, T, H, W, K], how much each counts.
  candidates: Array  # bool [B, T, H, W], pixels without a label.


BATCH_KEYS = ('video_weak', 'video_strong', 'masks', 'labeled')


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a step minimizes; docs/training.md adds one as an example.

  Everything here is traced: pure functions of arrays. Each gets a key of its own. A step calls
  `teacher`, `mix`, `student`, `loss` and `update_extra`, in this order.
  """

  # Calls the student, once or more often, for what `loss` reads. Batch norm's running statistics
  # pass from call to call.
  student: Call
  # Returns any arrays; outside the gradient, and only while the unsupervised weight is above zero
  # (until then zeros of the same shapes). None: no forward pass of the teacher at all.
  teacher: Call | None
  loss: Term  # Of all terms.
  # Fields of the batch that are read, and so drawn and transferred: `data.augment.FIELDS`, and
  # 'video_strong_2', 'video_strong_3', ... for more strong views.
  batch_keys: tuple[str, ...] = BATCH_KEYS
  # (batch, teacher outputs, key) -> both, with clips mixed or fields added, for student and loss.
  mix: Callable[[Batch, Any, Array], tuple[Batch, Any]] | None = None
  # Model outputs of one clip, as shapes [1, T, ...] -> `extra` before the first step.
  init_extra: Callable[[Any], Extra] | None = None
  # (extra, student outputs, teacher outputs, batch, schedule values, key) -> `extra` of the next
  # step, of the same shapes. The batch is the mixed one; the teacher's outputs are those before
  # mixing, zeros while `values.weight` is zero.
  update_extra: Callable[[Extra, Outputs, Any, Batch, ScheduleValues, Array], Extra] | None = None


def strong_view(apply: Apply, batch: Batch, key: Array, extra: Extra) -> Outputs:
  """Returns the student's own masks of the strong view, its usual call."""
  return apply(batch['video_strong'])


def plain_teacher(num_unlabeled: int | None = None) -> Call:
  """Returns the call for a teacher's own logits [B, F, H, W, K] of `unlabeled_frames`."""

  def teacher(apply: Apply, batch: Batch, key: Array, extra: Extra) -> Array:
    frames, _ = unlabeled_frames(batch['labeled'], num_unlabeled)
    return take_frames(apply(batch['video_weak'])['logits'], frames)

  return teacher


def soft_labels(logits: Array, batch: Batch) -> SoftLabels:
  """Returns the probabilities of all frames, where nothing is labeled, with weights of 1."""
  targets = jax.nn.sigmoid(logits.astype(jnp.float32))
  unlabeled = jnp.broadcast_to(~batch['labeled'][..., None, None], logits.shape[:-1])
  return SoftLabels(targets, jnp.ones_like(targets), unlabeled)


def compose(
  terms: Sequence[Term],
  *,
  student: Call = strong_view,
  teacher: Call | None = None,
  batch_keys: Sequence[str] | None = None,
  **more: Any,
) -> Objective:
  """Returns the objective that is the sum of its terms, logged as 'loss'.

  No two terms log under the same name. Without a teacher the weak view is not transferred, unless
  `batch_keys` names it. `more` are further fields of `Objective`.
  """

  def loss(outputs, teacher_outputs, batch, values, key, extra) -> tuple[Array, Metrics]:
    total, logged = jnp.zeros((), jnp.float32), {}
    for term in terms:
      value, own = term(outputs, teacher_outputs, batch, values, key, extra)
      total = total + value
      assert not logged.keys() & own.keys(), own.keys()
      logged |= own
    return total, {'loss': average(total)} | logged

  if batch_keys is None:
    batch_keys = [key for key in BATCH_KEYS if teacher is not None or key != 'video_weak']
  return Objective(student, teacher, loss, tuple(batch_keys), **more)


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


def unlabeled_rows(x: Array, layout: tuple[int, int]) -> Array:
  """Returns the clips of [B, ...] that may have unlabeled frames.

  In a batch of `layout` (l, u), l labeled clips and u others take turns; (0, 1) takes all. The
  labeled ones, where they are left out, have a label on every frame.
  """
  runs = x.reshape(-1, sum(layout), *x.shape[1:])
  return runs[:, layout[0] :].reshape(-1, *x.shape[1:])


def among_rows(x: Array, layout: tuple[int, int]) -> Array:
  """Puts what belongs to `unlabeled_rows` back in its place in [B, ...], zeros elsewhere."""
  runs = x.reshape(-1, layout[1], *x.shape[1:])
  zeros = jnp.zeros((len(runs), layout[0], *x.shape[1:]), x.dtype)
  return jnp.concatenate([zeros, runs], 1).reshape(-1, *x.shape[1:])


def take_frames(x: Array, frames: Array) -> Array:
  """Gathers frames [B, F] of x [B, T, ...]; returns [B, F, ...]."""
  index = frames.reshape(frames.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)
