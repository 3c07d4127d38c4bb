"""What a segmented clip leaves on disk."""

import json
import math
import pathlib

import av
import numpy as np
from pydicom import examples
import pytest
import SimpleITK as sitk

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.inference import batch, outputs
from tests.inference.clips import measured

KEYS = {
  'frames',
  'fps',
  'spacing_mm',
  'ed_frame',
  'es_frame',
  'edv_ml',
  'esv_ml',
  'ef_percent',
  'flags',
  'area_mm2',
  'model',
  'disclaimer',
}
# Written on request only.
FILES = set(outputs.NAMES) - {'probability.nii.gz'}


def beating_clip(frames=9, shape=(61, 83)):
  """A dark beating disc in noise, and its masks; odd sides on purpose."""
  generator = np.random.default_rng(0)
  rows, columns = np.mgrid[: shape[0], : shape[1]]
  video = generator.integers(60, 160, (frames, *shape), dtype=np.uint8)
  masks = np.zeros_like(video)
  for index in range(frames):
    radius = 16 + 4 * math.cos(2 * math.pi * index / frames)
    inside = np.hypot(rows - 30, columns - 40) < radius
    video[index][inside] //= 4
    masks[index][inside] = 1
  return video, masks


def beating(spacing=(1.5, 1.2), fps=30.0):
  video, masks = beating_clip()
  return measured(masks, spacing, fps, frames=video)


def strict(path):
  def refuse(token):
    raise AssertionError(f'{token} is not JSON')

  return json.loads(pathlib.Path(path).read_text(), parse_constant=refuse)


def decoded(path):
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    return (
      frames,
      stream.codec_context.name,
      stream.codec_context.pix_fmt,
      float(stream.average_rate),
    )


@pytest.mark.slow
def test_real_clip_end_to_end(segmenter, tmp_path):
  result = batch.segment_file(
    examples.get_path('ybr_color'), segmenter, lag=0, out_dir=tmp_path
  ).content
  assert {path.name for path in tmp_path.iterdir()} == FILES
  assert strict(tmp_path / 'result.json') == result
  assert set(result) >= KEYS
  assert result['frames'] == 30 and len(result['area_px']) == 30
  assert result['spacing_mm'] == pytest.approx([1.02099] * 2, abs=1e-4)
  assert set(result['flag_details']) == set(result['flags'])
  assert 'region_rescaled' in result['flags']
  assert 'not for clinical use' in result['disclaimer']
  masks = sitk.ReadImage(str(tmp_path / 'masks.nii.gz'))
  assert masks.GetSize() == (320, 240, 30)
  assert masks.GetSpacing()[:2] == pytest.approx([1.02099] * 2, abs=1e-4)
  array = sitk.GetArrayFromImage(masks)
  assert (array == 1).sum(axis=(1, 2)).tolist() == result['area_px']
  frames, codec, pixel_format, rate = decoded(tmp_path / 'overlay.mp4')
  assert len(frames) == 30
  assert (codec, pixel_format) == ('h264', 'yuv420p')
  assert rate == pytest.approx(30, abs=0.01)


def test_overlay_shows_the_mask(tmp_path):
  outputs.write_overlay(tmp_path / 'a.mp4', beating())
  frames, *_ = decoded(tmp_path / 'a.mp4')
  assert len(frames) == 9
  assert all(side % 2 == 0 for side in frames[0].shape[:2])
  scale = 7  # 384 / 61, rounded up.
  red = frames[0][..., 0].astype(int) - frames[0][..., 2]
  inside = red[30 * scale, 40 * scale]
  assert inside > 20 and abs(red[30 * scale, 2 * scale]) < 15
  boundary = red[30 * scale, 40 * scale : 70 * scale].max()
  assert boundary > 100


def test_unknowns_are_null(tmp_path):
  clip = beating(None, None)
  textio.write_json(tmp_path / 'result.json', outputs.result_of('x.npy', clip))
  result = strict(tmp_path / 'result.json')
  for key in ('fps', 'spacing_mm', 'edv_ml', 'esv_ml', 'area_mm2'):
    assert result[key] is None, key
  assert 0 < result['ef_percent'] < 90
  outputs.write_overlay(tmp_path / 'a.mp4', clip)
  outputs.write_curve(tmp_path / 'a.png', clip)
  outputs.write_masks(tmp_path / 'a.nii.gz', clip.masks, clip.clip.spacing_mm)
  assert sitk.ReadImage(str(tmp_path / 'a.nii.gz')).GetSpacing() == (1, 1, 1)


def test_no_cavity_still_leaves_every_file(tmp_path):
  video, masks = beating_clip(frames=2)
  clip = measured(np.zeros_like(masks), frames=video)
  outputs.write_overlay(tmp_path / 'a.mp4', clip)
  outputs.write_sheet(tmp_path / 'a.png', clip)
  outputs.write_curve(tmp_path / 'b.png', clip)
  assert len(decoded(tmp_path / 'a.mp4')[0]) == 2


def test_probability_lies_in_the_box(tmp_path):
  masks = np.zeros((2, 64, 80), np.uint8)
  clip = measured(masks, box=(-8, 16, 56, 80))  # It reaches out of the image.
  clip.found.probability[:] = 255
  outputs.write_probability(tmp_path / 'p.nii.gz', clip)
  found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / 'p.nii.gz')))
  assert (found[:, :56, 16:] == 255).all()
  assert not found[:, 56:].any() and not found[:, :, :16].any()


@pytest.mark.slow
def test_bad_inputs_do_not_stop_the_rest(segmenter, tmp_path):
  video, _ = beating_clip()
  (tmp_path / 'a').mkdir()
  good, twin = tmp_path / 'clip.npy', tmp_path / 'a' / 'clip.npz'
  np.save(good, video)
  np.savez(twin, frames=video, spacing_mm=[1.0, 1.1], fps=20.0)
  bad = tmp_path / 'bad.mp4'
  bad.write_text('text')
  lines = []
  results, failures = batch.segment_files(
    segmenter,
    [good, bad, tmp_path / 'none.avi', twin],
    tmp_path / 'out',
    fps=25.0,
    report=lines.append,
  )
  assert set(results) == {'clip', 'clip-2'}
  assert set(failures) == {str(bad), str(tmp_path / 'none.avi')}
  assert len(lines) == 4
  assert lines[1].startswith(f'error: {bad}')
  assert results['clip']['fps'] == results['clip-2']['fps'] == 25.0
  assert results['clip-2']['spacing_mm'] == [1.0, 1.1]
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {'clip', 'clip-2'}


def test_a_file_in_the_way_of_out(segmenter, tmp_path):
  video, _ = beating_clip()
  np.save(tmp_path / 'clip.npy', video)
  (tmp_path / 'out').write_text('')
  with pytest.raises(InputError, match='cannot be written'):
    batch.segment_files(segmenter, [tmp_path / 'clip.npy'], tmp_path / 'out')
