"""What an objective of one's own may do: keep arrays, mix clips, call the student twice."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import augment
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, loop, objectives, schedules
from echoforge_jax.training.objectives import base, cutmix, terms
from tests.training import discs
from tests.training.compiled import compile_step


def keeper(*, decay: float = 0.9, supervised_weight: float = 1.0):
  """Keeps the average features of labeled frames; trains on clips that were mixed in pairs."""

  def student(apply, batch, key, extra):
    one = apply(batch['video_strong'])
    two = apply(batch['video_mixed'] + 0.01 * jax.random.uniform(key))
    return {'logits': two['logits'], 'features': one['features']}

  def mix(batch, teacher, key):
    video = batch['video_strong'] / 255.0
    width = batch['masks'].shape[3]
    left = (jnp.arange(width) < width * jax.random.uniform(key))[None, None, None]
    mixed = jnp.where(left[..., None], video[::-1], video)
    masks = jnp.where(left, batch['masks'][::-1], batch['masks'])
    both = batch['labeled'] & batch['labeled'][::-1]
    return {**batch, 'video_mixed': mixed, 'masks': masks, 'labeled': both}, teacher

  def init_extra(outputs):
    return {'mean': jnp.zeros(outputs['features'].shape[-1]), 'updates': jnp.int32(0)}

  def update_extra(extra, outputs, teacher, batch, values, key):
    weights = batch['labeled'][..., None, None, None]
    total = (outputs['features'] * weights).sum((0, 1, 2, 3))
    mean = total / jnp.maximum(weights.sum() * 64, 1)
    mean = decay * extra['mean'] + (1 - decay) * mean
    return {'mean': mean, 'updates': extra['updates'] + 1}

  def near(outputs, teacher, batch, values, key, extra):
    distance = jnp.mean((outputs['features'].mean((0, 1, 2, 3)) - extra['mean']) ** 2)
    return 0.1 * distance, {'distance': base.average(distance)}

  return base.compose(
    [terms.supervised(supervised_weight), near],
    student=student,
    mix=mix,
    init_extra=init_extra,
    update_extra=update_extra,
  )


@pytest.fixture(scope='module')
def config(get_config):
  own = {'name': f'{__name__}:keeper', 'decay': 0.5}
  config = get_config('tiny', eval={'every': 0}, data=discs.PLAIN)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.objective = own
  return config.lock()


@pytest.mark.slow
def test_what_it_keeps_is_resumed(config, tiny_model, make_iterator, tmp_path):
  def train(**fields):
    own = config.copy_and_resolve_references()
    with own.unlocked():
      own.update(fields)
    iterator = make_iterator(example=discs.undrawn_disc)
    return loop.train(own, tmp_path, model=tiny_model, iterator=iterator, verbose=False).state

  whole = jax.device_get((train().extra, train().params))
  assert int(whole[0]['updates']) == 12 and np.abs(whole[0]['mean']).max() > 0.01
  shutil.rmtree(tmp_path / 'checkpoints' / '12')
  again = train()
  jax.tree.map(np.testing.assert_array_equal, jax.device_get((again.extra, again.params)), whole)


@pytest.mark.slow
@pytest.mark.parametrize('parts', [1, 2])
def test_one_device_equals_eight(config, tiny_model, make_iterator, monkeypatch, parts):
  """Small batches of one part see all clips; in parts, the same ones."""
  monkeypatch.setattr(mesh_lib, 'SPLIT_AT_LEAST', 8)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.batch_size, config.grad_accum_steps = 16, parts
  batch = next(make_iterator(batch=16))
  kept = []
  for devices, fsdp in ((1, 1), (8, 4)):
    mesh = mesh_lib.make_mesh(devices, fsdp)
    made, shapes, step = compile_step(config, tiny_model, mesh, batch)
    places = jax.tree.map(lambda x: x.sharding, shapes)
    state = jax.jit(made.create_state, out_shardings=places)()
    fields = {key: batch[key] for key in made.batch_keys}
    state, _ = step(state, mesh_lib.put_batch(fields, mesh_lib.batch_sharding(mesh)))
    kept.append(jax.device_get(state.extra))
  mean = state.extra['mean']
  assert mean.sharding.shard_shape(mean.shape) == (2,)
  assert [int(extra['updates']) for extra in kept] == [parts, parts]
  np.testing.assert_allclose(kept[0]['mean'], kept[1]['mean'], rtol=1e-4, atol=1e-6)


def test_the_batch_has_the_views_that_it_asks_for(get_config):
  config = get_config('tiny')
  keys = ('video_strong', 'video_strong_2', 'video_strong_3')
  sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh(1))
  clip = discs.undrawn_disc(0)
  batch = {key: np.asarray(value)[None] for key, value in clip.items()}
  views = augment.make_views(build.data_spec(config).augmentation, sharding, keys)(batch)
  assert tuple(views) == keys
  one, two, three = (np.asarray(views[key], int) for key in keys)
  # Other changes of gray, not of geometry: nothing but noise parts them.
  for other in (two, three):
    assert 1 < np.abs(one - other).mean() < 60
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.7
  assert (two != three).any()
  with pytest.raises(ValueError, match="'video_middle'.*video_strong_2 to video_strong_9"):
    augment.make_views(augment.AugmentConfig(), sharding, ('video_middle',))


def test_every_file_of_the_folder_is_an_objective():
  names = objectives.objective_names()
  assert {'echoforge', 'supervised', 'mean_teacher', 'fixmatch'} <= {*names}
  for name in names:
    goal = objectives.make_objective(name)
    assert isinstance(goal, objectives.Objective)
    lines = objectives.objective_function(name).__code__.co_filename
    assert len(open(lines).readlines()) < 120


@pytest.fixture(scope='module')
def mixed_batch(make_clip):
  """Two labeled clips and two without any label, in turn."""
  clips = [make_clip(n, 'none' if n % 2 else 'sparse') for n in range(4)]
  batch = {key: jnp.stack([clip[key] for clip in clips]) for key in clips[0]}
  return batch | {'video_strong_2': batch['video_strong']}


@pytest.mark.slow
@pytest.mark.parametrize('name', [*objectives.objective_names(), 'pose'])
def test_every_objective_learns_from_both_kinds_of_clips(name, get_config, tiny_model, mixed_batch):
  config = get_config('tiny').copy_and_resolve_references()
  with config.unlocked():
    config.objective = {'name': name}
    if name == 'pose':
      config.objective = {'name': 'echoforge', 'cpr': 'pose'}
    config.semi.flame_rise.update(start=0.0, end=0.0, threshold_start=0.5, threshold_end=0.5)
  # Confident masks with an inside and an outside, so that every term counts.
  parts = build.make_parts(config, tiny_model.clone(gain=20.0, offset=1.0))
  state = jax.jit(parts.create_state)()
  step = jax.jit(parts.train_step)
  batch = {key: mixed_batch[key] for key in parts.batch_keys}
  state, logged = step(state, batch)
  assert np.isfinite(logged['loss'].compute()) and float(logged['loss_supervised'].count) >= 4
  learns = name != 'supervised'
  assert ('loss_unsupervised' in logged) == learns
  if not learns:
    return
  assert float(logged['loss_unsupervised'].compute()) > 0
  # What the teacher says of clips without a label changes the student.
  other = dict(batch)
  other['video_weak'] = batch['video_weak'].at[1::2].set(255 - batch['video_weak'][1::2])
  two, _ = step(state, batch)
  three, _ = step(state, other)
  pairs = zip(jax.tree.leaves(two.params), jax.tree.leaves(three.params))
  assert not all(bool((a == b).all()) for a, b in pairs)


def test_the_gate_weighs_clips_by_what_they_expect():
  goal = objectives.make_objective('echoforge', cpr='pose', references=0, gate=2.0, layout=(1, 1))
  extra = goal.init_extra({})
  # Two clips without a label, between labeled ones: one sure of its disc, one not.
  disc = np.zeros((2, 32, 32, 1), bool)
  disc[:, 8:24, 8:24] = True
  logits = jnp.stack([jnp.where(disc, 6.0, -6.0), jnp.where(disc, 0.5, -3.0)])
  batch = {
    'video_weak': jnp.zeros((4, 2, 32, 32, 1), jnp.uint8),
    'masks': jnp.zeros((4, 2, 32, 32), jnp.uint8),
    'labeled': jnp.asarray([[True] * 2, [False] * 2] * 2),
  }

  def ask(extra):
    return goal.teacher(lambda video: {'logits': logits}, batch, jax.random.key(0), extra)

  def after(extra, weight=1.0):
    values = schedules.ScheduleValues(jnp.float32(0), jnp.float32(weight), jnp.float32(0))
    return goal.update_extra(extra, {}, ask(extra), batch, values, None)

  first = ask(extra)
  # Nothing is known yet: all weigh 1, and labeled clips nothing.
  np.testing.assert_array_equal(first.weights[:, 0, 0, 0, 0], [0, 1, 0, 1])
  assert first.candidates[:, 0, 0, 0].tolist() == [False, True, False, True]
  p = np.asarray(jax.nn.sigmoid(logits))[:, 0]
  dice = [2 * q[q >= 0.5].sum() / (q.sum() + (q >= 0.5).sum()) for q in p]
  assert jax.device_get(after(extra, 0.0)) == jax.device_get(extra)
  seen = after(extra)
  np.testing.assert_allclose(seen['mean'], np.mean(dice), rtol=1e-5)
  np.testing.assert_allclose(seen['variance'], np.var(dice), rtol=1e-3)
  low, high = 2 / (1 + np.exp(2)), 2 / (1 + np.exp(-2))
  np.testing.assert_allclose(ask(seen).weights[:, 0, 0, 0, 0], [0, high, 0, low], rtol=1e-3)
  np.testing.assert_allclose(after(seen)['mean'], np.mean(dice), rtol=1e-5)


def test_boxes_cover_a_tenth_to_a_half():
  drawn = np.asarray(cutmix.boxes(jax.random.key(0), 200, 64, 64))
  share = drawn.mean((1, 2))
  assert 0.08 < share.min() < 0.15 and 0.4 < share.max() < 0.53
  for box in drawn[:20]:
    rows, columns = box.any(1), box.any(0)
    assert box.sum() == rows.sum() * columns.sum()
  # Anywhere.
  assert drawn.any(0)[4:-4, 4:-4].all()


def test_a_box_brings_pixels_and_what_is_known_of_them(mixed_batch):
  logits = jax.random.normal(jax.random.key(1), (4, 4, 32, 32, 1))
  before = base.soft_labels(logits, mixed_batch)
  batch, after = cutmix.paste(mixed_batch, before, jax.random.key(2), 1.0)
  drawn = cutmix.boxes(jax.random.split(jax.random.key(2))[0], 4, 32, 32)
  for clip in range(4):
    other = (clip - 1) % 4
    box = np.asarray(drawn[clip])[None]
    for name, seen, old in (
      ('video', batch['video_strong'][..., 0], mixed_batch['video_strong'][..., 0]),
      ('masks', batch['masks'], mixed_batch['masks']),
      ('targets', after.targets[..., 0], before.targets[..., 0]),
      ('candidates', after.candidates, before.candidates),
    ):
      wanted = np.where(box, old[other], old[clip])
      np.testing.assert_array_equal(seen[clip], wanted, err_msg=name)
  # Every pixel has a label or is a candidate, never both.
  np.testing.assert_array_equal(np.asarray(batch['masks']) == IGNORE, after.candidates)
  same, _ = cutmix.paste(mixed_batch, before, jax.random.key(2), 0.0)
  np.testing.assert_array_equal(same['video_strong'], mixed_batch['video_strong'])


def test_the_threshold_follows_the_confidence_of_its_class_and_side():
  goal = objectives.make_objective('freematch', decay=0.75)
  extra = goal.init_extra({'logits': jnp.zeros((1, 2, 8, 8, 2))})
  targets = jnp.full((1, 2, 8, 8, 2), 0.1).at[..., 1].set(0.8)
  targets = targets.at[:, 0].set(0.99)  # A labeled frame does not count.
  candidates = jnp.zeros((1, 2, 8, 8), bool).at[:, 1].set(True)
  teacher = base.SoftLabels(targets, jnp.ones_like(targets), candidates)

  def after(weight):
    values = schedules.ScheduleValues(jnp.float32(0), jnp.float32(weight), jnp.float32(0))
    return np.asarray(goal.update_extra(extra, {}, teacher, {}, values, None)['confidence'])

  # Class 0 was seen outside only, class 1 inside only.
  np.testing.assert_allclose(after(1), [[0.6, 0.5], [0.5, 0.575]], rtol=1e-6)
  np.testing.assert_array_equal(after(0), 0.5)
