import math

import numpy as np
import pytest

from echoforge_jax.metrics import temporal


def test_neighbour_deviation_by_hand():
  assert temporal.neighbour_deviation([1.0, 2.0, 3.0, 0.0]).tolist() == [0.0, 2.0]
  assert temporal.neighbour_deviation([1.0, 2.0]).size == 0


def test_roughness_is_zero_on_a_line_and_relative():
  assert temporal.roughness(np.linspace(30, 12, 10)) == pytest.approx(0, abs=1e-12)
  jagged = np.array([10.0, 12.0, 10.0, 12.0, 10.0])
  assert temporal.roughness(jagged) == pytest.approx(2 / jagged.mean())
  assert temporal.roughness(7 * jagged) == pytest.approx(temporal.roughness(jagged))
  assert math.isnan(temporal.roughness([1.0, 2.0]))
  assert math.isnan(temporal.roughness([0.0, 0.0, 0.0]))


def test_a_jump_is_inconsistent_and_a_line_is_not():
  smooth = {'area': np.linspace(0.0, 1.0, 8), 'length': np.linspace(2.0, 1.0, 8)}
  ranges = temporal.attribute_ranges([smooth])
  assert ranges == {'area': 1.0, 'length': 1.0}
  assert not temporal.inconsistent_frames(smooth, ranges).any()
  jump = {**smooth, 'area': smooth['area'] + 0.04 * (np.arange(8) == 3)}
  bad = temporal.inconsistent_frames(jump, ranges)
  # The jumping frame deviates by .04, its neighbours by .02: above .016.
  assert bad.tolist() == [False, True, True, True, False, False]
  lost = {**smooth, 'area': np.where(np.arange(8) == 5, math.nan, smooth['area'])}
  assert temporal.inconsistent_frames(lost, ranges).sum() == 3


def test_attributes_of_masks():
  from echoforge_jax.metrics import ejection

  lv = np.zeros((3, 40, 40), bool)
  lv[:, 10:30, 15:25] = True
  myo = np.zeros_like(lv)
  myo[:, 8:32, 13:27] = True
  myo &= ~lv
  cavities = [ejection.measure_cavity(m, (1.0, 2.0)) for m in lv]
  found = temporal.attributes(cavities, myo, lv, (1.0, 2.0))
  assert found['area'] == pytest.approx(np.full(3, 400.0), rel=0.02)
  assert found['myo_area'].tolist() == [2.0 * (24 * 14 - 200)] * 3
  assert found['centre_y'] == pytest.approx(np.full(3, 19.5 / 40))
  assert found['centre_x'] == pytest.approx(np.full(3, 19.5 / 40))
  assert found['base_width'] == pytest.approx(np.full(3, 20.0), rel=0.15)
