"""Reforging by pose: where hearts are, there and back, and what labeled ones add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.training.objectives import base, reforging

SIZE = 64


def discs(places, size=SIZE):
  """bool [B, 2, S, S], two frames of a disc (radius, row, column) for each clip."""
  rows, columns = np.mgrid[:size, :size]
  return np.stack(
    [[(rows - r) ** 2 + (columns - c) ** 2 < (k * radius) ** 2 for k in (1, 0.8)]
     for radius, r, c in places]
  )  # fmt: skip


def test_pose_is_size_and_center_of_the_frames_that_count():
  inside = discs([(10, 30, 20), (6, 40, 33), (1, 9, 9)])
  counted = jnp.asarray([[True, True], [True, False], [True, True]])
  pose = np.asarray(reforging.pose_of(jnp.asarray(inside), counted))
  for n, frames in enumerate((slice(0, 2), slice(0, 1))):
    area = inside[n, frames].sum() / inside[n, frames].shape[0]
    np.testing.assert_allclose(pose[n, 0], np.log(np.sqrt(area)), rtol=1e-5)
  np.testing.assert_allclose(pose[:2, 1:], [[30, 20], [40, 33]], atol=1e-3)
  assert np.isnan(pose[2]).all()  # Too small for a heart.
  assert np.isnan(reforging.pose_of(jnp.asarray(inside), jnp.zeros((3, 2), bool))).all()


@pytest.mark.slow
def test_a_clip_is_brought_to_the_goal_and_back():
  inside = discs([(10, 30, 20), (10, 30, 20), (10, 30, 20)])
  every = jnp.ones((3, 2), bool)
  pose = reforging.pose_of(jnp.asarray(inside), every)
  goal = pose + jnp.asarray([[0.2, 5.0, 9.0], [-0.3, -4.0, 11.0], [jnp.nan] * 3])
  there, back = reforging.warps(pose, goal, SIZE)
  images = jnp.asarray(inside, jnp.float32)[..., None]
  moved = reforging.warp(images, there)
  found = reforging.pose_of(moved[..., 0] > 0.5, every)
  np.testing.assert_allclose(found[:2], goal[:2], atol=0.1)
  np.testing.assert_allclose(moved[2], images[2], atol=1e-5)  # No goal, no change.
  again = np.asarray(reforging.warp(moved, back) > 0.5)[..., 0]
  assert (again ^ inside).sum() < 0.1 * inside.sum()


def one_size_fits(radius):
  """A network that sees the whole of a disc of one size, and less of any other, less surely."""

  def predict(video):
    side = jnp.sqrt((video[..., 0] > 0.5).sum((2, 3)) / jnp.pi)
    wrong = jnp.abs(jnp.log(side / radius))[..., None, None, None]
    return 12.0 * (video - 0.5 - 0.4 * jnp.minimum(3 * wrong, 1)) - 4 * wrong

  return predict


@pytest.mark.slow
def test_labeled_references_beat_the_clip_as_its_own():
  """The test of docs/reforging.md on a network that knows hearts of the labeled size alone."""
  # Blurred edges, so that a threshold that is too high costs pixels.
  truth = discs([(9, 30, 30), (14, 32, 28), (10, 25, 36), (13, 36, 30)])
  video = np.apply_along_axis(lambda x: np.convolve(x, np.ones(7) / 7, 'same'), 2, truth * 1.0)
  video = np.apply_along_axis(lambda x: np.convolve(x, np.ones(7) / 7, 'same'), 3, video)[..., None]
  video, predict = jnp.asarray(video, jnp.float32), one_size_fits(10.5)
  masks = jnp.asarray(discs([(11.5, 30, 31)] * 4), jnp.uint8)
  labeled = reforging.labeled_pose(masks, jnp.ones((4, 2), bool))

  def dice(p):
    mask = np.asarray(p[..., 0] >= 0.5)
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())

  plain = dice(jax.nn.sigmoid(predict(video)))
  foreign = dice(reforging.by_pose(predict, video, labeled[None]))
  own = reforging.believed_pose(jax.nn.sigmoid(predict(video)))
  own = dice(reforging.by_pose(predict, video, own[None]))
  none = dice(reforging.by_pose(predict, video, jnp.full((1, 4, 3), jnp.nan)))
  assert abs(none - plain) < 1e-6
  assert abs(own - plain) < 1e-6
  assert foreign > own + 0.01


def test_rows_without_a_label_are_taken_out_and_put_back():
  x = jnp.arange(12).reshape(6, 2)
  rows = base.unlabeled_rows(x, (2, 1))
  assert rows.tolist() == [[4, 5], [10, 11]]
  wanted = np.zeros((6, 2), int)
  wanted[[2, 5]] = rows
  np.testing.assert_array_equal(base.among_rows(rows, (2, 1)), wanted)
  np.testing.assert_array_equal(base.among_rows(base.unlabeled_rows(x, (0, 1)), (0, 1)), x)
