"""Augmentation: one geometry for both views and masks, coherent over time."""

import dataclasses

import numpy as np
import pytest

from echoforge_jax.data import transforms
from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.errors import InputError

SIZE = 64
SPACING = np.array([0.6, 0.9], np.float32)
GEOMETRY_ONLY = dataclasses.replace(
  AugmentConfig.none(), rotation_deg=25, scale=0.2, translation=0.08
)


def blob(size=SIZE, frames=6):
  """A bright off-center ellipse with a dim surround, and its mask."""
  rows, cols = np.mgrid[:size, :size]
  inside = ((rows - 0.4 * size) / 14) ** 2 + ((cols - 0.55 * size) / 9) ** 2 < 1
  masks = np.repeat(inside[None].astype(np.uint8), frames, 0)
  return 20 + 200 * masks, masks


def dice(a, b):
  return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize('elastic', [0.0, 0.05])
def test_views_and_masks_share_one_geometry(elastic):
  frames, masks = blob()
  config = dataclasses.replace(
    AugmentConfig(),
    rotation_deg=25,
    scale=0.2,
    translation=0.08,
    elastic=elastic,
    strong_gamma=0,
    contrast=0,
    brightness=0,
    haze=0,
    speckle=0.1,
    shadow=0,
    dropout=0,
    attenuation=0.1,
  )
  moved = []
  for seed in range(8):
    out = transforms.augment_clip(
      np.random.default_rng(seed), config, frames, masks, SPACING
    )
    truth = out['masks'].astype(bool)
    assert dice(truth, out['weak'] > 115) > 0.97
    assert dice(truth, out['strong'] > 105) > 0.95
    assert (out['masks'] == out['masks'][0]).all()
    moved.append(dice(truth, masks.astype(bool)))
  assert min(moved) < 0.8  # The test would not notice an identity.


def test_masks_get_no_new_labels():
  _, masks = blob()
  masks = masks * 3
  for seed in range(5):
    out = transforms.augment_clip(
      np.random.default_rng(seed),
      dataclasses.replace(GEOMETRY_ONLY, elastic=0.05),
      masks,
      masks,
      SPACING,
    )
    assert set(np.unique(out['masks'])) == {0, 3}


def test_area_in_mm2_survives_every_geometry():
  """Pixels change, millimeters do not: spacing follows the zoom exactly."""
  frames, masks = blob(size=128)
  area = masks[0].sum() * SPACING.prod()
  for seed in range(10):
    out = transforms.augment_clip(
      np.random.default_rng(seed), GEOMETRY_ONLY, frames, masks, SPACING
    )
    again = out['masks'][0].sum() * out['spacing_mm'].prod()
    assert again == pytest.approx(area, rel=0.03)
    assert out['spacing_mm'].dtype == np.float32
    np.testing.assert_allclose(
      out['spacing_mm'][1] / out['spacing_mm'][0], 1.5, rtol=1e-6
    )


def test_rotation_turns_millimeters_not_pixels():
  geometry = transforms.sample_geometry(
    np.random.default_rng(3),
    dataclasses.replace(AugmentConfig.none(), rotation_deg=40),
    SIZE,
    SPACING,
  )
  assert geometry.scale == 1
  in_mm = np.array([SPACING[1], SPACING[0]], np.float64)
  center = geometry.place(*[(SIZE - 1) / 2] * 2)
  np.testing.assert_allclose(center, (SIZE - 1) / 2, atol=1e-9)
  angles = []
  for point in ([50.0, 10.0], [5.0, 40.0]):
    before = (np.array(point) - center) * in_mm
    after = (geometry.place(*point) - center) * in_mm
    assert np.hypot(*after) == pytest.approx(np.hypot(*before), rel=1e-6)
    turned = np.arctan2(*after[::-1]) - np.arctan2(*before[::-1])
    angles.append((turned + np.pi) % (2 * np.pi) - np.pi)
  assert angles[0] == pytest.approx(angles[1], abs=1e-6)
  assert abs(angles[0]) > 0.01


def test_unknown_spacing_stays_unknown():
  frames, masks = blob()
  out = transforms.augment_clip(
    np.random.default_rng(0),
    GEOMETRY_ONLY,
    frames,
    masks,
    np.full(2, np.nan, np.float32),
  )
  assert np.isnan(out['spacing_mm']).all()
  assert out['masks'].any()


def test_same_generator_state_gives_the_same_views():
  frames, masks = blob()
  config = dataclasses.replace(AugmentConfig(), elastic=0.02)
  one, two, other = (
    transforms.augment_clip(
      np.random.default_rng(seed), config, frames, masks, SPACING
    )
    for seed in (5, 5, 6)
  )
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])
  assert not np.array_equal(one['strong'], other['strong'])


def test_inputs_are_left_alone():
  frames, masks = blob()
  before = frames.copy(), masks.copy()
  for config in (AugmentConfig(), AugmentConfig.light()):
    transforms.augment_clip(
      np.random.default_rng(1), config, frames, masks, SPACING
    )
  np.testing.assert_array_equal(frames, before[0])
  np.testing.assert_array_equal(masks, before[1])


def test_no_augmentation_is_the_identity():
  frames, masks = blob()
  out = transforms.augment_clip(
    np.random.default_rng(0), AugmentConfig.none(), frames, masks, SPACING
  )
  for view in ('weak', 'strong'):
    np.testing.assert_array_equal(out[view], frames)
  np.testing.assert_array_equal(out['masks'], masks)
  np.testing.assert_array_equal(out['spacing_mm'], SPACING)


def test_strong_view_changes_more_and_keeps_the_outside_black():
  frames, masks = blob()
  rows, cols = np.mgrid[:SIZE, :SIZE]
  sector = abs(cols - SIZE / 2) < 0.7 * rows
  frames = frames * sector.astype(np.uint8)
  config = dataclasses.replace(
    AugmentConfig(), rotation_deg=0, scale=0, translation=0, haze=0, blur=0
  )
  weak, strong = [], []
  for seed in range(10):
    out = transforms.augment_clip(
      np.random.default_rng(seed), config, frames, masks, SPACING
    )
    assert not out['strong'][:, ~sector].any()
    weak.append(np.abs(out['weak'].astype(int) - frames).mean())
    strong.append(np.abs(out['strong'].astype(int) - frames).mean())
  assert np.mean(strong) > 2 * np.mean(weak) > 0


def test_strong_view_is_coherent_over_time():
  """A still video stays nearly still: parameters belong to the clip."""
  frames, masks = blob(frames=8)
  config = dataclasses.replace(AugmentConfig(), speckle=0)
  out = transforms.augment_clip(
    np.random.default_rng(2), config, frames, masks, SPACING
  )
  for view in ('weak', 'strong'):
    assert (out[view] == out[view][0]).all()
  noisy = dataclasses.replace(
    AugmentConfig.none(),
    strong=True,
    strong_gamma=0,
    contrast=0,
    brightness=0,
    blur=0,
    attenuation=0,
    haze=0,
    shadow=0,
    dropout=0,
    speckle=0.3,
  )
  clip = transforms.augment_clip(
    np.random.default_rng(2), noisy, frames, masks, SPACING
  )['strong']
  noise = clip.astype(float) - frames
  assert 5 < noise[masks > 0].std() < 90
  assert noise[masks > 0].mean() == pytest.approx(0, abs=12)


def test_shadow_follows_the_beam():
  """A shadow darkens one slope from the apex and spares the rest."""
  config = dataclasses.replace(
    AugmentConfig.none(),
    strong=True,
    strong_gamma=0,
    contrast=0,
    brightness=0,
    blur=0,
    attenuation=0,
    haze=0,
    dropout=0,
    speckle=0,
    shadow=1,
  )
  flat = np.full((2, SIZE, SIZE), 100, np.uint8)
  out = transforms.augment_clip(
    np.random.default_rng(4), config, flat, flat[:1], SPACING
  )['strong'][0]
  darkest = out[[SIZE // 2, SIZE - 4]].argmin(axis=1) - (SIZE - 1) / 2
  slopes = darkest / np.array([SIZE // 2, SIZE - 4])
  assert out.min() < 70
  assert slopes[0] == pytest.approx(slopes[1], abs=0.1)
  assert (out[-1] > 95).mean() > 0.3


def test_config_errors_list_the_choices():
  with pytest.raises(InputError, match='rotation_deg'):
    AugmentConfig.from_mapping({'rotate': 3})
  with pytest.raises(InputError, match='at most 0.5'):
    AugmentConfig.from_mapping({'temporal_jitter': 0.7})
  with pytest.raises(InputError, match='0 or more'):
    AugmentConfig(blur=-1)
  with pytest.raises(InputError, match='preset'):
    AugmentConfig.from_mapping({'preset': 'heavy'})
  assert AugmentConfig.from_mapping(None) == AugmentConfig()
  light = AugmentConfig.from_mapping({'preset': 'light', 'scale': 0.3})
  assert light == dataclasses.replace(AugmentConfig.light(), scale=0.3)
