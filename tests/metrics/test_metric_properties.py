"""Properties of the mask metrics, and other implementations of them."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np
import pytest
import SimpleITK as sitk

from echoforge_jax.metrics import overlap, surface

SPACING = st.tuples(*[st.floats(0.1, 3)] * 2)
MASK = arrays.arrays(bool, (9, 11))
FILLED = MASK.filter(np.any)
quick = settings(max_examples=100, deadline=None)


def distances(a, b, spacing=None):
  found = surface.surface_distances(a, b, spacing)
  return np.array([found.hd, found.hd95, found.asd])


@quick
@given(MASK, MASK, SPACING)
def test_symmetry(a, b, spacing):
  np.testing.assert_allclose(distances(a, b, spacing), distances(b, a, spacing), equal_nan=True)
  for metric in (overlap.dice, overlap.iou):
    np.testing.assert_equal(metric(a, b), metric(b, a))


@quick
@given(FILLED, FILLED, SPACING, st.floats(0.5, 4))
def test_distances_scale_with_the_spacing(a, b, spacing, factor):
  np.testing.assert_allclose(
    distances(a, b, tuple(factor * s for s in spacing)),
    factor * distances(a, b, spacing),
    rtol=1e-9,
  )


@quick
@given(FILLED, SPACING)
def test_identity(a, spacing):
  assert overlap.dice(a, a) == overlap.iou(a, a) == 1
  assert not distances(a, a, spacing).any()


@quick
@given(FILLED, SPACING)
def test_an_empty_mask(a, spacing):
  empty = np.zeros_like(a)
  assert overlap.dice(a, empty) == overlap.iou(empty, a) == 0
  diagonal = math.hypot(9 * spacing[0], 11 * spacing[1])
  assert distances(a, empty, spacing) == pytest.approx([diagonal] * 3)
  assert np.isnan(distances(empty, empty, spacing)).all()
  assert math.isnan(overlap.dice(empty, empty))


@quick
@given(FILLED, FILLED)
def test_order_and_relations(a, b):
  hd, hd95, asd = distances(a, b)
  assert 0 <= asd <= hd + 1e-12 and hd95 <= hd + 1e-12
  dice, iou = overlap.dice(a, b), overlap.iou(a, b)
  assert iou == pytest.approx(dice / (2 - dice)) and 0 <= iou <= dice <= 1


@quick
@given(FILLED, FILLED, st.integers(0, 5), st.integers(0, 5))
def test_a_wider_frame_changes_nothing(a, b, rows, columns):
  """Outside the image is background: masks on the border stay as they are."""
  wide = [np.pad(m, ((rows, 2), (columns, 3))) for m in (a, b)]
  np.testing.assert_allclose(distances(*wide), distances(a, b))
  assert overlap.dice(*wide) == overlap.dice(a, b)


def random_pairs(count):
  """Blobs and noise, some of them on the border of the image."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:24, :28]
  for k in range(count):
    pair = []
    for _ in range(2):
      y, x = rng.uniform(0, 24), rng.uniform(0, 28)
      a, b = rng.uniform(2, 12, 2)
      mask = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
      if k % 3 == 0:
        mask ^= rng.random(mask.shape) < 0.04
      mask[int(y) % 24, int(x) % 28] = True
      pair.append(mask)
    yield *pair, tuple(rng.uniform(0.2, 2, 2))


def brute_force(a, b, spacing):
  """All pairs of outline pixels, one by one in plain NumPy."""

  def outline(mask):
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner) * spacing

  p, q = outline(a), outline(b)
  table = np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1))
  there, back = table.min(1), table.min(0)
  return [
    max(there.max(), back.max()),
    max(np.percentile(there, 95), np.percentile(back, 95)),
    np.concatenate([there, back]).mean(),
  ]


def image(mask, spacing):
  found = sitk.GetImageFromArray(mask.astype(np.uint8))
  found.SetSpacing((spacing[1], spacing[0]))
  return found


@pytest.mark.slow
def test_other_implementations_agree_on_random_pairs():
  for a, b, spacing in random_pairs(200):
    assert distances(a, b, spacing) == pytest.approx(brute_force(a, b, spacing), rel=1e-9)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(image(a, spacing), image(b, spacing))
    assert overlap.dice(a, b) == pytest.approx(measures.GetDiceCoefficient())
    assert overlap.iou(a, b) == pytest.approx(measures.GetJaccardCoefficient())
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(*(image(surface.outline(m), spacing) for m in (a, b)))
    assert surface.surface_distances(a, b, spacing).hd == pytest.approx(
      hausdorff.GetHausdorffDistance(), rel=1e-5
    )
