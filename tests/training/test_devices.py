"""One device and eight give the same numbers."""

import jax
import numpy as np
import optax
import pytest

from echoforge_jax.parallel import mesh as mesh_lib
from tests.training.compiled import compile_step

STEPS = 20


def run(config, model, batches, num_devices, fsdp):
  """Trains under shardings, donation and the transfer guard."""
  mesh = mesh_lib.make_mesh(num_devices, fsdp)
  parts, shapes, step = compile_step(config, model, mesh, batches[0])
  state = jax.jit(parts.create_state, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()
  split = mesh_lib.batch_sharding(mesh)
  history = []
  with jax.transfer_guard('disallow'):
    for batch in batches:
      state, logged = step(
        state, mesh_lib.put_batch({key: batch[key] for key in parts.batch_keys}, split)
      )
      history.append(jax.device_get(logged))
  return history, state


@pytest.fixture(scope='module')
def config(get_config):
  config = get_config('tiny').copy_and_resolve_references()
  with config.unlocked():
    config.num_steps = STEPS
    config.batch_size = 8
    config.optimizer.warmup_steps = 1
    config.optimizer.learning_rate = 1e-3
  return config


@pytest.mark.slow
def test_one_device_equals_eight(config, tiny_model, make_iterator, monkeypatch):
  # Every leaf that divides is divided: the tiny model has no large ones.
  monkeypatch.setattr(mesh_lib, 'SPLIT_AT_LEAST', 8)
  # A confident model: a pixel that lies on the threshold to within rounding
  # would count on one device and not on eight. The offset gives its masks an
  # inside and an outside; a frame without both does not count.
  model = tiny_model.clone(gain=60.0, offset=20.0)
  iterator = make_iterator(batch=8)
  batches = [next(iterator) for _ in range(STEPS)]
  one, state_one = run(config, model, batches, 1, 1)
  for fsdp in (1, 4):
    eight, state_eight = run(config, model, batches, 8, fsdp)
    if fsdp > 1:
      kernel = state_eight.params['Conv_1']['kernel']
      assert kernel.sharding.shard_shape(kernel.shape) != kernel.shape
    for a, b in zip(one, eight):
      for name in a:
        np.testing.assert_allclose(
          [a[name].total, a[name].count], [b[name].total, b[name].count], rtol=1e-5, err_msg=name
        )
    assert one[-1]['confident_share'].total > 1000
    for tree in ('params', 'teacher_params', 'batch_stats'):
      jax.tree.map(
        lambda a, b: np.testing.assert_array_less(
          np.linalg.norm(a - b), 1e-5 * np.linalg.norm(a) + 1e-8
        ),
        jax.device_get(getattr(state_one, tree)),
        jax.device_get(getattr(state_eight, tree)),
      )


@pytest.mark.slow
def test_accumulated_gradients(config, tiny_model, make_iterator):
  """Parts in turn are parts side by side, and alike on every mesh."""
  batches = [next(make_iterator(batch=8))]
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.optimizer.clip_norm = 0.0
  model = tiny_model.clone(dropout=0.0)  # Parts have masks of their own.
  histories, states = {}, {}

  def train(name, rows, steps, devices, fsdp=1, batch_size=8):
    with config.unlocked():
      config.grad_accum_steps, config.batch_size = steps, batch_size
    chosen = [{key: value[rows] for key, value in one.items()} for one in batches]
    histories[name], states[name] = run(config, model, chosen, devices, fsdp)

  train('parts', slice(None), 2, 1)
  train('four devices', slice(None), 2, 4)
  train('shares', slice(None), 2, 4, fsdp=2)
  for name in ('four devices', 'shares'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
      *(jax.device_get(states[one].params) for one in ('parts', name)),
    )
  # The loss is the mean over the parts', each with moments of its own; the
  # second one saw running statistics that training does not use.
  train('even', slice(0, None, 2), 1, 1, batch_size=4)
  train('odd', slice(1, None, 2), 1, 1, batch_size=4)

  def loss(name):
    logged = histories[name][0]['loss']
    return logged.total / logged.count

  np.testing.assert_allclose(loss('parts'), (loss('even') + loss('odd')) / 2, rtol=1e-6)

  # Likewise the first moments of the gradients, before Adam makes steps of
  # them.
  def moments(name):
    return jax.tree.leaves(jax.device_get(optax.tree_utils.tree_get(states[name].opt_state, 'mu')))

  found = list(zip(*map(moments, ('parts', 'even', 'odd'))))
  assert found
  for both, even, odd in found:
    np.testing.assert_allclose(both, (even + odd) / 2, atol=1e-6)
