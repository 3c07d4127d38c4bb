"""Point spread, ageing of textures, speckle size and calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.clip import Clip
from echoforge_jax.phantom import calibration, speckle

# Rendering a patient takes longer than compiling for it.
pytestmark = pytest.mark.optimized


def test_point_spread_keeps_variance_and_has_its_width():
  matrix = np.array(speckle.smoother(200, 6.0, True))
  noise = np.random.default_rng(0).standard_normal((200, 400))
  assert (matrix @ noise)[20:-20].std() == pytest.approx(1.0, rel=0.05)
  row = matrix[100] / matrix[100].max()
  above = np.flatnonzero(row > 0.5)
  assert above[-1] - above[0] == pytest.approx(6.0, abs=1.0)


def test_smoothing_keeps_the_mean():
  matrix = np.array(speckle.smoother(50, 4.0, False))
  np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=1e-5)


def test_lookup_is_bilinear_and_clamped():
  texture = jnp.arange(12.0).reshape(3, 4, 1)
  row, column = (jnp.array([0.0, 0.5, 1.25, -3.0]), jnp.array([0.0, 1.0, 2.5, 0.0]))
  found = np.array(speckle.lookup(texture, row, column))[:, 0]
  np.testing.assert_allclose(found, [0.0, 3.0, 7.5, 0.0], atol=1e-3)


def test_textures_age_as_an_ar1_process():
  keys = jax.random.split(jax.random.key(1), 4)
  texture = first = jax.random.normal(keys[0], (20000,))
  for key in keys[1:]:
    texture = speckle.age(texture, jax.random.normal(key, (20000,)), 0.02, 0.1)
  correlation = float(jnp.corrcoef(first, texture)[0, 1])
  assert correlation == pytest.approx(np.exp(-0.6), abs=0.03)
  assert float(texture.std()) == pytest.approx(1.0, abs=0.03)


def test_speckle_size_of_a_known_texture():
  # Blurring white noise with sigma gives an autocorrelation of FWHM
  # 2.355 sqrt(2) sigma, here in pixels of .5 mm.
  import cv2

  noise = np.random.default_rng(0).standard_normal((360, 360))
  image = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.5, sigmaY=1.0)
  image = np.clip(128.0 + 40.0 * image / image.std(), 0, 255).astype(np.uint8)
  axial, lateral = calibration.speckle_size(image, 0.5)
  assert axial == pytest.approx(2.355 * 2**0.5 * 1.0 * 0.5, rel=0.12)
  assert lateral == pytest.approx(2.355 * 2**0.5 * 1.5 * 0.5, rel=0.12)


def test_gcnr_of_equal_and_separate_sets():
  level = np.arange(256, dtype=np.uint8)
  assert calibration.gcnr(level, level) == pytest.approx(0.0)
  assert calibration.gcnr(level[:100], level[150:]) == pytest.approx(1.0)


@pytest.mark.slow
def test_phantom_lies_within_the_real_range():
  found = calibration.calibrate(4, 7)
  for name in calibration.TARGETS:
    assert np.isfinite(found[name]).any(), name
  median = {name: np.nanmedian(v) for name, v in found.items()}
  assert 0.7 < median['speckle FWHM axial mm'] / 1.77 < 1.3
  assert 0.7 < median['speckle FWHM lateral mm'] / 2.97 < 1.3
  assert 0.33 < median['gCNR LV/shell'] < 0.67
  assert 45 < median['gray LV'] < median['gray 8 mm shell'] < 140
  assert (
    median['correlation lag 1'] > median['correlation lag 2'] > median['correlation lag 5'] > 0.3
  )
  table = calibration.format_table(found)
  assert all(name in table for name in calibration.TARGETS)


def test_measure_finds_a_drawn_ventricle():
  mask = np.zeros((300, 360), np.uint8)
  mask[80:200, 150:210] = 2
  mask[90:200, 160:200] = 1
  mask[200:240, 160:200] = 3
  frame = np.where(mask == 1, 60, 120).astype(np.uint8)
  y, x = np.mgrid[:300, :360]
  frame[np.hypot(x - 179.5, y) > 300] = 0
  clip = Clip(
    'p',
    '4CH',
    np.stack([frame] * 2),
    np.stack([mask] * 2),
    np.ones(2, bool),
    0,
    1,
    np.full(2, 0.5, np.float32),
  )
  found = calibration.measure(clip)
  assert found['LV area cm2'][0] == pytest.approx(110 * 40 * 0.25 / 100.0)
  assert found['apex depth mm'][0] == pytest.approx(45.0, abs=1.0)
  assert found['base depth mm'][0] == pytest.approx(98.0, abs=2.0)
  assert found['gray LV'][0] == 60.0 and found['gray 8 mm shell'][0] == 120.0
  assert found['gCNR LV/shell'][0] == pytest.approx(1.0)
