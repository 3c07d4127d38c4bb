import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from echoforge_jax.metrics.overlap import dice, iou

PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
  lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def test_known_values():
  truth = np.zeros((4, 5), bool)
  prediction = truth.copy()
  truth[:2, :3] = True  # 6 pixels
  prediction[1:3, :3] = True  # 6 pixels, 3 shared
  assert dice(truth, prediction) == 0.5
  assert iou(truth, prediction) == pytest.approx(3 / 9)


def test_empty_masks():
  empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
  assert math.isnan(dice(empty, empty)) and math.isnan(iou(empty, empty))
  assert dice(empty, full) == dice(full, empty) == 0
  assert iou(empty, full) == iou(full, empty) == 0


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_symmetry_identity_and_relation(pair):
  a, b = pair
  d, j = dice(a, b), iou(a, b)
  if not (a.any() or b.any()):
    assert math.isnan(d)
    return
  assert d == dice(b, a) and j == iou(b, a)
  assert 0 <= j <= d <= 1
  assert d == pytest.approx(2 * j / (1 + j))
  if a.any():
    assert dice(a, a) == iou(a, a) == 1
