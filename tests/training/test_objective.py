"""What the objective asks of student and teacher, and what it adds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE
from echoforge_jax.errors import InputError
from echoforge_jax.training import losses, objectives, schedules
from echoforge_jax.training.objectives import base as objective

KEY = jax.random.key(0)
LABELED = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)


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
  return {
    'video_weak': jnp.asarray(video, jnp.uint8),
    'video_strong': jnp.asarray(255 - video, jnp.uint8),
    'masks': jnp.asarray(masks, jnp.uint8),
    'labeled': jnp.asarray(labeled),
  }


def fake_apply(calls):
  """A network whose logits are its video; records what it was asked."""

  def apply(video, **inputs):
    calls.append((video, inputs))
    logits = video.astype(jnp.float32) / 64 - 2
    outputs = {'logits': logits, 'coarse_logits': logits[:, :, ::4, ::4]}
    if inputs.get('reforge'):
      outputs['reforged_logits'] = -objective.take_frames(logits, inputs['reforge_frames'])
    return outputs

  return apply


def values(weight):
  return schedules.ScheduleValues(jnp.float32(0.5), jnp.float32(weight), jnp.float32(0.7))


def test_student_sees_strong_and_teacher_weak(batch):
  calls = []
  goal = objectives.make_objective('echoforge', num_unlabeled=2)
  goal.student(fake_apply(calls), batch, KEY, {})
  goal.teacher(fake_apply(calls), batch, KEY, {})
  (strong, student_inputs), (weak, teacher_inputs) = calls
  assert strong is batch['video_strong'] and weak is batch['video_weak']
  assert student_inputs['reforge_frames'].tolist() == [[0, 3]] * 2
  assert teacher_inputs['reforge_frames'].tolist() == [[1, 2]] * 2


def test_pseudo_labels_are_the_reforged_ones_of_unlabeled_frames(batch):
  goal = objectives.make_objective('echoforge', num_unlabeled=2)
  logits = goal.teacher(fake_apply([]), batch, KEY, {})
  wanted = -(np.asarray(batch['video_weak'])[:, 1:3] / 64 - 2)
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)


def test_plain_pseudo_labels_need_no_cpr(batch):
  calls = []
  goal = objectives.make_objective('echoforge', cpr='none', episodic_weight=0.0)
  goal.student(fake_apply(calls), batch, KEY, {})
  logits = goal.teacher(fake_apply(calls), batch, KEY, {})
  assert all(not inputs for _, inputs in calls)
  assert logits.shape == (2, 4, 8, 8, 1)


@pytest.mark.slow
def test_the_terms_add_up(batch):
  goal = objectives.make_objective(
    'echoforge', supervised_weight=2.0, coarse_weight=0.3, episodic_weight=0.5, num_unlabeled=2
  )
  outputs = goal.student(fake_apply([]), batch, KEY, {})
  teacher = goal.teacher(fake_apply([]), batch, KEY, {})
  total, logged = goal.loss(outputs, teacher, batch, values(0.7), KEY, {})
  masks = batch['masks']
  supervised = losses.supervised_loss(outputs['logits'], masks).value
  coarse = losses.coarse_loss(outputs['coarse_logits'], masks).value
  episodic = losses.supervised_loss(outputs['reforged_logits'], masks[:, jnp.array([0, 3])]).value
  pseudo = losses.pseudo_label_loss(
    outputs['logits'][:, 1:3], teacher, jnp.ones((2, 2), bool), 0.7
  ).value
  wanted = 2 * supervised + 0.3 * coarse + 0.5 * episodic + 0.7 * pseudo
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  np.testing.assert_allclose(logged['loss_episodic'].compute(), episodic, rtol=1e-5)
  np.testing.assert_allclose(logged['loss_unsupervised'].compute(), pseudo, rtol=1e-5)


@pytest.mark.slow
def test_the_unsupervised_term_is_logged_only_while_it_counts(batch):
  goal = objectives.make_objective('echoforge')
  outputs = goal.student(fake_apply([]), batch, KEY, {})
  teacher = goal.teacher(fake_apply([]), batch, KEY, {})
  total, logged = goal.loss(outputs, teacher, batch, values(0.0), KEY, {})
  assert float(logged['loss_unsupervised'].count) == 0
  supervised = (
    losses.supervised_loss(outputs['logits'], batch['masks']).value
    + 0.4 * losses.coarse_loss(outputs['coarse_logits'], batch['masks']).value
    + 0.4
    * losses.supervised_loss(outputs['reforged_logits'], batch['masks'][:, jnp.array([0, 3])]).value
  )
  np.testing.assert_allclose(total, supervised, rtol=1e-6)


@pytest.mark.slow
def test_supervised_training_needs_no_weak_view(batch):
  goal = objectives.make_objective('supervised', supervised_weight=2.0, coarse_weight=0.3)
  assert goal.teacher is None
  assert 'video_weak' not in goal.batch_keys
  outputs = goal.student(fake_apply([]), batch, KEY, {})
  total, _ = goal.loss(outputs, None, batch, values(1.0), KEY, {})
  wanted = (
    2 * losses.supervised_loss(outputs['logits'], batch['masks']).value
    + 0.3 * losses.coarse_loss(outputs['coarse_logits'], batch['masks']).value
  )
  np.testing.assert_allclose(total, wanted, rtol=1e-5)


def outputs_of(goal, batch):
  calls = []
  outputs = goal.student(fake_apply(calls), batch, KEY, {})
  teacher = goal.teacher(fake_apply(calls), batch, KEY, {})
  assert calls[0][0] is batch['video_strong']
  assert calls[1][0] is batch['video_weak']
  assert not calls[0][1] and not calls[1][1]  # Nothing of EchoForge's own.
  return outputs, teacher


def test_mean_teacher_adds_the_distance_on_unlabeled_frames(batch):
  goal = objectives.make_objective('mean_teacher', coarse_weight=0.0, num_unlabeled=2)
  outputs, teacher = outputs_of(goal, batch)
  total, logged = goal.loss(outputs, teacher, batch, values(0.7), KEY, {})

  def probabilities(video):
    logits = np.asarray(video, np.float64)[:, 1:3] / 64 - 2
    return 1 / (1 + np.exp(-logits))

  wanted = np.mean((probabilities(batch['video_strong']) - probabilities(batch['video_weak'])) ** 2)
  np.testing.assert_allclose(logged['loss_unsupervised'].compute(), wanted, rtol=1e-5)
  supervised = losses.supervised_loss(outputs['logits'], batch['masks']).value
  np.testing.assert_allclose(total, supervised + 0.7 * wanted, rtol=1e-5)


@pytest.mark.slow
def test_fixmatch_learns_where_the_weak_view_is_confident(batch):
  goal = objectives.make_objective('fixmatch', coarse_weight=0.0, num_unlabeled=2)
  outputs, teacher = outputs_of(goal, batch)
  total, logged = goal.loss(outputs, teacher, batch, values(0.7), KEY, {})
  pseudo = losses.pseudo_label_loss(outputs['logits'][:, 1:3], teacher, jnp.ones((2, 2), bool), 0.7)
  supervised = losses.supervised_loss(outputs['logits'], batch['masks']).value
  np.testing.assert_allclose(total, supervised + 0.7 * pseudo.value, rtol=1e-5)
  np.testing.assert_allclose(
    logged['confident_share'].compute(), pseudo.confident / pseudo.candidates, rtol=1e-5
  )


@pytest.mark.parametrize(
  'name, options, text',
  [
    ('mixmatch', {}, "'mixmatch'; choose one of .*echoforge, fixmatch"),
    (
      'supervised',
      {'episodic_weight': 0.4},
      'episodic_weight is no setting .* supervised_weight, coarse_weight',
    ),
    ('echoforge', {'cpr': 'soft'}, 'paper, pose, none'),
    ('echoforge', {'cpr': 'pose', 'references': -1}, 'references is -1; wanted a number from 0 to'),
    ('echoforge', {'pseudo_labels': 'plain'}, 'is config.objective.cpr now'),
  ],
)
def test_refuses(name, options, text):
  with pytest.raises(InputError, match=text):
    objectives.make_objective(name, **options)


def test_the_example_from_outside_is_an_objective(batch):
  goal = objectives.make_objective('examples.own_objective:smooth', num_unlabeled=2, bend_weight=1)
  outputs = goal.student(fake_apply([]), batch, KEY, {})
  total, logged = goal.loss(outputs, None, batch, values(0.5), KEY, {})
  p = 1 / (1 + np.exp(-(np.asarray(batch['video_strong'], float) / 64 - 2)))
  bend = np.mean((p[:, 1:-1] - (p[:, :-2] + p[:, 2:]) / 2) ** 2)
  np.testing.assert_allclose(logged['bend'].compute(), bend, rtol=1e-5)
  supervised = losses.supervised_loss(outputs['logits'], batch['masks']).value
  np.testing.assert_allclose(total, supervised + 0.5 * bend, rtol=1e-5)
