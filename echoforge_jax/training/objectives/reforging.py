"""Reforging by pose (ours): unlabeled clips seen as labeled hearts lie.

A network that has few labels segments a heart best at the size and place of those that it learned
from. An unlabeled clip is zoomed and shifted until its heart, as the teacher believes it to be, has
the size and place of a labeled one, by that one's mask; segmented there; and taken back. Measured
in docs/reforging.md.
"""

from collections.abc import Callable

import jax
from jax import Array
import jax.numpy as jnp

from echoforge_jax.training.objectives import base

# Largest zoom, in or out, as a logarithm.
LARGEST_ZOOM = 0.4
# Weights of beliefs about a frame are exp(SHARPNESS expected Dice).
SHARPNESS = 200.0
# A heart is the first two classes of `config.data.classes`, meant to be the cavity and its wall.
# Smaller ones have no pose.
CLASSES, LEAST_PIXELS = 2, 30
# Of the gate (ours): decay of the running mean and variance of expected Dice, least standard
# deviation, largest standard score.
DECAY, LEAST_SPREAD, LARGEST_SCORE = 0.98, 0.01, 3.0


def pose_of(inside: Array, counted: Array) -> Array:
  """Returns the pose of each clip's heart, float32 [B, 3]: log(side), row, column; NaN without one.

  Args:
    inside: bool [B, T, H, W], the heart.
    counted: bool [B, T], the frames that count.
  """
  mass = inside * counted[..., None, None].astype(jnp.float32)
  frames = jnp.maximum(counted.sum(1), 1)
  total = mass.sum((1, 2, 3))
  rows, columns = (jnp.arange(size, dtype=jnp.float32) for size in inside.shape[2:])
  row = (mass.sum((1, 3)) * rows[None]).sum(1) / jnp.maximum(total, 1)
  column = (mass.sum((1, 2)) * columns[None]).sum(1) / jnp.maximum(total, 1)
  pose = jnp.stack([jnp.log(jnp.maximum(total / frames, 1)) / 2, row, column], 1)
  return jnp.where((total >= LEAST_PIXELS * frames)[:, None], pose, jnp.nan)


def warps(pose: Array, goal: Array, size: int) -> tuple[Array, Array]:
  """Returns matrices [B, 2, S, S] (rows, columns) that bring poses [B, 3] to goals, and back.

  Rows of a matrix are output pixels, interpolated linearly; outside of the image lies zero, on the
  way back its edge. Without a pose or a goal (NaN) the image stays as it is.
  """
  known = jnp.isfinite(pose + goal).all(1, keepdims=True)
  pose, goal = jnp.where(known, pose, 0.0), jnp.where(known, goal, 0.0)
  zoom = jnp.exp(jnp.clip(goal[:, :1] - pose[:, :1], -LARGEST_ZOOM, LARGEST_ZOOM))[..., None]
  start, end = pose[:, 1:, None], goal[:, 1:, None]
  grid = jnp.arange(size, dtype=jnp.float32)[None, None]

  def matrices(source: Array) -> Array:
    return jnp.maximum(1 - jnp.abs(source[..., None] - grid[:, :, None]), 0.0)

  there = matrices(start + (grid - end) / zoom)
  back = matrices(jnp.clip(end + (grid - start) * zoom, 0, size - 1))
  return there, back


def warp(images: Array, matrices: Array) -> Array:
  """Warps [B, T, S, S, K] by matrices of `warps`."""
  return jnp.einsum('bij,btjlk,bml->btimk', matrices[:, 0], images, matrices[:, 1])


def expected_dice(p: Array) -> Array:
  """Returns the Dice [B, T] of the first class that probabilities [B, T, H, W, K] expect (ours).

  2 sum p m / (sum p + sum m) with m = [p >= 1/2]; 0 where nothing is believed to be there.
  """
  first = p[..., 0]
  inside = (first >= 0.5).astype(jnp.float32)
  return (
    2 * (first * inside).sum((2, 3)) / jnp.maximum(first.sum((2, 3)) + inside.sum((2, 3)), 1e-6)
  )


def by_pose(predict: Callable[[Array], Array], video: Array, goals: Array) -> Array:
  """Returns probabilities float32 [B, T, S, S, K] of clips that were seen in other poses as well.

  Args:
    predict: video float [B, T, S, S, 1] in [0, 1] -> logits [B, T, S, S, K].
    video: of the clips.
    goals: float32 [R, B, 3], poses of references; NaN leaves a clip in its own.

  Beliefs about a frame, the plain one included, are averaged with the weights exp(`SHARPNESS`
  expected Dice).
  """
  plain = jax.nn.sigmoid(predict(video).astype(jnp.float32))
  pose = believed_pose(plain)
  beliefs = [plain]
  for goal in goals:
    there, back = warps(pose, goal, video.shape[2])
    beliefs.append(warp(jax.nn.sigmoid(predict(warp(video, there)).astype(jnp.float32)), back))
  p = jnp.stack(beliefs)
  dice = jnp.stack([expected_dice(belief) for belief in beliefs])
  weights = jax.nn.softmax(SHARPNESS * dice, axis=0)
  return (p * weights[..., None, None, None]).sum(0)


def believed_pose(p: Array) -> Array:
  """Returns `pose_of` clips by their probabilities [B, T, H, W, K]."""
  return pose_of((p[..., :CLASSES] >= 0.5).any(-1), jnp.ones(p.shape[:2], bool))


def labeled_pose(masks: Array, labeled: Array) -> Array:
  """Returns `pose_of` clips by their masks [B, T, H, W] on labeled frames [B, T]."""
  return pose_of((masks >= 1) & (masks <= CLASSES), labeled)


def teacher(references: int, gate: float, layout: tuple[int, int]) -> Callable:
  """Returns the teacher's call; only clips that may have unlabeled frames are segmented.

  references, gate: of `echoforge`; layout: of `base.unlabeled_rows`.
  """

  def believe(apply, batch, key, extra) -> base.SoftLabels:
    def predict(video: Array) -> Array:
      return apply(video)['logits']

    masks, labeled = batch['masks'], batch['labeled']
    poses = labeled_pose(masks, labeled)
    video = base.unlabeled_rows(batch['video_weak'], layout).astype(jnp.float32) / 255.0
    # Any labeled hearts of the batch; without one, each clip is its own reference.
    odds = jnp.where(jnp.isfinite(poses).all(1), 0.0, -1e9)
    chosen = jax.random.categorical(key, odds, shape=(references, len(video)))
    p = by_pose(predict, video, poses[chosen])
    score = (_expected(p) - extra['mean']) / jnp.sqrt(extra['variance'])
    score = jnp.where(extra['clips'] > 0, jnp.clip(score, -LARGEST_SCORE, LARGEST_SCORE), 0.0)
    weights = 2 * jax.nn.sigmoid(gate * score)[:, None, None, None, None]
    weights = jnp.broadcast_to(weights, p.shape)
    targets, weights = (base.among_rows(x, layout) for x in (p, weights))
    candidates = jnp.broadcast_to(~labeled[..., None, None], masks.shape)
    return base.SoftLabels(targets, weights, candidates)

  return believe


def _expected(p: Array) -> Array:
  """Returns the Dice [B] that clips expect."""
  return expected_dice(p).mean(1)


def init_gate(outputs) -> dict[str, Array]:
  """Returns mean and variance of expected Dice before any clip was seen."""
  return {'mean': jnp.float32(0), 'variance': jnp.float32(1), 'clips': jnp.float32(0)}


def update_gate(layout: tuple[int, int]) -> Callable:
  """Returns what follows mean and variance: of all clips so far, later of the recent ones."""

  def update(extra, outputs, teacher, batch, values, key):
    dice = _expected(base.unlabeled_rows(teacher.targets, layout))
    clips = extra['clips'] + len(dice)
    rate = jnp.maximum(1 - DECAY, len(dice) / clips)
    mean = extra['mean'] + rate * (dice.mean() - extra['mean'])
    spread = ((dice - mean) ** 2).mean()
    variance = jnp.maximum(extra['variance'] + rate * (spread - extra['variance']), LEAST_SPREAD**2)
    moved = {'mean': mean, 'variance': variance, 'clips': clips}
    active = values.weight > 0
    return {name: jnp.where(active, moved[name], old) for name, old in extra.items()}

  return update
