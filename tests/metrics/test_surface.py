"""Outline distances by hand, and where SimpleITK agrees and differs."""

import math

import numpy as np
import pytest
from scipy import ndimage
import SimpleITK as sitk

from echoforge_jax.metrics.surface import directed_distances, outline, surface_distances


def blob(seed, size=48, border=4):
  noise = np.random.default_rng(seed).normal(size=(size, size))
  mask = ndimage.gaussian_filter(noise, 4) > 0.03
  inner = np.zeros_like(mask)
  inner[border:-border, border:-border] = True
  return mask & inner


def to_image(mask, spacing):
  image = sitk.GetImageFromArray(mask.astype(np.uint8))
  image.SetSpacing((spacing[1], spacing[0]))  # SimpleITK: x first.
  return image


def test_single_pixels_and_pixels_by_default():
  a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
  a[1, 2] = b[4, 6] = True
  found = surface_distances(a, b, (2.0, 0.5))
  apart = pytest.approx(math.hypot(3 * 2, 4 * 0.5))
  assert found.hd == found.hd95 == found.asd == apart
  assert surface_distances(a, b).hd == 5


def test_border_pixels_belong_to_the_outline():
  full = np.ones((5, 6), bool)
  ring = outline(full)
  assert ring[0].all() and ring[-1].all() and ring[:, 0].all()
  assert not ring[1:-1, 1:-1].any()


def test_shifted_rectangle_has_analytic_distances():
  rows, columns = 12, 20
  truth = np.zeros((40, 40), bool)
  truth[10 : 10 + rows, 8 : 8 + columns] = True
  shifted = np.roll(truth, 1, axis=1)
  found = surface_distances(truth, shifted, (0.7, 0.3))
  # One pixel along the columns: only the two vertical sides move, and of
  # their pixels those not already on the other outline's horizontal sides.
  outline_size = 2 * (rows + columns) - 4
  assert found.hd == pytest.approx(0.3)
  assert found.asd == pytest.approx(0.3 * (2 * rows - 2) / outline_size)


def test_hausdorff_agrees_with_simpleitk_on_convex_masks():
  spacing = (0.5, 0.8)
  rows, columns = np.mgrid[:64, :64]
  a = ((rows - 30) / 18) ** 2 + ((columns - 30) / 12) ** 2 <= 1
  b = ((rows - 33) / 15) ** 2 + ((columns - 32) / 14) ** 2 <= 1
  measure = sitk.HausdorffDistanceImageFilter()
  measure.Execute(to_image(a, spacing), to_image(b, spacing))
  assert surface_distances(a, b, spacing).hd == pytest.approx(
    measure.GetHausdorffDistance(), rel=1e-6
  )


def test_hausdorff_differs_from_simpleitk_where_a_slit_cuts_one_mask():
  disc = np.hypot(*(np.mgrid[:41, :41] - 20)) <= 15
  slit = disc.copy()
  slit[:21, 20] = False
  measure = sitk.HausdorffDistanceImageFilter()
  measure.Execute(to_image(disc, (1.0, 1.0)), to_image(slit, (1.0, 1.0)))
  assert measure.GetHausdorffDistance() < 1.5
  assert surface_distances(disc, slit).hd > 10


@pytest.mark.parametrize('seed', range(4))
def test_average_distance_agrees_with_simpleitk_recipe(seed):
  spacing = (0.31, 0.155)
  a, b = blob(seed), blob(seed + 50)
  contours = [sitk.LabelContour(to_image(m, spacing)) for m in (a, b)]
  maps = [
    np.abs(
      sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True)
      )
    )
    for c in contours
  ]
  there = maps[1][sitk.GetArrayFromImage(contours[0]) == 1]
  back = maps[0][sitk.GetArrayFromImage(contours[1]) == 1]
  found = surface_distances(a, b, spacing)
  assert found.asd == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
  assert found.hd95 == pytest.approx(
    max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5
  )
  ours = directed_distances(a, b, spacing)
  assert len(ours[0]) == len(there) and len(ours[1]) == len(back)
