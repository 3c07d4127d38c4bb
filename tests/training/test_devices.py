"""One device and eight give the same numbers."""

import jax
import numpy as np
import pytest

from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build

STEPS = 4


def run(parts, batches, num_devices):
  """Trains under shardings, donation and the transfer guard."""
  mesh = mesh_lib.make_data_mesh(num_devices)
  whole, split = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
  state = jax.jit(parts.create_state, out_shardings=whole)()
  step = jax.jit(parts.train_step, in_shardings=(whole, split),
                 out_shardings=whole, donate_argnums=0)
  history = []
  with jax.transfer_guard('disallow'):
    for batch in batches:
      state, logged = step(state, mesh_lib.put_batch(batch, split))
      history.append(jax.device_get(logged))
  return history, jax.device_get(state.teacher_params)


@pytest.mark.skipif(jax.device_count() < 8, reason='needs eight devices')
def test_one_device_equals_eight(get_config, tiny_model, make_iterator):
  config = get_config('tiny').copy_and_resolve_references()
  with config.unlocked():
    config.num_steps = STEPS
    config.batch_size = 8
    config.optimizer.warmup_steps = 1
  # A confident model: a pixel that lies on the threshold to within rounding
  # would count on one device and not on eight. The offset gives its masks an
  # inside and an outside; a frame without both does not count.
  parts = build.make_parts(config, tiny_model.clone(gain=60.0, offset=20.0))
  iterator = make_iterator(batch=8)
  batches = [{key: value for key, value in next(iterator).items()
              if key in parts.batch_keys} for _ in range(STEPS)]
  one, params_one = run(parts, batches, 1)
  eight, params_eight = run(parts, batches, 8)
  for a, b in zip(one, eight):
    for name in a:
      np.testing.assert_allclose(
          [a[name].total, a[name].count], [b[name].total, b[name].count],
          rtol=1e-5, err_msg=name)
  assert one[-1]['confident_share'].total > 1000
  # Adam divides by small numbers: parameters agree less tightly than losses.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
               params_one, params_eight)
