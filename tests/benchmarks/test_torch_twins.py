"""SSCF's torch twin is the same network; needs torch (`make torch`)."""

import jax
import numpy as np
import pytest

from benchmarks.speed import speed, torch_twins
from echoforge_jax.config import parse_config
from echoforge_jax.models import build_model, weights

torch = pytest.importorskip('torch', reason='needs torch: make torch')


def test_the_same_weights_give_the_same_masks():
  rng = np.random.default_rng(0)
  network = torch_twins.sscf(torch, width=8, num_classes=2)
  state = {}
  for name, value in network.state_dict().items():
    shape = tuple(value.shape)
    if name.endswith('running_var'):
      state[name] = rng.uniform(0.5, 2, shape)
    elif len(shape) == 4:
      # Off the ends of the attention's sigmoid, where errors would hide.
      scale = 0.2 if '.Tq.' in name or '.Tk.' in name else 1
      state[name] = scale * rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    elif shape:
      state[name] = rng.normal(0.5, 0.2, shape)
  state = {name: value.astype(np.float32) for name, value in state.items()}
  network.load_state_dict(
    {name: torch.from_numpy(value) for name, value in state.items()}, strict=False
  )
  windows = rng.random((3, 3, 64, 96), np.float32)
  with torch.inference_mode():
    wanted = network(torch.from_numpy(windows)).numpy().transpose(0, 2, 3, 1)
  found = jax.jit(build_model('sscf', width=8, num_classes=2).apply)(
    weights.from_torch('sscf', state), windows[..., None]
  )['logits']
  assert wanted.std() > 0.1
  np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


def test_its_part_is_put_in_relation_to_ours():
  config = parse_config(
    [
      '--config=configs/camus_sscf.py',
      '--config.model.width=4',
      '--config.data.image_size=64',
      '--config.data.num_frames=2',
      '--config.batch_size=1',
      '--config.num_devices=1',
    ]
  )
  forward, line = speed.measure(config, name='x', repeats=1, names=('forward', 'torch_sscf'))
  assert line['skipped'] is None and line['unit'] == 'frames/s'
  assert line['values']['windows_a_call'] == 2
  assert line['values']['forward_time_over_this'] == pytest.approx(
    line['median'] / forward['median']
  )
