"""Dice and IoU of small masks; what an empty mask scores."""

import math

import numpy as np
import pytest

from echoforge_jax.metrics import overlap
from echoforge_jax.metrics.overlap import dice, iou


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
  assert dice(empty, full) == dice(full, empty) == overlap.ONE_EMPTY == 0
  assert iou(empty, full) == iou(full, empty) == 0
