"""Streamed clips: one trace, finite, deterministic, labels where due."""

import dataclasses

import jax
import numpy as np
import pytest

from echoforge_jax.phantom import stream
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.phantom.draw import Draw
from tests.compilation import assert_compiles_once

pytestmark = pytest.mark.slow
SIZE = 32


@pytest.fixture(scope='module')
def generate():
  return stream.jitted(
    3, 3, SIZE, dataclasses.replace(PhantomConfig.randomized(), ed_to_es_share=1.0)
  )


def test_one_compilation_serves_all_keys(generate):
  for out in assert_compiles_once(
    lambda seed: jax.device_get(generate(jax.random.key(seed))), *range(6)
  ):
    assert out['video'].shape == (3, 3, SIZE, SIZE, 1)
    assert out['video'].dtype == np.float32
    assert np.isfinite(out['video']).all()
    assert 0.0 <= out['video'].min() and out['video'].max() <= 1.0
    assert out['video'].std() > 0.01
    assert out['masks'].shape == (3, 3, SIZE, SIZE)
    assert out['masks'].dtype == np.uint8
    assert (out['masks'] == 1).any((1, 2, 3)).all()
    assert (out['masks'] == 2).any((1, 2, 3)).all()
    assert out['masks'].max() <= 3


def test_same_key_same_clips_other_key_other_clips(generate):
  first, again, other = (jax.device_get(generate(jax.random.key(s))) for s in (3, 3, 4))
  np.testing.assert_array_equal(first['video'], again['video'])
  np.testing.assert_array_equal(first['masks'], again['masks'])
  assert (first['video'] != other['video']).mean() > 0.2


def test_ventricle_shrinks_from_ed_to_es(generate):
  masks = np.array(generate(jax.random.key(2))['masks'])
  area = (masks == 1).sum((2, 3))
  assert (area[:, 0] > area[:, -1]).all()


def test_phases_run_from_ed_to_es_or_through_any_part_of_beats():
  heart = {'systole': 0.35, 'heart_rate': 60.0}
  place = {'fps': 50.0}
  for share in (0.0, 1.0):
    config = dataclasses.replace(PhantomConfig.camus(), ed_to_es_share=share)
    starts = []
    for seed in range(8):
      d = Draw(jax.random.key(seed), 8)
      phases, seconds = stream._phases(d, config, heart, place, 10)
      steps = np.diff(np.array(phases))
      np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
      assert float(seconds) == pytest.approx(steps[0], rel=1e-3)
      starts.append(float(phases[0]))
      if share:
        assert float(phases[-1]) == pytest.approx(0.35, rel=1e-5)
    assert (np.ptp(starts) == 0.0) == bool(share)
