"""Objectives: what a step minimizes, and what it asks of the two networks.

An objective is three pure functions. To add one, write a function in a file of
its own that returns an `Objective`, and name it in `OBJECTIVES`; steps, loop
and checkpoints do not change.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from clu import metrics
import jax
from jax import Array
import jax.numpy as jnp

from echoforge_jax.errors import InputError
from echoforge_jax.training import losses
from echoforge_jax.training.schedules import ScheduleValues

Batch = Mapping[str, Array]
Outputs = Mapping[str, Array]
# A network with its variables: apply(video uint8 or float, **inputs) -> dict.
Apply = Callable[..., Outputs]
Metrics = dict[str, metrics.Average]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a step minimizes.

  Attributes:
    student: (apply, batch) -> outputs. Calls the student (training mode)
      exactly once and returns whatever `loss` reads.
    teacher: (apply, batch) -> pytree of arrays, outside the gradient and only
      while the unsupervised weight is above zero (until then zeros of the same
      shapes); None: there is no teacher forward pass at all.
    loss: (student outputs, teacher outputs or None, batch, schedule values)
      -> (float32 scalar, metrics).
    batch_keys: the fields of the batch that are read, and so transferred.
  """
  student: Callable[[Apply, Batch], Outputs]
  teacher: Callable[[Apply, Batch], Any] | None
  loss: Callable[[Outputs, Any, Batch, ScheduleValues],
                 tuple[Array, Metrics]]
  batch_keys: tuple[str, ...] = (
      'video_weak', 'video_strong', 'masks', 'labeled')


def average(value: Array, count: Array | float = 1.0) -> metrics.Average:
  """A metric as the pair (value * count, count)."""
  count = jnp.asarray(count, jnp.float32)
  return metrics.Average(
      total=jnp.asarray(value, jnp.float32) * count, count=count)


def labeled_pair(labeled: Array) -> tuple[Array, Array]:
  """Picks two labeled frames a clip for episodic CPR: the first and the last.

  With sparse labels they are ED and ES, the only two; with every frame labeled
  they are still ED and ES, the pair that differs most (ours).

  Args:
    labeled: bool [B, T].

  Returns:
    frames: int32 [B, 2].
    valid: bool [B, 2], False where the clip has fewer than two labeled frames.
  """
  first = jnp.argmax(labeled, axis=1)
  last = labeled.shape[1] - 1 - jnp.argmax(labeled[:, ::-1], axis=1)
  valid = labeled.any(axis=1) & (first != last)
  frames = jnp.stack([first, last], axis=1).astype(jnp.int32)
  return frames, jnp.broadcast_to(valid[:, None], frames.shape)


def unlabeled_frames(labeled: Array, count: int) -> tuple[Array, Array]:
  """Picks `count` frames a clip, unlabeled ones first, in order of time.

  Args:
    labeled: bool [B, T].
    count: F <= T; with fewer unlabeled frames labeled ones fill the rest.

  Returns:
    frames: int32 [B, F].
    valid: bool [B, F], True where the frame is unlabeled.
  """
  frames = jnp.argsort(labeled, axis=1, stable=True)[:, :count]
  valid = ~jnp.take_along_axis(labeled, frames, axis=1)
  return frames.astype(jnp.int32), valid


def take_frames(x: Array, frames: Array) -> Array:
  """Gathers frames [B, F] of x [B, T, ...]; returns [B, F, ...]."""
  index = frames.reshape(frames.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)


def echoforge_objective(
    *, supervised_weight: float = 1.0, coarse_weight: float = 0.4,
    episodic_weight: float = 0.4, pseudo_labels: str = 'reforged',
    num_unlabeled: int | None = None) -> Objective:
  """The objective of EchoForge (paper, loss).

    w_s (BCE + Dice on labeled frames)
    + lambda(e) (BCE + Dice on confident pixels of unlabeled frames)
    + w_c (coarse masks on labeled frames)             (ours)
    + w_e (episodic CPR: ED reforges ES, ES reforges ED)  (ours)

  The student sees `video_strong`, the teacher `video_weak`. The student
  decodes reforged logits only of its two episodic frames, the teacher only of
  frames that may be unlabeled.

  Args:
    supervised_weight: w_s.
    coarse_weight: w_c; counts only where the model gives `coarse_logits`.
    episodic_weight: w_e; 0 where the model has no CPR.
    pseudo_labels: 'reforged' (CPR of the teacher), 'plain' (the teacher's own
      logits) or 'none' (supervised training, no teacher forward pass).
    num_unlabeled: F, the largest number of unlabeled frames a clip can have;
      None: every frame may be unlabeled.

  Returns:
    Objective.

  Raises:
    InputError: for an unknown kind of pseudo-label.
  """
  kinds = ('reforged', 'plain', 'none')
  if pseudo_labels not in kinds:
    raise InputError(f'config.semi.pseudo_labels is {pseudo_labels!r}; choose '
                     f'one of {", ".join(kinds)}')

  def student(apply: Apply, batch: Batch) -> Outputs:
    if not episodic_weight:
      return apply(batch['video_strong'])
    frames, _ = labeled_pair(batch['labeled'])
    return apply(batch['video_strong'], labeled=batch['labeled'],
                 reforge=True, reforge_frames=frames)

  def pick_unlabeled(labeled: Array) -> tuple[Array, Array]:
    return unlabeled_frames(labeled, num_unlabeled or labeled.shape[1])

  def teacher(apply: Apply, batch: Batch) -> Array:
    labeled = batch['labeled']
    frames, _ = pick_unlabeled(labeled)
    if pseudo_labels == 'plain':
      return take_frames(apply(batch['video_weak'])['logits'], frames)
    outputs = apply(batch['video_weak'], labeled=labeled, reforge=True,
                    reforge_frames=frames)
    # Without a single label there is nothing to reforge with (ours).
    return jnp.where(labeled.any(), outputs['reforged_logits'],
                     take_frames(outputs['logits'], frames))

  def loss(outputs: Outputs, teacher_logits: Array | None, batch: Batch,
           values: ScheduleValues) -> tuple[Array, Metrics]:
    terms, logged = _supervised_terms(
        outputs, batch, supervised_weight, coarse_weight, episodic_weight)
    if teacher_logits is not None:
      frames, valid = pick_unlabeled(batch['labeled'])
      term = losses.pseudo_label_loss(
          take_frames(outputs['logits'], frames), teacher_logits, valid,
          values.threshold)
      terms.append(values.weight * term.value)
      active = (values.weight > 0).astype(jnp.float32)
      logged['loss_unsupervised'] = average(term.value, active * term.count)
      logged['confident_share'] = metrics.Average(
          total=active * term.confident, count=active * term.candidates)
    total = sum(terms)
    return total, {'loss': average(total)} | logged

  return Objective(
      student=student, teacher=None if pseudo_labels == 'none' else teacher,
      loss=loss,
      batch_keys=tuple(
          key for key in Objective.batch_keys
          if key != 'video_weak' or pseudo_labels != 'none'))


def _supervised_terms(
    outputs: Outputs, batch: Batch, supervised_weight: float,
    coarse_weight: float, episodic_weight: float
) -> tuple[list[Array], Metrics]:
  """The terms that need labels, weighted, and their unweighted metrics."""
  masks = batch['masks']
  term = losses.supervised_loss(outputs['logits'], masks)
  terms = [supervised_weight * term.value]
  dice, counted = losses.hard_dice(
      jax.lax.stop_gradient(outputs['logits']), masks)
  logged = {
      'loss_supervised': average(term.value, term.count),
      'train_dice': metrics.Average(
          total=(dice * counted).sum(), count=counted.sum()),
  }
  if coarse_weight and 'coarse_logits' in outputs:
    term = losses.coarse_loss(outputs['coarse_logits'], masks)
    terms.append(coarse_weight * term.value)
    logged['loss_coarse'] = average(term.value, term.count)
  if episodic_weight:
    frames, valid = labeled_pair(batch['labeled'])
    term = losses.supervised_loss(
        outputs['reforged_logits'], take_frames(masks, frames), valid)
    terms.append(episodic_weight * term.value)
    logged['loss_episodic'] = average(term.value, term.count)
  return terms, logged


OBJECTIVES = {'echoforge': echoforge_objective}


def make_objective(name: str, **options) -> Objective:
  """Builds an objective by its name in `OBJECTIVES`.

  Raises:
    InputError: for an unknown name.
  """
  if name not in OBJECTIVES:
    raise InputError(f'config.objective.name is {name!r}; choose one of '
                     f'{", ".join(sorted(OBJECTIVES))}')
  return OBJECTIVES[name](**options)
