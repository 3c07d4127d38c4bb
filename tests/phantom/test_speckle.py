"""Point spread, ageing of textures, speckle size and calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.clip import Clip
from echoforge_jax.phantom import appearance, calibration, speckle
from echoforge_jax.phantom.config import PhantomConfig

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
  assert appearance.gcnr(level, level) == pytest.approx(0.0)
  assert appearance.gcnr(level[:100], level[150:]) == pytest.approx(1.0)


@pytest.mark.slow
def test_phantom_lies_near_real_frames():
  clips = calibration.phantom_clips(5, 7, PhantomConfig.camus())
  found = calibration.summarize(clips)
  real, _ = calibration.real_quantiles()
  assert set(real) <= set(found)
  assert np.mean([calibration.distance(real[name], found[name]) for name in real]) < 0.75
  median = {(phase, name): values[3] for (_, phase, name), values in found.items()}
  for name, wanted in calibration.SEQUENCES.items():
    assert median['clip', name] == pytest.approx(wanted, rel=0.3), name
  # Strained muscle stays as bright as it was: its scatterers are interpolated, not lost.
  assert abs(median['pair', 'gray myocardium ES - ED']) < 8
  table = calibration.format_table(real, found)
  assert '4CH, ED' in table and 'mean distance' in table and 'correlation lag 5' in table


def test_distance_is_that_of_a_shifted_normal():
  levels = np.array(calibration.QUANTILES) / 100.0
  real = 5.0 + 2.0 * np.array(jax.scipy.special.ndtri(levels))
  assert calibration.distance(real, real) == 0.0
  assert calibration.distance(real, real + 1.0) == pytest.approx(0.5, rel=0.01)


def _drawn(wall=10, gray=60):
  """A rectangular ventricle 110 rows by 40 columns, with muscle and atrium."""
  mask = np.zeros((300, 360), np.uint8)
  mask[90 - wall : 200, 160 - wall : 200 + wall] = 2
  mask[90:200, 160:200] = 1
  mask[200:240, 160:200] = 3
  frame = np.where(mask == 1, gray, 120).astype(np.uint8)
  y, x = np.mgrid[:300, :360]
  frame[np.hypot(x - 179.5, y) > 300] = 0
  return frame, mask


def test_measure_finds_a_drawn_ventricle():
  frame, mask = _drawn()
  found = appearance.measure_frame(frame, mask)
  rows, columns = 300 / 128, 360 / 128  # Pixels of the frame per pixel measured.
  root = np.sqrt(110 * 40 / (rows * columns))
  assert found['LV area, % of image'] == pytest.approx(100 * 110 * 40 / (300 * 360), rel=0.05)
  assert found['apex y'] == pytest.approx(90 / 300, abs=0.02)
  assert found['base y'] == pytest.approx(200 / 300, abs=0.02)
  assert found['left wall thickness'] == pytest.approx(10 / columns / root, rel=0.2)
  assert found['apex wall thickness'] == pytest.approx(10 / rows / root, rel=0.2)
  assert found['gray LV'] == pytest.approx(60.0, abs=5.0)
  assert found['left gray at +11'] == pytest.approx(60.0, abs=5.0)
  assert found['left gray at -12'] == pytest.approx(0.0, abs=1.0)
  assert found['gCNR LV / myocardium'] > 0.8
  assert found['LV area / LV and wall'] == pytest.approx(110 * 40 / (120 * 60), rel=0.05)
  assert found['LA area / LV and wall'] == pytest.approx(40 * 40 / (120 * 60), rel=0.05)
  assert found['left steepest rise at'] == pytest.approx(0.0, abs=2.0)
  assert found['right steepest rise at'] == pytest.approx(0.0, abs=2.0)
  assert found['left wall beyond the base'] == pytest.approx(0.0, abs=0.03)
  assert appearance.measure_frame(frame, np.zeros_like(mask)) == {}
  # Without labels of the wall, nothing is said of it.
  alone = appearance.measure_frame(frame, np.where(mask == 2, 0, mask))
  assert not [name for name in alone if 'and wall' in name or 'edge of wall' in name]
  assert 'left edge of LV / sector' in alone and 'LA area / LV area' in alone


def test_measure_finds_what_is_not_symmetric():
  frame, mask = _drawn()
  y, x = np.mgrid[:300, :360]
  sector = np.abs(x - 179.5) < 0.6 * y
  frame = np.where(sector, frame, 0).astype(np.uint8)
  before = appearance.measure_frame(frame, mask)
  mask[200:211, 200:210] = 2  # The right wall goes on below the base,
  mask[120:170, 200:204] = 1  # the cavity bulges to the right there,
  mask[200:206, 181:200] = 1  # and its base lies lower.
  found = appearance.measure_frame(frame, mask)
  assert found['right wall beyond the base'] > 0.05 > found['left wall beyond the base'] + 0.03
  assert found['bend / length'] > before['bend / length'] + 0.01
  assert found['slope of the base'] > before['slope of the base'] + 0.1
  # Tangents, of a sector with .6: widest at the top, where few pixels are.
  wall, lv = (
    [found[f'{s} edge of {name} / sector'] for s in ('left', 'right')] for name in ('wall', 'LV')
  )
  assert -30 / 80 / 0.6 < wall[0] < lv[0] < -20 / 200 / 0.6
  assert 20 / 200 / 0.6 < lv[1] < wall[1] < 30 / 80 / 0.6


def test_a_pair_compares_es_with_ed():
  ed, es = (appearance.measure_frame(*_drawn(wall, gray)) for wall, gray in ((10, 60), (14, 66)))
  found = appearance.measure_pair(ed, es)
  assert found['area ES / ED'] == pytest.approx(1.0)
  assert found['left wall ES / ED'] == pytest.approx(1.4, rel=0.15)
  assert found['gray LV ES - ED'] == pytest.approx(6.0, abs=1.0)
  assert appearance.measure_pair(ed, {}) == {}


def test_a_clip_of_two_frames_without_spacing_is_measured():
  frame, mask = _drawn()
  unknown = np.full(2, np.nan, np.float32)
  clip = Clip(
    'p', '4CH', np.stack([frame] * 2), np.stack([mask] * 2), np.ones(2, bool), 0, 1, unknown
  )
  phases = {phase for phase, _ in calibration.measure_clip(clip)}
  assert phases == {'ED', 'ES', 'pair'}
