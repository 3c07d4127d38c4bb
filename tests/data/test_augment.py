"""Views drawn on the device: the host's geometry, whatever the devices."""

import cv2
import jax
import numpy as np
import pytest

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import augment as device_views
from echoforge_jax.data import transforms
from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.parallel import mesh as mesh_lib

T, SIZE, BATCH = 5, 48, 8
SPACING = np.array([0.5, 0.8], np.float32)
STILL = dict(rotation_deg=0, scale=0, translation=0, gain=0, gamma=0)
FLAT = dict(
  blur=0,
  speckle=0,
  attenuation=0,
  haze=0,
  shadow=0,
  dropout=0,
  strong_gamma=0,
  contrast=0,
  brightness=0,
)
ALL = AugmentConfig(elastic=0.03, flip=0.5)


def smooth_video(seed=0):
  """uint8 [T, S, S] without sharp edges, dark outside of a disc."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
  frames = np.stack(
    [
      cv2.resize(
        rng.uniform(60, 255, (5, 5)),
        (SIZE, SIZE),
        interpolation=cv2.INTER_LINEAR,
      )
      for _ in range(T)
    ]
  )
  return (frames * (np.hypot(y, x) < 0.45)).astype(np.uint8)


def make_batch(num_masks=2, seed=0, count=BATCH):
  rng = np.random.default_rng(seed)
  masks = np.zeros((count, num_masks, SIZE, SIZE), np.uint8)
  masks[:, :, 10:30, 12:36] = 2
  masks[:, :, 15:25, 16:30] = 1
  labeled = np.zeros((count, T), bool)
  labeled[: count // 2, [0, -1]] = True
  if num_masks == T:
    labeled[0] = True
  return {
    'video': np.stack([smooth_video(n) for n in range(count)])[..., None],
    'masks': masks,
    'labeled': labeled,
    'spacing_mm': np.tile(SPACING, (count, 1)),
    'seed': rng.integers(2**32, size=count, dtype=np.uint32),
  }


def draw(config, batch=None, devices=1, fields=device_views.FIELDS):
  split = mesh_lib.batch_sharding(mesh_lib.make_mesh(devices))
  views = device_views.make_views(config, split, fields)
  arrays = mesh_lib.put_batch(batch or make_batch(), split)
  with jax.transfer_guard('disallow'):
    out = views(arrays)
  return jax.device_get(out)


@pytest.fixture(scope='module')
def drawn():
  return draw(ALL)


def test_a_batch_is_what_the_step_takes(drawn):
  assert {k: (v.shape, v.dtype) for k, v in drawn.items()} == {
    'video_weak': ((BATCH, T, SIZE, SIZE, 1), np.uint8),
    'video_strong': ((BATCH, T, SIZE, SIZE, 1), np.uint8),
    'masks': ((BATCH, T, SIZE, SIZE), np.uint8),
    'labeled': ((BATCH, T), np.bool_),
    'spacing_mm': ((BATCH, 2), np.float32),
  }
  assert np.array_equal(drawn['labeled'], make_batch()['labeled'])
  assert set(draw(ALL, fields=('masks', 'video_strong'))) == {
    'masks',
    'video_strong',
  }


@pytest.mark.parametrize('num_masks', [2, T])
def test_without_ranges_frames_are_exact(num_masks):
  batch = make_batch(num_masks)
  for config in (AugmentConfig.none(), AugmentConfig(**STILL, **FLAT)):
    out = draw(config, batch)
    for view in ('video_weak', 'video_strong'):
      np.testing.assert_array_equal(out[view], batch['video'])
    np.testing.assert_array_equal(out['spacing_mm'], batch['spacing_mm'])
    places = [0, -1] if num_masks == 2 else slice(None)
    for found, masks, known in zip(
      out['masks'], batch['masks'], batch['labeled']
    ):
      assert (found[~known] == IGNORE).all()
      np.testing.assert_array_equal(
        found[known],
        masks[known[places] if num_masks == T else slice(0, 2 * known.any())],
      )


@pytest.mark.parametrize('elastic', [0.0, 0.03])
@pytest.mark.parametrize('seed', range(3))
def test_the_warp_is_cv2s(seed, elastic):
  config = AugmentConfig(elastic=elastic, flip=0.5)
  geometry = transforms.sample_geometry(
    np.random.default_rng(seed), config, SIZE, SPACING
  )
  inverse = cv2.invertAffineTransform(geometry.matrix).astype(np.float32)
  frames = smooth_video(seed)
  wanted = transforms.warp(frames, geometry).astype(int)
  warp = jax.jit(device_views.warp, static_argnames='nearest')
  found = np.asarray(warp(frames, inverse, geometry.displacement)).astype(int)
  difference = np.abs(wanted - found)
  # cv2 rounds places to 1/32 of a pixel: at the disc's edge that shows.
  assert np.mean(difference <= 2) > 0.98 and difference.mean() < 0.5
  masks = make_batch()['masks'][0]
  wanted = transforms.warp(masks, geometry, nearest=True)
  found = np.asarray(warp(masks, inverse, geometry.displacement, nearest=True))
  assert np.mean(wanted != found) < 0.01 and set(np.unique(found)) <= {0, 1, 2}


def test_geometry_is_in_range_and_keeps_millimeters():
  config = AugmentConfig(rotation_deg=30, scale=0.2, translation=0.1)
  keys = jax.random.split(jax.random.key(0), 200)
  found = jax.device_get(
    jax.vmap(
      lambda key: device_views.sample_geometry(key, config, SIZE, SPACING)
    )(keys)
  )
  assert found.displacement is None
  assert found.scale.min() > 1 / 1.2 - 1e-6 and found.scale.max() < 1.2 + 1e-6
  to_mm = np.diag(SPACING[::-1])  # (column, row) pixels to millimeters.
  turns = found.scale[:, None, None] * (
    to_mm @ found.inverse[:, :, :2] @ np.linalg.inv(to_mm)
  )
  np.testing.assert_allclose(
    turns @ turns.transpose(0, 2, 1), np.tile(np.eye(2), (200, 1, 1)), atol=1e-5
  )
  degrees = np.rad2deg(np.arctan2(turns[:, 0, 1], turns[:, 0, 0]))
  assert np.abs(degrees).max() < 30 < np.abs(degrees).max() * 1.1
  center = np.full(2, (SIZE - 1) / 2)
  moved = found.inverse[:, :, :2] @ center + found.inverse[:, :, 2] - center
  assert 0.05 * SIZE < np.abs(moved).max() < 0.3 * SIZE
  # The apex goes where the inverse map takes it from.
  back = (
    np.einsum('nij,nj->ni', found.inverse[:, :, :2], found.apex)
    + found.inverse[:, :, 2]
  )
  np.testing.assert_allclose(
    back, np.tile([(SIZE - 1) / 2, 0], (200, 1)), atol=1e-3
  )


def test_unknown_spacing_counts_as_square():
  batch = make_batch() | {'spacing_mm': np.full((BATCH, 2), np.nan, np.float32)}
  unknown = draw(AugmentConfig(), batch)
  square = draw(
    AugmentConfig(), batch | {'spacing_mm': np.ones((BATCH, 2), np.float32)}
  )
  assert np.isnan(unknown['spacing_mm']).all()
  np.testing.assert_array_equal(unknown['masks'], square['masks'])


def test_labels_stay_labels_and_zero_flows_in(drawn):
  known = drawn['labeled']
  assert set(np.unique(drawn['masks'][known])) == {0, 1, 2}
  assert (drawn['masks'][~known] == IGNORE).all()
  shifted = draw(
    AugmentConfig(rotation_deg=0, scale=0, translation=1.0),
    make_batch() | {'masks': np.ones((BATCH, 2, SIZE, SIZE), np.uint8)},
  )
  assert set(np.unique(shifted['masks'][known])) == {0, 1}


def test_both_views_and_masks_share_a_geometry():
  # The video is the mask: whatever moves it moves both.
  batch = make_batch(T)
  batch['labeled'][:] = True
  batch['video'] = 120 * (batch['masks'] > 0)[..., None].astype(np.uint8)
  out = draw(AugmentConfig(**FLAT, gain=0, gamma=0, elastic=0.03), batch)
  np.testing.assert_array_equal(out['video_weak'], out['video_strong'])
  for video, masks in zip(out['video_weak'][..., 0], out['masks']):
    assert (video == video[:1]).all()  # One geometry for all frames.
    assert np.mean((video > 60) != (masks > 0)) < 0.01
  assert len({clip.tobytes() for clip in out['masks']}) == BATCH
  ratio = out['spacing_mm'] / SPACING
  np.testing.assert_allclose(ratio[:, 0], ratio[:, 1], rtol=1e-6)
  areas = (out['masks'][:, 0] > 0).sum((1, 2)) / 480
  np.testing.assert_allclose(areas * ratio[:, 0] ** 2, 1, atol=0.1)


def test_a_clips_views_depend_on_its_seed_alone(drawn):
  for devices in (2, 8):
    again = draw(ALL, devices=devices)
    for name, value in drawn.items():
      np.testing.assert_array_equal(value, again[name])
  batch = make_batch()
  order = np.arange(BATCH)[::-1]
  turned = draw(ALL, {name: value[order] for name, value in batch.items()})
  for name, value in drawn.items():
    np.testing.assert_array_equal(value[order], turned[name])
  other = draw(ALL, batch | {'seed': batch['seed'] + np.uint32(1)})
  assert not any(
    np.array_equal(a, b)
    for a, b in zip(drawn['video_weak'], other['video_weak'])
  )


def test_nothing_crosses_between_devices():
  split = mesh_lib.batch_sharding(mesh_lib.make_mesh(8, 2))
  arrays = mesh_lib.put_batch(make_batch(), split)
  views = device_views.make_views(ALL, split)
  text = views.lower(arrays).compile().as_text()
  for name in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute'):
    assert name not in text
  out = views(arrays)
  out = views(mesh_lib.put_batch(make_batch(seed=1), split))
  assert views._cache_size() == 1
  assert all(value.sharding == split for value in out.values())


def test_one_step_of_the_gray_curve_or_gain():
  gain = draw(AugmentConfig(**STILL | {'gain': 0.3}, **FLAT))['video_weak']
  video = make_batch()['video'].astype(float)
  for found, clip in zip(gain.astype(float), video):
    inside = (clip > 60) & (found < 255)
    ratio = found[inside] / clip[inside]
    assert np.ptp(ratio) < 0.03 and 0.69 < ratio.mean() < 1.31
  assert (gain[video == 0] == 0).all()


@pytest.mark.parametrize(
  'name',
  [
    'blur',
    'speckle',
    'attenuation',
    'haze',
    'shadow',
    'dropout',
    'strong_gamma',
    'contrast',
    'brightness',
  ],
)
def test_every_strong_change_changes_the_strong_view_alone(name):
  largest = {'shadow': 1.0, 'dropout': 1.0, 'blur': 0.05, 'speckle': 0.4}
  config = AugmentConfig(**STILL, **FLAT | {name: largest.get(name, 0.5)})
  batch = make_batch()
  out = draw(config, batch)
  np.testing.assert_array_equal(out['video_weak'], batch['video'])
  strong = out['video_strong'].astype(float)
  video = batch['video'].astype(float)
  # Some clip may draw next to nothing.
  changed = [np.abs(a - b).max() > 2 for a, b in zip(strong, video)]
  assert sum(changed) > BATCH / 2
  # Outside of the sector it stays black, but for what blurs or hazes.
  if name not in ('blur', 'haze'):
    assert (strong[video == 0] == 0).all()
  if name in ('attenuation', 'shadow', 'dropout'):
    assert (strong <= video).all()
  if name == 'haze':
    assert (strong >= video).all()
    added = (strong - video)[strong.max(1, keepdims=True).repeat(T, 1) < 255]
    assert added.max() <= 0.5 * 255


def test_the_strong_view_has_the_hosts_statistics():
  """Mean and spread of gray levels, over many clips of one config."""
  config = AugmentConfig()
  count = 64
  batch = make_batch(count=count)
  batch['video'][:] = batch['video'][:1]
  found = draw(config, batch)
  rng = np.random.default_rng(0)
  host = [
    transforms.augment_clip(
      rng, config, batch['video'][0, ..., 0], batch['masks'][0], SPACING
    )
    for _ in range(count)
  ]
  for view, name in (('video_weak', 'weak'), ('video_strong', 'strong')):
    wanted = np.array([clip[name].mean() for clip in host])
    means = found[view].mean((1, 2, 3, 4))
    error = np.hypot(wanted.std(), means.std()) / np.sqrt(count)
    assert abs(wanted.mean() - means.mean()) < 4 * error
    assert 0.6 < means.std() / wanted.std() < 1.6
