import math

import numpy as np
import pytest
from scipy import ndimage

from echoforge_jax.metrics import ejection
from tests.ventricles import ventricle, ventricle_volume


@pytest.mark.parametrize('size,tolerance', [(512, 0.004), (256, 0.008), (128, 0.015)])
@pytest.mark.parametrize('tilt', [0.0, 8.0, -15.0])
def test_biplane_volume_of_truncated_ellipsoids(size, tolerance, tilt):
  spacing = (140 / size, 155 / size)  # Squeezed: not isotropic.
  views = [
    ejection.measure_cavity(
      ventricle(size, spacing, radius=r, tilt=tilt, shift=(0.3, 0.6)), spacing
    )
    for r in (23.0, 25.0)
  ]
  assert ejection.biplane_volume(*views) == pytest.approx(
    ventricle_volume(23.0, 25.0), rel=tolerance
  )
  assert views[0].length == pytest.approx(48 + 25, rel=0.012)


def test_single_plane_and_area_length_of_a_whole_ellipsoid():
  spacing = (0.4, 0.5)
  cavity = ejection.measure_cavity(
    ventricle(340, spacing, radius=21.0, above=44.0, below=44.0, apex=20.0), spacing
  )
  exact = 4 / 3 * math.pi * 44 * 21**2 / 1000
  assert ejection.single_plane_volume(cavity) == pytest.approx(exact, rel=0.006)
  # 8 A^2 / (3 pi L) is exact for an ellipsoid.
  assert ejection.area_length_volume(cavity) == pytest.approx(exact, rel=0.006)
  assert cavity.area == pytest.approx(math.pi * 44 * 21, rel=0.003)


def test_base_apex_and_ends():
  spacing = (0.5, 0.6)
  cavity = ejection.measure_cavity(ventricle(256, spacing, radius=24.0), spacing)
  assert cavity.base == pytest.approx((30 + 48 + 25, 70), abs=1.2)
  # The dome is flat: the farthest point wanders along it, not off it.
  assert cavity.apex[0] == pytest.approx(30, abs=0.5)
  assert cavity.apex[1] == pytest.approx(70, abs=3)
  half_base = 24 * math.sqrt(1 - (25 / 48) ** 2)
  width = np.linalg.norm(cavity.base_ends[0] - cavity.base_ends[1])
  assert width == pytest.approx(2 * half_base, rel=0.12)
  assert cavity.flags == ()


def test_ejection_fraction_of_a_beating_ellipsoid():
  spacing = (140 / 128, 155 / 128)

  def measure(r2, r4):
    return {
      view: ejection.measure_cavity(ventricle(128, spacing, radius=r), spacing)
      for view, r in (('2CH', r2), ('4CH', r4))
    }

  found = ejection.measure_ejection(measure(25, 24), measure(19, 18))
  exact = 100 * (1 - 19 * 18 / (25 * 24))
  assert found.ef_percent == pytest.approx(exact, abs=0.8)
  assert found.edv_ml == pytest.approx(ventricle_volume(25, 24), rel=0.015)
  assert found.flags == ()


def test_noisy_mask_keeps_its_volume_and_says_so():
  spacing = (0.6, 0.6)
  clean = ventricle(256, spacing, radius=24.0, centre=76.0)
  noisy = clean.copy()
  noisy[120:126, 122:128] = False  # a hole
  noisy[200:220, 10:40] = True  # a large fragment
  noisy[5:7, 5:7] = True  # a speck
  roughened = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=clean.shape), 2)
  depth = ndimage.distance_transform_edt(noisy) - ndimage.distance_transform_edt(~noisy)
  noisy = np.where(np.abs(depth) < 4, depth + 8 * roughened > 0, noisy)
  found = ejection.measure_cavity(noisy, spacing)
  reference = ejection.measure_cavity(clean, spacing)
  assert {'holes', 'fragmented'} <= set(found.flags)
  assert ejection.single_plane_volume(found) == pytest.approx(
    ejection.single_plane_volume(reference), rel=0.05
  )


@pytest.mark.parametrize(
  'mask', [np.zeros((64, 64), bool), np.eye(3, dtype=bool), np.pad(np.ones((3, 4), bool), 9)]
)
def test_no_cavity_is_nan_never_a_number(mask):
  cavity = ejection.measure_cavity(mask)
  assert cavity is None
  assert math.isnan(ejection.single_plane_volume(cavity))
  assert math.isnan(ejection.area_length_volume(cavity))
  good = ejection.measure_cavity(ventricle(64, (2.0, 2.0), radius=22.0), (2.0, 2.0))
  found = ejection.measure_ejection({'2CH': good, '4CH': cavity}, {'2CH': good, '4CH': good})
  assert math.isnan(found.edv_ml) and math.isnan(found.ef_percent)
  assert found.esv_ml > 0
  assert 'no_cavity' in found.flags


def test_implausible_ef_is_flagged():
  def cavity(radius):
    return ejection.measure_cavity(ventricle(128, (1.0, 1.2), radius=radius), (1.0, 1.2))

  small, large = cavity(15.0), cavity(25.0)
  reversed_in_time = ejection.measure_ejection(
    {'2CH': small, '4CH': small}, {'2CH': large, '4CH': large}
  )
  assert reversed_in_time.ef_percent < 0
  assert 'ef_out_of_range' in reversed_in_time.flags


def test_one_view_is_measured_in_a_single_plane_and_flagged():
  cavity = ejection.measure_cavity(ventricle(128, (1.0, 1.2), radius=22.0), (1.0, 1.2))
  found = ejection.measure_ejection({'4CH': cavity}, {'4CH': cavity})
  assert found.edv_ml == ejection.single_plane_volume(cavity)
  assert found.ef_percent == 0
  assert 'single_plane' in found.flags


def test_views_of_different_length_are_flagged():
  def cavity(above):
    return ejection.measure_cavity(ventricle(128, (1.0, 1.2), radius=20.0, above=above), (1.0, 1.2))

  views = {'2CH': cavity(28.0), '4CH': cavity(48.0)}
  assert 'long_axes_differ' in ejection.measure_ejection(views, views).flags
  height = views['4CH'].length / 20  # The longer axis sets the height.
  expected = math.pi / 4 * height * (views['2CH'].diameters * views['4CH'].diameters).sum() / 1000
  assert ejection.biplane_volume(views['2CH'], views['4CH']) == pytest.approx(expected)


def test_mask_cut_by_the_image_border_is_closed():
  spacing = (1.0, 1.0)
  whole = ventricle(128, spacing, radius=24.0, apex=10.0)
  cut = whole[:, 60:]
  cavity = ejection.measure_cavity(cut, spacing)
  assert cavity.area == pytest.approx(cut.sum(), rel=0.02)


@pytest.mark.parametrize(
  'mask', [np.ones((20, 20), bool), np.ones((3, 60), bool), np.ones((60, 2), bool)]
)
def test_odd_shapes_are_measured_without_failing(mask):
  cavity = ejection.measure_cavity(np.pad(mask, 2))
  assert cavity.area == pytest.approx(mask.sum(), rel=0.1)
  assert np.isfinite(cavity.diameters).all() and cavity.length > 0


def test_a_wide_shape_is_flagged_as_not_upright():
  cavity = ejection.measure_cavity(np.pad(np.ones((12, 60), bool), 4))
  assert 'axis_not_upright' in cavity.flags
