"""Losses against numpy by hand, and with nothing to count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE
from echoforge_jax.training import losses


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def bce_by_hand(z, y, w):
  p = sigmoid(z)
  return np.sum(w * -(y * np.log(p) + (1 - y) * np.log(1 - p))) / w.sum()


def dice_by_hand(z, y, w):
  terms = []
  for b, t, k in np.ndindex(z.shape[0], z.shape[1], z.shape[4]):
    p, q = sigmoid(z[b, t, ..., k]), y[b, t, ..., k]
    v = w[b, t, ..., k]
    if v.sum():
      terms.append(1 - (2 * (v * p * q).sum() + 1) / ((v * p).sum() + (v * q).sum() + 1))
  return np.mean(terms)


@pytest.fixture
def case():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (2, 3, 4, 5, 2)).astype(np.float32)
  masks = rng.integers(0, 3, (2, 3, 4, 5)).astype(np.uint8)
  masks[0, 1] = IGNORE
  masks[1, 2, :2] = IGNORE
  return logits, masks


def hand_targets(masks):
  y = np.stack([masks == 1, masks == 2], -1).astype(np.float64)
  w = np.broadcast_to((masks != IGNORE)[..., None], y.shape).astype(float)
  return y, w


@pytest.mark.slow
def test_supervised_loss_equals_numpy(case):
  logits, masks = case
  y, w = hand_targets(masks)
  term = losses.supervised_loss(jnp.asarray(logits), jnp.asarray(masks))
  wanted = bce_by_hand(logits, y, w) + dice_by_hand(logits, y, w)
  np.testing.assert_allclose(term.value, wanted, rtol=1e-5)
  assert float(term.count) == 5  # Six frames, one of them unlabeled.


@pytest.mark.slow
def test_supervised_loss_of_chosen_frames(case):
  logits, masks = case
  frames = np.array([[True, False, False], [False, False, True]])
  y, w = hand_targets(masks)
  w = w * frames[:, :, None, None, None]
  term = losses.supervised_loss(jnp.asarray(logits), jnp.asarray(masks), jnp.asarray(frames))
  wanted = bce_by_hand(logits, y, w) + dice_by_hand(logits, y, w)
  np.testing.assert_allclose(term.value, wanted, rtol=1e-5)
  assert float(term.count) == 2


@pytest.mark.slow
def test_an_unlabeled_frame_has_no_gradient(case):
  logits, masks = map(jnp.asarray, case)
  grad = jax.grad(lambda z: losses.supervised_loss(z, masks).value)(logits)
  assert not grad[0, 1].any() and not grad[1, 2, :2].any()
  assert grad[0, 0].all() and grad[1, 2, 2:].all()


@pytest.mark.slow
def test_extreme_logits_stay_finite():
  logits = jnp.full((1, 1, 2, 2, 1), 1e4).at[0, 0, 0].set(-1e4)
  masks = jnp.zeros((1, 1, 2, 2), jnp.uint8).at[0, 0, 0].set(1)
  value, grad = jax.value_and_grad(lambda z: losses.supervised_loss(z, masks).value)(logits)
  assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.slow
def test_nothing_labeled_costs_nothing():
  logits = jnp.ones((1, 2, 4, 4, 1))
  masks = jnp.full((1, 2, 4, 4), IGNORE, jnp.uint8)
  frames = jnp.zeros((1, 2), bool)
  functions = {
    'supervised': lambda z: losses.supervised_loss(z, masks),
    'coarse': lambda z: losses.coarse_loss(z[:, :, :2, :2], masks),
    'pseudo': lambda z: losses.pseudo_label_loss(z, z, frames, 0.9),
  }
  for name, function in functions.items():
    value, grad = jax.value_and_grad(lambda z: function(z).value)(logits)
    assert float(value) == 0, name
    assert not grad.any(), name
    assert float(function(logits).count) == 0, name


def test_coarse_loss_averages_areas(case):
  _, masks = case
  masks = np.repeat(masks[..., :4], 2, axis=3)  # 4 x 8 pixels, 2 x 2 tokens.
  rng = np.random.default_rng(1)
  coarse = rng.normal(size=(2, 3, 2, 2, 2)).astype(np.float32)
  y = np.zeros(coarse.shape)
  w = np.zeros(coarse.shape)
  for i, j, k in np.ndindex(2, 2, 2):
    block = masks[:, :, 2 * i : 2 * i + 2, 4 * j : 4 * j + 4]
    valid = (block != IGNORE).sum((2, 3))
    y[..., i, j, k] = (block == k + 1).sum((2, 3)) / np.maximum(valid, 1)
    w[..., i, j, k] = valid / 8
  term = losses.coarse_loss(jnp.asarray(coarse), jnp.asarray(masks))
  wanted = bce_by_hand(coarse, y, w) + dice_by_hand(coarse, y, w)
  np.testing.assert_allclose(term.value, wanted, rtol=1e-5)


def test_coarse_loss_names_sizes_that_do_not_divide():
  with pytest.raises(ValueError, match='10x10 pixels.*4x4'):
    losses.coarse_loss(jnp.zeros((1, 1, 4, 4, 1)), jnp.zeros((1, 1, 10, 10), jnp.uint8))


def balanced_by_hand(y, confident, least=0.1):
  w = np.zeros(y.shape)
  for b, t, k in np.ndindex(y.shape[0], y.shape[1], y.shape[4]):
    own, sure = y[b, t, ..., k] > 0, confident[b, t, ..., k]
    sides = [own, ~own]
    if all(s.sum() and (s & sure).sum() >= least * s.sum() for s in sides):
      for s in sides:
        w[b, t, ..., k][s & sure] = s.sum() / (s & sure).sum()
  return w


@pytest.mark.parametrize('threshold', [0.5, 0.8, 0.97])
def test_pseudo_labels_count_where_confident(case, threshold):
  logits, _ = case
  teacher = np.random.default_rng(2).normal(0, 3, logits.shape)
  teacher = teacher.astype(np.float32)
  frames = np.array([[True, True, False], [False, True, True]])
  p = sigmoid(teacher)
  y = (p >= 0.5).astype(float)
  w = balanced_by_hand(y, np.maximum(p, 1 - p) >= threshold)
  w = w * frames[:, :, None, None, None]
  assert w.any()
  term = losses.pseudo_label_loss(
    jnp.asarray(logits), jnp.asarray(teacher), jnp.asarray(frames), threshold
  )
  wanted = bce_by_hand(logits, y, w) + dice_by_hand(logits, y, w)
  np.testing.assert_allclose(term.value, wanted, rtol=1e-5)
  assert float(term.confident) == (w > 0).sum()
  assert float(term.candidates) == 4 * 4 * 5 * 2


def test_a_frame_counts_only_where_both_sides_are_confident():
  """A structure of ten pixels in a hundred, ever more of it confident."""
  y = np.zeros((1, 1, 10, 10, 1), np.float32)
  y[0, 0, 0] = 1
  sure = y == 0
  sure[0, 0, 9] = False  # And a tenth of the background is not.
  for known in range(11):
    sure[0, 0, 0] = (np.arange(10) < known)[:, None]
    w = np.asarray(losses.balanced_weights(jnp.asarray(y), jnp.asarray(sure), least=0.25))
    if known < 3:
      assert not w.any()
    else:
      # Each side weighs as much as its pixels, whatever is known of it.
      np.testing.assert_allclose(w[0, 0, 0].sum(), 10, rtol=1e-6)
      np.testing.assert_allclose(w[0, 0, 1:].sum(), 90, rtol=1e-6)
      assert (w > 0).sum() == known + 80


@pytest.mark.slow
def test_pseudo_labels_without_a_structure_teach_nothing():
  empty = jnp.full((1, 2, 8, 8, 1), -9.0)
  term = losses.pseudo_label_loss(jnp.zeros(empty.shape), empty, jnp.ones((1, 2), bool), 0.75)
  assert float(term.value) == float(term.count) == float(term.confident) == 0


@pytest.mark.slow
def test_soft_labels_are_a_mean_over_all_candidates(case):
  logits, _ = case
  rng = np.random.default_rng(4)
  targets, weights = rng.random((2, *logits.shape)).astype(np.float32)
  candidates = rng.random(logits.shape[:-1]) < 0.6
  candidates[0, 0] = False  # A frame that is labeled as a whole.
  w = weights * candidates[..., None]
  total = candidates.sum() * logits.shape[-1]
  p = sigmoid(logits.astype(float))
  wanted = (w * -(targets * np.log(p) + (1 - targets) * np.log(1 - p))).sum() / total
  for b, t, k in np.ndindex(2, 3, logits.shape[-1]):
    q, y, v = (x[b, t, ..., k] for x in (p, targets, w))
    dice = 1 - (2 * (v * q * y).sum() + 1) / ((v * q * q).sum() + (v * y * y).sum() + 1)
    wanted += dice * v.sum() / total
  given = (jnp.asarray(x) for x in (logits, targets, weights, candidates))
  term = losses.soft_label_loss(*given)
  np.testing.assert_allclose(term.value, wanted, rtol=1e-5)
  assert float(term.count) == 5 and float(term.candidates) == total
  np.testing.assert_allclose(term.confident, w.sum(), rtol=1e-5)


@pytest.mark.slow
def test_soft_labels_are_met_by_themselves_and_their_weight_is_what_it_says():
  targets = jnp.asarray(np.random.default_rng(5).uniform(0.1, 0.9, (1, 2, 16, 16, 1)), jnp.float32)
  candidates = jnp.ones((1, 2, 16, 16), bool)
  own = jnp.log(targets / (1 - targets))

  def loss(z, weight=1.0):
    return losses.soft_label_loss(z, targets, jnp.full(z.shape, weight), candidates).value

  assert float(jnp.abs(jax.grad(loss)(own)).max()) < 1e-6
  # Half the weight halves the loss, and so does leaving out one of two frames.
  np.testing.assert_allclose(loss(own + 2, 0.5), loss(own + 2) / 2, rtol=2e-2)
  one = jnp.ones(own.shape).at[:, 1].set(0)
  both = losses.soft_label_loss(
    jnp.stack([own[:, 0] + 2] * 2, 1),
    *(jnp.stack([x[:, 0]] * 2, 1) for x in (targets, one, candidates)),
  )
  half = losses.soft_label_loss(
    jnp.stack([own[:, 0] + 2] * 2, 1), jnp.stack([targets[:, 0]] * 2, 1), one, candidates
  )
  np.testing.assert_allclose(half.value, both.value / 2, rtol=1e-5)


def test_consistency_is_the_squared_distance_of_the_frames_that_count(case):
  logits, _ = case
  teacher = np.random.default_rng(3).normal(0, 2, logits.shape)
  teacher = teacher.astype(np.float32)
  frames = np.array([[True, False, False], [False, True, True]])
  wanted = ((sigmoid(logits) - sigmoid(teacher)) ** 2)[frames].mean()
  term = losses.consistency_loss(jnp.asarray(logits), jnp.asarray(teacher), jnp.asarray(frames))
  np.testing.assert_allclose(term.value, wanted, rtol=1e-5)
  assert float(term.count) == 3
  none = losses.consistency_loss(jnp.asarray(logits), jnp.asarray(teacher), jnp.zeros((2, 3), bool))
  assert float(none.value) == float(none.count) == 0


def test_no_gradient_of_the_consistency_reaches_the_teacher(case):
  logits, _ = case
  frames = jnp.ones((2, 3), bool)

  def loss(z, teacher):
    return losses.consistency_loss(z, teacher, frames).value

  to_student, to_teacher = jax.grad(loss, (0, 1))(jnp.asarray(logits), jnp.asarray(logits) + 1)
  assert float(jnp.abs(to_student).sum()) > 0
  assert float(jnp.abs(to_teacher).sum()) == 0


def test_hard_dice_counts_labeled_frames(case):
  logits, masks = case
  y, w = hand_targets(masks)
  # One class per pixel: the largest logit's.
  largest = np.arange(logits.shape[-1]) == logits.argmax(-1)[..., None]
  predicted = (logits >= 0) * largest * w
  sizes = predicted.sum((2, 3)) + (y * w).sum((2, 3))
  wanted = 2 * (predicted * y).sum((2, 3)) / np.maximum(sizes, 1)
  dice, counted = losses.hard_dice(jnp.asarray(logits), jnp.asarray(masks))
  assert not counted[0, 1].any() and counted.sum() == 10
  np.testing.assert_allclose(dice[counted > 0], wanted[np.asarray(counted) > 0], rtol=1e-6)


def test_hard_dice_of_two_empty_masks_is_one():
  dice, counted = losses.hard_dice(
    jnp.full((1, 1, 4, 4, 1), -1.0), jnp.zeros((1, 1, 4, 4), jnp.uint8)
  )
  assert float(dice[0, 0, 0]) == 1 and float(counted[0, 0, 0]) == 1


def test_annotations_are_checked():
  with pytest.raises(Exception, match='(?i)type'):
    losses.supervised_loss(jnp.zeros((1, 1, 4, 4, 1)), jnp.zeros((1, 1, 4, 4), jnp.float32))
