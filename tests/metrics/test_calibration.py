import math

import numpy as np
import pytest

from echoforge_jax.metrics import calibration
from echoforge_jax.metrics.validity import all_valid, is_anatomically_valid


def test_ece_by_hand():
  probability = np.array([0.95, 0.95, 0.95, 0.95, 0.1, 0.1]).reshape(1, 2, 3)
  truth = np.array([1, 1, 1, 0, 0, 1], bool).reshape(1, 2, 3)
  bins = calibration.count_bins(probability, truth, bins=10)
  assert bins.count.tolist() == [0, 2] + [0] * 7 + [4]
  expected = (4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.1)) / 6
  assert calibration.ece(bins) == pytest.approx(expected)
  assert calibration.ece(bins + bins) == pytest.approx(expected)
  assert (bins + bins).count.sum() == 12


def test_ece_of_a_calibrated_model_is_small_and_of_none_is_nan():
  rng = np.random.default_rng(0)
  probability = rng.random((4, 100, 100))
  truth = rng.random(probability.shape) < probability
  assert calibration.ece(calibration.count_bins(probability, truth)) < 0.02
  nowhere = np.zeros(truth.shape, bool)
  assert math.isnan(calibration.ece(calibration.count_bins(probability, truth, where=nowhere)))


def test_probability_one_falls_into_the_last_bin():
  one = np.ones((1, 1, 1))
  bins = calibration.count_bins(one, one > 0)
  assert bins.count[-1] == 1 and calibration.ece(bins) == 0


def test_the_band_lies_around_both_outlines():
  truth, prediction = np.zeros((2, 1, 40, 40), bool)
  truth[0, 10:30, 10:30] = True
  band = calibration.boundary_band(truth, prediction, 3)
  assert band[0, 20, 7:13].all() and not band[0, 20, 6] and not band[0, 20, 13]
  prediction[0, 10:30, 14:34] = True
  both = calibration.boundary_band(truth, prediction, 3)
  assert (both >= band).all() and both[0, 20, 36] and not both[0, 20, 20]


def test_confidence_is_zero_where_a_frame_is_empty():
  masks = np.zeros((2, 30, 30), bool)
  masks[:, 8:20, 8:20] = True
  sure, unsure = np.where(masks, 0.99, 0.01), np.where(masks, 0.6, 0.4)
  assert calibration.clip_confidence(sure, masks) == pytest.approx(0.98)
  assert calibration.clip_confidence(unsure, masks) == pytest.approx(0.2)
  masks[1] = False
  assert calibration.clip_confidence(sure, masks) == 0


def test_risk_coverage_by_hand():
  found = calibration.risk_coverage(
    np.array([0.2, 0.9, 0.5]), np.array([6.0, 1.0, 2.0]), resamples=500
  )
  risks = [1, 1.5, 3]
  assert [p['risk'] for p in found['curve']] == pytest.approx(risks)
  assert [p['coverage'] for p in found['curve']] == pytest.approx([1 / 3, 2 / 3, 1])
  assert found['aurc'] == found['aurc_oracle'] == pytest.approx(np.mean(risks))
  assert found['aurc_random'] == 3
  worst = calibration.risk_coverage(
    np.array([0.9, 0.2, 0.5]), np.array([6.0, 1.0, 2.0]), resamples=500
  )
  assert worst['aurc'] > worst['aurc_random'] > worst['aurc_oracle']


def heart():
  """lv 1 in myo 2, la 3 below: uint8 [40, 30]."""
  mask = np.zeros((40, 30), np.uint8)
  mask[4:25, 6:24] = 2
  mask[8:25, 10:20] = 1
  mask[25:34, 8:22] = 3
  return mask


NAMES = ('lv', 'myo', 'la')


def test_a_heart_is_valid():
  assert all_valid(heart(), NAMES)
  assert set(is_anatomically_valid(heart(), NAMES)) == {
    'one_component',
    'no_holes',
    'myo_encloses_lv',
    'la_touches_lv',
  }
  # Cut by the image's border is not open.
  assert all_valid(heart()[:, 10:], NAMES)


@pytest.mark.parametrize(
  'change,broken',
  [
    (lambda m: m.__setitem__((0, 0), 1), 'one_component'),
    (lambda m: m.__setitem__((15, 15), 0), 'no_holes'),
    (lambda m: m.__setitem__(slice(25, 28), 0), 'la_touches_lv'),
    (lambda m: np.putmask(m, (m == 2) & (np.arange(30) > 9), 0), 'myo_encloses_lv'),
    (lambda m: np.putmask(m, m == 3, 0), 'no_holes'),
  ],
)
def test_each_fault_is_named(change, broken):
  mask = heart()
  change(mask)
  assert not is_anatomically_valid(mask, NAMES)[broken]
  assert not all_valid(mask, NAMES)
