"""The sector: found under text and borders, mapped back exactly."""

import cv2
import numpy as np
from pydicom import examples
import pytest

from echoforge_jax.formats import sector as sectors
from echoforge_jax.formats.readers import read_any


def speckled_sector(shape, apex, radius, half_angle, frames=8, seed=0):
  """Flickering noise in a sector, black elsewhere; and where it is."""
  inside = sectors.sector_pixels(shape, apex, radius, (half_angle, half_angle))
  noise = np.random.default_rng(seed).integers(5, 200, (frames, *shape), dtype=np.uint8)
  return np.where(inside, noise, 0).astype(np.uint8), inside


def with_text(video):
  """Static captions, a ruler and a bright panel, as scanners burn in."""
  video = video.copy()
  for frame in video:
    cv2.putText(frame, 'MI 0.9', (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255)
    cv2.putText(frame, 'P21', (frame.shape[1] - 36, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255)
    frame[-10:, 20:-20] = 90
    frame[20:-20:10, -4:] = 255
  return video


def box_error(found, truth):
  rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
  wanted = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
  return max(abs(a - b) for a, b in zip(found, wanted))


@pytest.mark.parametrize(
  'shape,apex,radius,half_angle',
  [
    ((240, 320), (20, 160), 180, 0.68),
    ((480, 640), (40, 300), 380, 0.8),
    ((300, 300), (30, 140), 220, 0.5),
  ],
)
def test_sector_is_found_among_text(shape, apex, radius, half_angle):
  video, inside = speckled_sector(shape, apex, radius, half_angle)
  found = sectors.find_sector(with_text(video))
  assert found.found and found.fit > 0.93
  assert box_error(found.box, inside) <= 0.02 * max(shape)
  # Nothing of the text reaches the network, all of the sector does.
  cropped = found.crop(with_text(video)[0])
  clean = found.crop(video[0])
  assert (cropped != clean).mean() < 0.002
  assert clean.astype(int).sum() > 0.98 * video[0].astype(int).sum()


def test_dark_side_is_completed_by_the_fit():
  video, inside = speckled_sector((240, 320), (20, 160), 190, 0.7)
  columns = np.arange(320)
  video[:, :, columns > 215] = 0  # A shadow over the right edge.
  found = sectors.find_sector(video)
  assert found.found
  assert found.extent[3] < 225
  assert box_error(found.box, inside) <= 20


def test_flicker_of_a_lossy_codec_is_no_sector():
  video, inside = speckled_sector((240, 320), (20, 160), 180, 0.68)
  noise = np.random.default_rng(1).integers(0, 7, video.shape)
  found = sectors.find_sector(np.clip(video.astype(int) + noise, 0, 255).astype(np.uint8))
  assert box_error(found.box, inside) <= 8


def with_trace(video, row, thick, sweeping):
  """An ECG trace of 30 beats a clip: scrolling, or drawn by a cursor."""
  video = video.copy()
  columns = np.arange(video.shape[2])
  for index, frame in enumerate(video):
    phase = (columns + (0 if sweeping else 9 * index)) % 90
    beat = 22 * np.exp(-(((phase - 40) / 3.0) ** 2)) + 6 * np.exp(-(((phase - 62) / 7.0) ** 2))
    points = np.stack([columns, row - beat], 1).round().astype(np.int32)
    until = (index + 1) * len(points) // len(video) if sweeping else None
    cv2.polylines(frame, [points[:until]], False, 200, thick)
  return video


@pytest.mark.slow
@pytest.mark.parametrize('sweeping', [False, True])
@pytest.mark.parametrize('below', [25, -2, -20])  # The arc; over its end.
@pytest.mark.parametrize('thick', [1, 3])
def test_an_ecg_trace_is_no_ultrasound(below, thick, sweeping):
  video, inside = speckled_sector((480, 640), (40, 300), 380, 0.75, frames=24)
  found = sectors.find_sector(with_trace(with_text(video), 420 + below, thick, sweeping))
  assert found.found and found.fit > 0.93
  assert box_error(found.box, inside) <= 10


def test_crops_are_taken_whole():
  # As CAMUS: apex at the top border, radius the image's height.
  video, _ = speckled_sector((200, 242), (0, 121), 199, 0.65)
  found = sectors.find_sector(video)
  assert found.box == (0, 0, 200, 242) and found.inside is None
  np.testing.assert_array_equal(found.crop(video[0]), video[0])


def test_nothing_to_see():
  found = sectors.find_sector(np.zeros((4, 60, 80), np.uint8))
  assert not found.found and found.box == (0, 0, 60, 80)


def test_region_bounds_the_search():
  left, _ = speckled_sector((200, 400), (10, 100), 160, 0.5, seed=1)
  right, inside = speckled_sector((200, 400), (10, 300), 170, 0.5, seed=2)
  found = sectors.find_sector(left | right, region=(0, 205, 200, 400))
  assert box_error(found.box, inside) <= 6


@pytest.mark.parametrize('box', [(5, 7, 40, 50), (-8, 10, 50, 90), (10, -6, 70, 60)])
def test_paste_is_the_inverse_of_crop(box):
  frame = np.random.default_rng(0).integers(1, 255, (60, 80), dtype=np.uint8)
  sector = sectors.Sector(box, box, None, True)
  crop = sector.crop(frame)
  assert crop.shape == (box[2] - box[0], box[3] - box[1])
  pasted = sector.paste(crop, frame.shape)
  top, left = max(box[0], 0), max(box[1], 0)
  window = np.s_[top : min(box[2], 60), left : min(box[3], 80)]
  np.testing.assert_array_equal(pasted[window], frame[window])
  pasted[window] = 0
  assert not pasted.any()


def test_depth_is_limited_to_what_training_knows():
  sector = sectors.Sector((10, 40, 210, 290), (10, 40, 210, 290), None, True)
  same = sectors.limit_depth(sector, 0.8)
  assert same is sector
  assert sectors.limit_depth(sector, float('nan')) is sector
  deep = sectors.limit_depth(sector, 1.2)  # 240 mm -> 180 mm.
  assert deep.box == (10, 71, 160, 259)


def test_real_clip():
  clip = read_any(examples.get_path('ybr_color'))
  region = np.asarray([15, 42, 208, 298])
  free = sectors.find_sector(clip.frames)
  assert np.abs(np.asarray(free.box) - region).max() <= 8
  found = sectors.find_sector(clip.frames, clip.region)
  assert np.abs(np.asarray(found.box) - region).max() <= 3
  assert found.fit > 0.93
  # The captions (left, right, below) are blanked.
  assert not found.inside[:14, :60].any()
  assert not found.inside[220:].any()
  assert not found.inside[60:90, 302:].any()


def torn(video, apex, radius):
  """Black cavities that leave the sector in pieces."""
  rows, columns = np.mgrid[: video.shape[1], : video.shape[2]]
  down, across = rows - apex[0], columns - apex[1]
  cavity = np.hypot(down / radius - 0.5, 2.6 * across / radius) < 0.3
  strip = np.abs(down - 0.62 * radius) < 0.06 * radius
  return np.where(cavity | strip, 0, video).astype(np.uint8)


@pytest.mark.parametrize('frames', [1, 8])
def test_black_blood_does_not_tear_the_sector(frames):
  apex, radius = (20, 160), 190
  video, inside = speckled_sector((240, 320), apex, radius, 0.68, frames)
  found = sectors.find_sector(torn(video, apex, radius))
  assert found.found and found.fit > 0.9
  assert box_error(found.box, inside) <= 8


def test_small_images_are_taken_whole_unless_the_sector_is_plain():
  # As EchoNet: a sector cut at the side, marks beside it.
  video, _ = speckled_sector((112, 112), (8, 80), 96, 0.75)
  video[:, 40:, 84:] = 0  # Nothing but the left half is seen.
  assert sectors.find_sector(video).box == (0, 0, 112, 112)
  plain, inside = speckled_sector((112, 112), (20, 56), 70, 0.6)
  assert box_error(sectors.find_sector(plain).box, inside) <= 3
