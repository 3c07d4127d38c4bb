"""The truth scored against itself, and against itself shifted by a pixel."""

import dataclasses

import numpy as np
import pytest

from echoforge_jax.evaluation.aggregate import score_predictions
from echoforge_jax.evaluation.protocols import get_protocol
from echoforge_jax.evaluation.scoring import Case
from tests.ventricles import make_cases, ventricle

FULL = get_protocol('camus_full')


def slow(patient, frames=60, **motion):
  """A truth that moves smoothly: many frames for one contraction."""
  masks = np.stack(
    [ventricle(256, (0.5, 0.5), radius=26 - 8 * t / (frames - 1), **motion) for t in range(frames)]
  ).astype(np.uint8)
  return Case(
    patient=patient,
    view='4CH',
    truth=masks,
    prediction=masks.copy(),
    spacing_mm=np.array([0.5, 0.5]),
    fps=50.0,
  )


def cohort():
  """Patients who differ in size and tilt: attributes have a range."""
  return [
    slow(name, tilt=tilt, above=above, below=below)
    for name, tilt, above, below in (('a', -14, 40, 18), ('b', 0, 50, 26), ('c', 12, 58, 32))
  ]


@pytest.mark.slow
def test_truth_is_perfect_and_consistent():
  cases = cohort()
  m = score_predictions(cases, FULL, resamples=50).metrics
  entries = m['classes']['lv']
  assert entries['dice']['mean'] == entries['iou']['mean'] == 1
  assert [entries[k]['mean'] for k in ('hd', 'hd95', 'asd')] == [0, 0, 0]
  assert m['ef']['bias'] == m['ef']['mae'] == 0
  share = m['temporal']['inconsistent_share']
  assert share['mean'] == share['truth']['mean'] == 0
  assert m['temporal']['valid_share']['mean'] == 1


@pytest.mark.slow
def test_a_jump_is_inconsistent():
  cases = cohort()
  for case in cases:
    case.prediction[30] = np.roll(case.prediction[10], 6, axis=1)
  share = score_predictions(cases, FULL, resamples=50).metrics['temporal']['inconsistent_share']
  assert share['mean'] >= 1 / 58 and share['truth']['mean'] == 0


@pytest.mark.slow
def test_two_labeled_frames_give_the_range_and_no_share_of_their_own():
  cases = []
  for case in cohort():
    labeled = np.zeros(60, bool)
    labeled[[0, -1]] = True
    case.prediction[30] = np.roll(case.prediction[10], 6, axis=1)
    # What lies under a missing label must not count.
    truth = np.where(labeled[:, None, None], case.truth, 0)
    cases.append(dataclasses.replace(case, truth=truth, labeled=labeled))
  block = score_predictions(cases, FULL, resamples=50).metrics['temporal']
  share = block['inconsistent_share']
  assert 1 / 58 <= share['mean'] < 0.2
  assert share['n'] == 3 and share['truth']['n'] == 0
  assert block['attributes']['area']['truth']['n'] == 0


@pytest.mark.parametrize('axis,length,across', [(1, 30, 20), (2, 20, 30)])
@pytest.mark.parametrize('unit', ['mm', 'px'])
def test_shifted_by_one_pixel(axis, length, across, unit):
  """A rectangle of 30 rows and 20 columns, moved along either axis."""
  truth = np.zeros((4, 64, 64), np.uint8)
  truth[:, 20:50, 22:42] = 1
  step = {'mm': (2.0, 0.5)[axis - 1], 'px': 1.0}[unit]
  spacing = np.array([2.0, 0.5]) if unit == 'mm' else np.full(2, np.nan)
  cases = [
    dataclasses.replace(
      c, spacing_mm=spacing, truth=truth, native_size=None, prediction=np.roll(truth, 1, axis=axis)
    )
    for c in make_cases(2)
  ]
  m = score_predictions(cases, FULL, resamples=50).metrics
  found = {k: v['mean'] for k, v in m['classes']['lv'].items()}
  assert m['unit'] == unit
  assert found['dice'] == pytest.approx((length - 1) / length)
  assert found['iou'] == pytest.approx((length - 1) / (length + 1))
  assert found['hd'] == found['hd95'] == pytest.approx(step)
  if step <= 1:  # The nearest outline pixel lies in the direction of motion.
    outline = 2 * (length + across) - 4
    assert found['asd'] == pytest.approx(step * (2 * across - 2) / outline)
