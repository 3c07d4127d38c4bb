"""What the objective asks of student and teacher, and what it adds up."""

import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.data.clip import IGNORE
from echoforge_jax.errors import InputError
from echoforge_jax.training import losses, objective, schedules

LABELED = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]],
                   bool)


def test_labeled_pair_is_the_first_and_the_last():
  frames, valid = objective.labeled_pair(jnp.asarray(LABELED))
  assert np.asarray(frames)[[0, 3]].tolist() == [[0, 3], [0, 3]]
  assert valid.tolist() == [[True] * 2, [False] * 2, [False] * 2, [True] * 2]


def test_unlabeled_frames_come_first_and_in_order():
  frames, valid = objective.unlabeled_frames(jnp.asarray(LABELED), 2)
  assert frames.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
  assert valid.tolist() == [[True] * 2] * 3 + [[False] * 2]
  frames, valid = objective.unlabeled_frames(jnp.asarray(LABELED), 4)
  assert frames[0].tolist() == [1, 2, 0, 3]
  assert valid.sum(1).tolist() == [2, 3, 4, 0]


def test_take_frames():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
  frames = np.array([[2, 0], [1, 1]])
  taken = objective.take_frames(jnp.asarray(x), jnp.asarray(frames))
  np.testing.assert_allclose(taken[0, 0], x[0, 2], rtol=1e-6)
  np.testing.assert_allclose(taken[1, 1], x[1, 1], rtol=1e-6)


@pytest.fixture
def batch():
  rng = np.random.default_rng(1)
  masks = rng.integers(0, 2, (2, 4, 8, 8))
  labeled = np.array([[1, 0, 0, 1]] * 2, bool)
  masks[~labeled] = IGNORE
  video = rng.integers(0, 255, (2, 4, 8, 8, 1))
  return {'video_weak': jnp.asarray(video, jnp.uint8),
          'video_strong': jnp.asarray(255 - video, jnp.uint8),
          'masks': jnp.asarray(masks, jnp.uint8),
          'labeled': jnp.asarray(labeled)}


def fake_apply(calls):
  """A network whose logits are its video; records what it was asked."""
  def apply(video, **inputs):
    calls.append((video, inputs))
    logits = video.astype(jnp.float32) / 64 - 2
    outputs = {'logits': logits, 'coarse_logits': logits[:, :, ::4, ::4]}
    if inputs.get('reforge'):
      outputs['reforged_logits'] = -objective.take_frames(
          logits, inputs['reforge_frames'])
    return outputs
  return apply


def values(weight):
  return schedules.ScheduleValues(
      jnp.float32(0.5), jnp.float32(weight), jnp.float32(0.7))


def test_student_sees_strong_and_teacher_weak(batch):
  calls = []
  goal = objective.echoforge_objective(num_unlabeled=2)
  goal.student(fake_apply(calls), batch)
  goal.teacher(fake_apply(calls), batch)
  (strong, student_inputs), (weak, teacher_inputs) = calls
  assert strong is batch['video_strong'] and weak is batch['video_weak']
  assert student_inputs['reforge_frames'].tolist() == [[0, 3]] * 2
  assert teacher_inputs['reforge_frames'].tolist() == [[1, 2]] * 2


def test_pseudo_labels_are_the_reforged_ones_of_unlabeled_frames(batch):
  goal = objective.echoforge_objective(num_unlabeled=2)
  logits = goal.teacher(fake_apply([]), batch)
  wanted = -(np.asarray(batch['video_weak'])[:, 1:3] / 64 - 2)
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)


def test_plain_pseudo_labels_need_no_cpr(batch):
  calls = []
  goal = objective.echoforge_objective(
      pseudo_labels='plain', episodic_weight=0.0)
  goal.student(fake_apply(calls), batch)
  logits = goal.teacher(fake_apply(calls), batch)
  assert all(not inputs for _, inputs in calls)
  assert logits.shape == (2, 4, 8, 8, 1)


def test_a_batch_without_labels_falls_back_to_plain_logits(batch):
  batch = batch | {'labeled': jnp.zeros((2, 4), bool)}
  goal = objective.echoforge_objective()
  logits = goal.teacher(fake_apply([]), batch)
  np.testing.assert_allclose(
      logits, np.asarray(batch['video_weak']) / 64 - 2, rtol=1e-5, atol=1e-6)


def test_the_terms_add_up(batch):
  goal = objective.echoforge_objective(
      supervised_weight=2.0, coarse_weight=0.3, episodic_weight=0.5,
      num_unlabeled=2)
  outputs = goal.student(fake_apply([]), batch)
  teacher = goal.teacher(fake_apply([]), batch)
  total, logged = goal.loss(outputs, teacher, batch, values(0.7))
  masks = batch['masks']
  supervised = losses.supervised_loss(outputs['logits'], masks).value
  coarse = losses.coarse_loss(outputs['coarse_logits'], masks).value
  episodic = losses.supervised_loss(
      outputs['reforged_logits'], masks[:, jnp.array([0, 3])]).value
  pseudo = losses.pseudo_label_loss(
      outputs['logits'][:, 1:3], teacher, jnp.ones((2, 2), bool), 0.7).value
  wanted = 2 * supervised + 0.3 * coarse + 0.5 * episodic + 0.7 * pseudo
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  np.testing.assert_allclose(
      logged['loss_episodic'].compute(), episodic, rtol=1e-5)
  np.testing.assert_allclose(
      logged['loss_unsupervised'].compute(), pseudo, rtol=1e-5)


def test_the_unsupervised_term_is_logged_only_while_it_counts(batch):
  goal = objective.echoforge_objective()
  outputs = goal.student(fake_apply([]), batch)
  teacher = goal.teacher(fake_apply([]), batch)
  total, logged = goal.loss(outputs, teacher, batch, values(0.0))
  assert float(logged['loss_unsupervised'].count) == 0
  supervised, _ = goal.loss(outputs, None, batch, values(0.0))
  np.testing.assert_allclose(total, supervised, rtol=1e-6)


def test_supervised_training_needs_no_weak_view():
  goal = objective.echoforge_objective(pseudo_labels='none')
  assert goal.teacher is None
  assert 'video_weak' not in goal.batch_keys


@pytest.mark.parametrize('name, options, text', [
    ('fixmatch', {}, "'fixmatch'; choose one of echoforge"),
    ('echoforge', {'pseudo_labels': 'soft'}, 'reforged, plain, none')])
def test_refuses(name, options, text):
  with pytest.raises(InputError, match=text):
    objective.make_objective(name, **options)
