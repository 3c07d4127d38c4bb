"""Views of clips: one geometry, coherent over time, the same on any devices."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from scipy import ndimage

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import augment
from echoforge_jax.data.augment import AugmentConfig
from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib

T, SIZE, BATCH = 5, 48, 8
SPACING = np.array([0.6, 0.9], np.float32)
STRONG = (
  'blur',
  'speckle',
  'attenuation',
  'haze',
  'shadow',
  'dropout',
  'strong_gamma',
  'contrast',
  'brightness',
)
# Everything is computed, and nothing changes.
STILL = dataclasses.replace(AugmentConfig.none(), strong=True, **dict.fromkeys(STRONG, 0))
MOVING = dataclasses.replace(STILL, rotation_deg=25, scale=0.2, translation=0.08)
ALL = AugmentConfig(elastic=0.03, flip=0.5)


def smooth_video(seed=0):
  """uint8 [T, S, S] without sharp edges, black outside of a sector."""
  rng = np.random.default_rng(seed)
  rows, columns = np.mgrid[:SIZE, :SIZE]
  frames = np.stack(
    [
      cv2.resize(rng.uniform(60, 255, (5, 5)), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
      for _ in range(T)
    ]
  )
  sector = abs(columns - SIZE / 2) < 0.7 * rows
  return (frames * sector).astype(np.uint8)


def make_batch(num_masks=2, seed=0, video=None):
  rng = np.random.default_rng(seed)
  masks = np.zeros((BATCH, num_masks, SIZE, SIZE), np.uint8)
  masks[:, :, 10:30, 12:36] = 2
  masks[:, :, 15:25, 16:30] = 1
  labeled = np.zeros((BATCH, T), bool)
  labeled[: BATCH // 2, [0, -1]] = True
  if num_masks == T:
    labeled[0] = True
  if video is None:
    video = np.stack([smooth_video(n) for n in range(BATCH)])
  return {
    'video': video[..., None],
    'masks': masks,
    'labeled': labeled,
    'spacing_mm': np.tile(SPACING, (BATCH, 1)),
    'seed': rng.integers(2**32, size=BATCH, dtype=np.uint32),
  }


def compiled(config, arrays, sharding, fields=augment.FIELDS):
  views = augment.make_views(config, sharding, fields)
  # Compiling takes longer than everything that is computed here.
  fast = {'xla_backend_optimization_level': 0}
  return views.lower(arrays).compile(compiler_options=fast)


def draw(config, batch=None, devices=1, fields=augment.FIELDS):
  sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh(devices))
  arrays = mesh_lib.put_batch(batch or make_batch(), sharding)
  program = compiled(config, arrays, sharding, fields)
  with jax.transfer_guard('disallow'):
    out = program(arrays)
  return jax.device_get(out)


def dice(a, b):
  return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope='module')
def drawn():
  return draw(ALL)


@pytest.mark.slow
def test_a_batch_is_what_the_step_takes(drawn):
  assert {k: (v.shape, v.dtype) for k, v in drawn.items()} == {
    'video_weak': ((BATCH, T, SIZE, SIZE, 1), np.uint8),
    'video_strong': ((BATCH, T, SIZE, SIZE, 1), np.uint8),
    'masks': ((BATCH, T, SIZE, SIZE), np.uint8),
    'labeled': ((BATCH, T), np.bool_),
    'spacing_mm': ((BATCH, 2), np.float32),
  }
  assert np.array_equal(drawn['labeled'], make_batch()['labeled'])
  two = draw(STILL, fields=('masks', 'video_strong'))
  assert set(two) == {'masks', 'video_strong'}


@pytest.mark.parametrize('num_masks', [2, T])
@pytest.mark.parametrize('config', [AugmentConfig.none(), STILL])
def test_without_ranges_frames_are_exact(config, num_masks):
  batch = make_batch(num_masks)
  out = draw(config, batch)
  for view in ('video_weak', 'video_strong'):
    np.testing.assert_array_equal(out[view], batch['video'])
  np.testing.assert_array_equal(out['spacing_mm'], batch['spacing_mm'])
  for found, masks, known in zip(out['masks'], batch['masks'], out['labeled']):
    assert (found[~known] == IGNORE).all()
    places = np.flatnonzero(known) * (num_masks - 1) // (T - 1)
    np.testing.assert_array_equal(found[known], masks[places])


def sample(config, count, size=SIZE):
  """Draws geometries, and the input (column, row) of every output pixel."""
  keys = jax.random.split(jax.random.key(0), count)

  @jax.jit
  @jax.vmap
  def geometries(key):
    return augment.sample_geometry(key, config, size, SPACING)

  found = jax.device_get(geometries(keys))
  columns = np.stack(
    [
      [np.interp(y[:, j], np.arange(size), x[:, j]) for j in range(size)]
      for x, y in zip(found.columns, found.rows)
    ]
  ).swapaxes(1, 2)
  inside = (found.rows >= 0) & (found.rows <= size - 1)
  return found, np.stack([columns, found.rows], -1), inside


@pytest.mark.parametrize('elastic', [0.0, 0.03])
def test_the_warp_interpolates_where_the_geometry_points(elastic):
  config = AugmentConfig(elastic=elastic, flip=0.5)
  found, places, inside = sample(config, 3)
  warp = jax.jit(augment.warp, static_argnames='nearest')
  for number in range(3):
    geometry = jax.tree.map(lambda x: x[number], found)
    where = places[number][..., ::-1].transpose(2, 0, 1)
    frames = smooth_video(number)
    wanted = ndimage.map_coordinates(frames[0].astype(float), where, order=1, mode='grid-constant')
    got = np.asarray(warp(frames, geometry))[0].astype(float)
    difference = np.abs(wanted - got)[inside[number]]
    # Two passes of one axis are not one of two axes at the sector's edge.
    assert np.mean(difference <= 3) > 0.97 and difference.mean() < 0.6
    masks = make_batch()['masks'][0]
    wanted = ndimage.map_coordinates(masks[0], where, order=0, mode='grid-constant')
    got = np.asarray(warp(masks, geometry, nearest=True))[0]
    assert np.mean((wanted != got)[inside[number]]) < 0.03
    assert set(np.unique(got)) <= {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize('nearest', [False, True])
def test_products_and_reads_resample_alike(nearest):
  """A TPU multiplies where other devices read."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 7, 16)).astype(np.uint8)
  places = rng.uniform(-4, 20, (7, 12)).astype(np.float32)
  places[:, :4] = rng.integers(-2, 18, (7, 4))
  by_products, by_reads = (
    np.asarray(resample(images, places, nearest))
    for resample in (augment._by_products, augment._by_reads)
  )
  np.testing.assert_allclose(by_products, by_reads, atol=1e-3)
  assert (by_reads[:, places < -1] == 0).all()
  assert (by_reads[:, places >= 16] == 0).all()


def test_geometry_is_in_range_and_keeps_millimeters():
  """Pixels turn and stretch; the heart in millimeters turns and zooms only."""
  count = 60
  config = AugmentConfig(rotation_deg=30, scale=0.2, translation=0.1)
  found, places, inside = sample(config, count)
  assert found.scale.min() > 1 / 1.2 - 1e-6 and found.scale.max() < 1.2 + 1e-6
  to_mm = np.diag(SPACING[::-1])  # (column, row) pixels to millimeters.
  pixels = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2), -1)
  center, degrees, moved = (SIZE - 1) / 2, [], []
  for number in range(count):
    at = pixels[inside[number]] - center
    design = np.column_stack([at, np.ones(len(at))])
    fit, *_ = np.linalg.lstsq(design, places[number][inside[number]], rcond=None)
    np.testing.assert_allclose(design @ fit, places[number][inside[number]], atol=1e-3)
    inverse = fit[:2].T
    turn = found.scale[number] * to_mm @ inverse @ np.linalg.inv(to_mm)
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-3)
    degrees.append(abs(np.rad2deg(np.arctan2(turn[0, 1], turn[0, 0]))))
    moved.append(np.abs(fit[2] - center).max())
    # The apex goes where the inverse map takes it from.
    back = inverse @ (found.apex[number] - center) + fit[2]
    np.testing.assert_allclose(back, [center, 0], atol=1e-2)
  assert 27 < max(degrees) < 30
  assert 0.05 * SIZE < max(moved) < 0.3 * SIZE


@pytest.mark.slow
def test_unknown_spacing_counts_as_square():
  unknown, square = (
    draw(MOVING, make_batch() | {'spacing_mm': np.full((BATCH, 2), mm, np.float32)})
    for mm in (np.nan, 1)
  )
  assert np.isnan(unknown['spacing_mm']).all()
  np.testing.assert_array_equal(unknown['masks'], square['masks'])


@pytest.mark.slow
def test_labels_stay_labels_and_zero_flows_in(drawn):
  known = drawn['labeled']
  assert set(np.unique(drawn['masks'][known])) == {0, 1, 2}
  assert (drawn['masks'][~known] == IGNORE).all()
  shifted = draw(
    dataclasses.replace(STILL, translation=1.0),
    make_batch() | {'masks': np.ones((BATCH, 2, SIZE, SIZE), np.uint8)},
  )
  assert set(np.unique(shifted['masks'][known])) == {0, 1}


@pytest.mark.slow
def test_both_views_and_masks_share_a_geometry():
  """The video is the mask: whatever moves it moves both."""
  batch = make_batch(T)
  batch['labeled'][:] = True
  batch['video'] = 120 * (batch['masks'] > 0)[..., None].astype(np.uint8)
  out = draw(dataclasses.replace(MOVING, elastic=0.03), batch)
  np.testing.assert_array_equal(out['video_weak'], out['video_strong'])
  moved = []
  for video, masks, before in zip(out['video_weak'][..., 0], out['masks'], batch['masks']):
    assert (video == video[:1]).all()  # One geometry for all frames.
    assert (masks == masks[:1]).all()
    assert dice(video > 60, masks > 0) > 0.97
    moved.append(dice(masks > 0, before > 0))
  assert min(moved) < 0.8  # The test would not notice an identity.
  assert len({clip.tobytes() for clip in out['masks']}) == BATCH


def test_area_in_mm2_survives_every_geometry():
  out = draw(MOVING)
  ratio = out['spacing_mm'] / SPACING
  np.testing.assert_allclose(ratio[:, 0], ratio[:, 1], rtol=1e-6)
  assert np.ptp(ratio) > 0.1
  areas = (out['masks'][:4, 0] > 0).sum((1, 2)) / 480
  np.testing.assert_allclose(areas * ratio[:4, 0] ** 2, 1, atol=0.05)


@pytest.mark.slow
def test_a_clips_views_depend_on_its_seed_alone(drawn):

  def assert_same(views):
    for name, value in drawn.items():
      difference = np.abs(value.astype(float) - views[name])
      # Sums of matrix products may round another way in another batch.
      rounding = name.startswith('video')
      assert difference.max() <= rounding and difference.mean() < 1e-4

  for devices in (2, 8):
    assert_same(draw(ALL, devices=devices))
  batch = make_batch()
  order = np.arange(BATCH)[::-1]
  turned = draw(ALL, {name: value[order] for name, value in batch.items()})
  assert_same({name: value[order] for name, value in turned.items()})
  other = draw(ALL, batch | {'seed': batch['seed'] + np.uint32(1)})
  assert not any(np.array_equal(a, b) for a, b in zip(drawn['video_weak'], other['video_weak']))


@pytest.mark.slow
def test_nothing_crosses_between_devices():
  sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh(8, 2))
  arrays = mesh_lib.put_batch(make_batch(), sharding)
  program = compiled(ALL, arrays, sharding)
  for name in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute'):
    assert name not in program.as_text()
  assert all(value.sharding == sharding for value in program(arrays).values())


def test_gain_multiplies_every_pixel_alike():
  gain = draw(dataclasses.replace(STILL, gain=0.3))['video_weak']
  video = make_batch()['video'].astype(float)
  for found, clip in zip(gain.astype(float), video):
    inside = (clip > 60) & (found < 255)
    ratio = found[inside] / clip[inside]
    assert np.ptp(ratio) < 0.03 and 0.69 < ratio.mean() < 1.31
  assert (gain[video == 0] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('name', STRONG)
def test_every_strong_change_changes_the_strong_view_alone(name):
  largest = {'shadow': 1.0, 'dropout': 1.0, 'blur': 0.05, 'speckle': 0.4}
  config = dataclasses.replace(STILL, **{name: largest.get(name, 0.5)})
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


@pytest.mark.slow
def test_strong_changes_more_than_weak_and_both_are_coherent():
  """A still video stays nearly still: parameters belong to the clip."""
  still = np.stack([smooth_video(n)[:1].repeat(T, 0) for n in range(BATCH)])
  config = AugmentConfig(rotation_deg=0, scale=0, translation=0, speckle=0)
  out = draw(config, make_batch(video=still))
  for view in ('video_weak', 'video_strong'):
    assert (out[view] == out[view][:, :1]).all()
  weak, strong = (
    np.abs(out[view][..., 0].astype(int) - still).mean() for view in ('video_weak', 'video_strong')
  )
  assert strong > 2 * weak > 0


@pytest.mark.slow
def test_speckle_is_noise_about_the_frame_that_drifts():
  flat = np.full((BATCH, T, SIZE, SIZE), 100, np.uint8)
  config = dataclasses.replace(STILL, speckle=0.4)
  clips = draw(config, make_batch(video=flat))['video_strong'][..., 0] - 100.0
  assert np.abs(clips.mean((1, 2, 3))).max() < 4
  assert 10 < clips.std((1, 2, 3)).max() < 41
  noisiest = clips[clips.std((1, 2, 3)).argmax()].reshape(T, -1)
  alike = np.corrcoef(noisiest)[0]
  assert (np.diff(alike) < 0).all() and alike[1] > 0.8


@pytest.mark.slow
def test_shadow_follows_the_beam():
  """A shadow darkens one slope from the apex and spares the rest."""
  flat = np.full((BATCH, T, SIZE, SIZE), 100, np.uint8)
  config = dataclasses.replace(STILL, shadow=1)
  shadows = draw(config, make_batch(video=flat))['video_strong'][:, 0, ..., 0]
  rows = np.array([SIZE // 2, SIZE - 4])
  alike = []
  for out in shadows:
    assert out.min() < 70
    assert (out[-1] > 95).mean() > 0.2
    slopes = (out[rows].argmin(axis=1) - (SIZE - 1) / 2) / rows
    alike.append(abs(slopes[0] - slopes[1]) < 0.1)
  # Two shadows of one clip may be darkest in different rows.
  assert sum(alike) > BATCH / 2


@pytest.mark.parametrize(
  'values, text',
  [
    ({'temporal_jitter': 0.7}, 'temporal_jitter: found 0.7, wanted at most'),
    ({'blur': -1}, 'blur: found -1, wanted 0 or more'),
    ({'rotation_deg': 50}, 'at most 45'),
  ],
)
def test_misuse(values, text):
  with pytest.raises(InputError, match=text):
    AugmentConfig(**values)
