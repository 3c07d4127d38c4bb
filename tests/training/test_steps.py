"""The step: one trace, the teacher's rule, no gradient into the teacher."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from echoforge_jax.training import build, schedules, state, steps
from echoforge_jax.training.objectives import base as objective

DECAY, NUM_STEPS = 0.9, 60


@pytest.fixture(scope='module')
def setup(get_config, tiny_model, make_iterator):
  """Jitted functions that count their traces, and four batches."""
  config = get_config('tiny').copy_and_resolve_references()
  with config.unlocked():
    config.num_steps = NUM_STEPS
    config.batch_size = 4
    config.optimizer.learning_rate = 2e-2
    config.semi.ema_decay = DECAY
    # Pseudo-labels from the third update on, of every pixel.
    config.semi.flame_rise.threshold_start = 0.5
    config.semi.flame_rise.threshold_end = 0.5
    config.semi.flame_rise.start = 1 / NUM_STEPS
    config.semi.flame_rise.end = 3 / NUM_STEPS
  parts = build.make_parts(config, tiny_model)
  traces = []

  def counted(state, batch):
    traces.append(1)
    return parts.train_step(state, batch)

  iterator = make_iterator(batch=4)
  batches = [
    {key: jnp.asarray(value) for key, value in next(iterator).items() if key in parts.batch_keys}
    for _ in range(NUM_STEPS)
  ]
  return (jax.jit(parts.create_state), jax.jit(counted, donate_argnums=0), batches, traces)


def host(tree):
  """A copy that donation cannot reach."""
  return jax.tree.map(lambda x: np.array(x), tree)


@pytest.mark.slow
def test_teacher_starts_as_a_copy_of_its_own(setup):
  create, *_ = setup
  start = create()
  pairs = list(zip(jax.tree.leaves(start.params), jax.tree.leaves(start.teacher_params)))
  assert pairs
  for student, teacher in pairs:
    np.testing.assert_array_equal(student, teacher)
    assert student.unsafe_buffer_pointer() != teacher.unsafe_buffer_pointer()


@pytest.mark.slow
def test_steps_follow_the_written_rules(setup):
  create, step, batches, traces = setup
  current = create()
  root = np.array(jax.random.key_data(current.rng))
  for number, batch in enumerate(batches[:4]):
    before = host({'params': current.teacher_params, 'stats': current.teacher_batch_stats})
    current, logged = step(current, batch)
    decay = min(DECAY, (1 + number) / (10 + number))
    after = host({'params': current.params, 'stats': current.batch_stats})
    wanted = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, before, after)
    teacher = host({'params': current.teacher_params, 'stats': current.teacher_batch_stats})
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), teacher, wanted
    )
    assert int(current.step) == number + 1
    weight = max(0.0, min(1.0, (number - 1) / 2))
    np.testing.assert_allclose(logged['unsupervised_weight'].compute(), weight, atol=1e-6)
    assert (float(logged['loss_unsupervised'].count) > 0) == (weight > 0)
    assert np.isfinite(logged['loss'].compute())
  assert len(traces) == 1
  np.testing.assert_array_equal(jax.random.key_data(current.rng), root)


@pytest.mark.slow
def test_batch_statistics_come_from_the_strong_view(setup):
  create, step, batches, _ = setup
  swapped = batches[0] | {'video_weak': 255 - batches[0]['video_weak']}
  one, _ = step(create(), batches[0])
  two, _ = step(create(), swapped)
  # Lambda is zero: the weak view must not matter at all, bit for bit.
  jax.tree.map(np.testing.assert_array_equal, host(one.batch_stats), host(two.batch_stats))
  jax.tree.map(np.testing.assert_array_equal, host(one.params), host(two.params))
  changed = batches[0] | {'video_strong': 255 - batches[0]['video_strong']}
  three, _ = step(create(), changed)
  assert any(
    (a != b).any()
    for a, b in zip(
      jax.tree.leaves(host(one.batch_stats)), jax.tree.leaves(host(three.batch_stats))
    )
  )


class Scale(nn.Module):
  """One parameter: enough to follow a gradient by hand."""

  @nn.compact
  def __call__(self, video, train=False):
    return {'logits': video * self.param('scale', nn.initializers.ones, ())}


@pytest.mark.slow
def test_no_gradient_reaches_the_teacher():
  """A soft consistency objective, whose teacher would have a gradient."""
  goal = objective.Objective(
    student=lambda apply, batch, key, extra: apply(batch['video']),
    teacher=lambda apply, batch, key, extra: apply(batch['video'])['logits'],
    loss=lambda outputs, teacher, batch, values, key, extra: (
      jnp.mean((outputs['logits'] - teacher) ** 2) * values.weight,
      {'loss': objective.average(jnp.mean((outputs['logits'] - teacher) ** 2))},
    ),
    batch_keys=('video',),
  )
  tx = optax.sgd(1.0)
  train_step = steps.make_train_step(
    model=Scale(),
    tx=tx,
    objective=goal,
    ema=lambda step: jnp.float32(0.5),
    schedule=lambda step: schedules.ScheduleValues(
      jnp.float32(0), jnp.float32(1), jnp.float32(0.5)
    ),
  )
  batch = {'video': jnp.full((1, 2, 4, 4, 1), 2.0)}
  start = state.create_train_state(model=Scale(), tx=tx, seed=0, video=batch['video'])

  def loss_of(params, teacher_params):
    _, logged = train_step(start.replace(params=params, teacher_params=teacher_params), batch)
    return logged['loss'].total

  student, teacher = jax.grad(loss_of, argnums=(0, 1))(
    {'scale': jnp.float32(3.0)}, {'scale': jnp.float32(1.0)}
  )
  # d/ds mean((2 s - 2 t)^2) = 8 (s - t).
  np.testing.assert_allclose(student['scale'], 16.0, rtol=1e-6)
  assert float(teacher['scale']) == 0.0


@pytest.mark.slow
def test_loss_falls(setup, tiny_model, make_iterator):
  create, step, batches, _ = setup
  current, history = create(), []
  for batch in batches:
    current, logged = step(current, batch)
    history.append(float(logged['loss_supervised'].compute()))
  assert np.mean(history[-5:]) < 0.6 * np.mean(history[:5])
  # The teacher follows: it segments clips it never saw.
  clip = next(make_iterator(batch=4, seed=9))
  result = jax.jit(steps.make_eval_step(model=tiny_model))(
    current, {'video': jnp.asarray(clip['video_weak']), 'masks': jnp.asarray(clip['masks'])}
  )
  total, count = result['dice_teacher']
  assert float(count[0]) == 8 and float(total[0] / count[0]) > 0.7


def test_streams_never_share_keys():
  root = jax.random.key(0)
  keys = {
    tuple(np.asarray(jax.random.key_data(state.stream_key(root, name, step))))
    for name in ('params', 'dropout')
    for step in range(3)
  }
  assert len(keys) == 6
  np.testing.assert_array_equal(
    jax.random.key_data(state.stream_key(root, 'dropout', jnp.int32(2))),
    jax.random.key_data(state.stream_key(root, 'dropout', 2)),
  )
