"""Every format in, one kind of clip out; every bad file one clear error."""

import fractions
import gzip
import math
import pathlib

import av
import numpy as np
import pydicom
from pydicom import examples
import pytest
import SimpleITK as sitk

from echoforge_jax.errors import InputError
from echoforge_jax.formats import dicom
from echoforge_jax.formats.readers import read_any, stem_of

REAL = examples.get_path('ybr_color')


def moving_square(frames=6, height=48, width=64):
  video = np.zeros((frames, height, width), np.uint8)
  for index in range(frames):
    video[index, 8:24, 4 * index : 4 * index + 16] = 200
  return video


def write_video(path, video, codec, pix_fmt, fps=40):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=fractions.Fraction(fps))
    stream.height, stream.width = video.shape[1:]
    stream.pix_fmt = pix_fmt
    for index, frame in enumerate(video):
      picture = av.VideoFrame.from_ndarray(np.repeat(frame[..., None], 3, -1), format='rgb24')
      picture.pts = index
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
  return path


def write_dicom(path, frames, **changes):
  """The real file's header around other, uncompressed pixels."""
  dataset = pydicom.dcmread(REAL)
  dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
  dataset.SamplesPerPixel = 1
  dataset.PhotometricInterpretation = 'MONOCHROME2'
  del dataset.PlanarConfiguration
  dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
  del dataset.PixelData
  dataset.PixelData = frames.tobytes()
  for name, value in changes.items():
    if value is None:
      delattr(dataset, name)
    else:
      setattr(dataset, name, value)
  dataset.save_as(path)
  return path


def region_of(dataset):
  return dataset.SequenceOfUltrasoundRegions[0]


def test_real_clip_region_of_the_original_is_rescaled():
  clip = read_any(REAL)
  assert clip.frames.shape == (30, 240, 320)
  assert clip.frames.dtype == np.uint8
  assert clip.fps == pytest.approx(30, abs=0.01)
  assert clip.region == (15, 42, 208, 298)
  # 0.05105 cm a pixel of the original, twice that of the half-size copy.
  assert clip.spacing_mm == pytest.approx((1.02099, 1.02099), abs=1e-4)
  assert 'region_rescaled' in clip.flags
  assert any('scaled down by 2' in note for note in clip.notes)
  assert 'duplicate_frames' in clip.flags


def test_region_inside_the_image_is_taken_as_it_is(tmp_path):
  frames = np.repeat(np.repeat(read_any(REAL).frames, 2, 1), 2, 2)
  clip = read_any(write_dicom(tmp_path / 'full.dcm', frames))
  assert clip.region == (31, 84, 415, 596)
  assert clip.spacing_mm == pytest.approx((0.5105, 0.5105), abs=1e-4)
  assert 'region_rescaled' not in clip.flags
  assert not clip.notes or 'repeat' in clip.notes[0]
  np.testing.assert_array_equal(clip.frames, frames)


def test_region_without_evidence_is_ignored(tmp_path):
  # The moving sector does not lie where any whole factor would put it.
  frames = np.roll(read_any(REAL).frames, -60, axis=2)[:, :, :240]
  clip = read_any(write_dicom(tmp_path / 'odd.dcm', frames))
  assert clip.region is None
  assert math.isnan(clip.spacing_mm[0])
  assert 'region_unusable' in clip.flags


def test_factor_needs_motion_and_a_clear_winner():
  frames = read_any(REAL).frames
  bounds = (31, 84, 415, 596)
  assert dicom.matching_factor(bounds, frames) == 2
  assert dicom.matching_factor(bounds, np.zeros_like(frames)) is None
  larger = tuple(2 * b for b in bounds)
  assert dicom.matching_factor(larger, frames) == 4


def test_dicom_without_region_or_rate(tmp_path):
  path = write_dicom(
    tmp_path / 'plain',
    moving_square(),
    SequenceOfUltrasoundRegions=None,
    FrameTime=None,
    FrameIncrementPointer=None,
  )
  clip = read_any(path)  # No extension: known by its magic number.
  assert clip.frames.shape == (6, 48, 64)
  assert math.isnan(clip.spacing_mm[0]) and math.isnan(clip.fps)
  path = write_dicom(
    tmp_path / 'cine',
    moving_square(),
    FrameTime=None,
    SequenceOfUltrasoundRegions=None,
    CineRate=50,
    PixelSpacing=[0.3, 0.2],
  )
  clip = read_any(path)
  assert clip.fps == 50
  assert clip.spacing_mm == (0.3, 0.2)


def test_dicom_with_single_numbers_where_lists_belong(tmp_path):
  path = write_dicom(
    tmp_path / 'one',
    moving_square(),
    FrameTime=None,
    SequenceOfUltrasoundRegions=None,
    FrameTimeVector=[20],
    PixelSpacing=[0.3],
  )
  clip = read_any(path)
  assert math.isnan(clip.spacing_mm[0]) and math.isnan(clip.fps)


def test_inverted_and_sixteen_bit_dicom(tmp_path):
  video = moving_square()
  none = dict(SequenceOfUltrasoundRegions=None)
  inverted = write_dicom(tmp_path / 'a', video, **none, PhotometricInterpretation='MONOCHROME1')
  np.testing.assert_array_equal(read_any(inverted).frames, 255 - video)
  deep = write_dicom(
    tmp_path / 'b', video.astype('<u2') * 257, **none, BitsAllocated=16, BitsStored=16, HighBit=15
  )
  np.testing.assert_allclose(read_any(deep).frames, video, atol=1)


@pytest.mark.parametrize('name', ['SC_rgb_rle_2frame.dcm'])
def test_color_dicom_becomes_luma(name):
  path = pathlib.Path(REAL).parent / name
  color = pydicom.dcmread(path).pixel_array.astype(float)
  expected = color @ [0.299, 0.587, 0.114]
  np.testing.assert_allclose(read_any(path).frames, expected, atol=1)


@pytest.mark.parametrize(
  'name,codec,pix_fmt,tolerance',
  [
    ('clip.avi', 'mjpeg', 'yuvj420p', 12),
    ('clip.mp4', 'libx264', 'yuv420p', 16),
    ('CLIP.GIF', 'gif', 'rgb8', 40),
  ],
)
def test_videos(tmp_path, name, codec, pix_fmt, tolerance):
  video = moving_square()
  path = tmp_path / name
  write_video(path, video, codec, pix_fmt)
  clip = read_any(path)
  assert clip.frames.shape == video.shape
  assert clip.fps == pytest.approx(40, rel=0.3 if codec == 'gif' else 1e-3)
  assert math.isnan(clip.spacing_mm[0])
  error = np.abs(clip.frames.astype(int) - video)
  assert np.quantile(error, 0.95) <= tolerance


@pytest.mark.parametrize('suffix', ['.nii.gz', '.nii', '.mha', '.mhd'])
def test_volumes(tmp_path, suffix):
  video = moving_square()
  image = sitk.GetImageFromArray(video)
  image.SetSpacing((0.154, 0.308, 1.0))
  sitk.WriteImage(image, str(tmp_path / f'clip{suffix}'))
  clip = read_any(tmp_path / f'clip{suffix}')
  np.testing.assert_array_equal(clip.frames, video)
  assert clip.spacing_mm == pytest.approx((0.308, 0.154))
  assert math.isnan(clip.fps)


def test_default_spacing_is_unknown(tmp_path):
  sitk.WriteImage(sitk.GetImageFromArray(moving_square()), str(tmp_path / 'a.nii.gz'))
  assert math.isnan(read_any(tmp_path / 'a.nii.gz').spacing_mm[0])


def test_numpy_arrays(tmp_path):
  video = moving_square()
  np.save(tmp_path / 'a.npy', video)
  np.testing.assert_array_equal(read_any(tmp_path / 'a.npy').frames, video)
  np.save(tmp_path / 'f.npy', video / np.float32(255))
  np.testing.assert_array_equal(read_any(tmp_path / 'f.npy').frames, video)
  color = np.repeat(video[..., None], 3, -1)
  np.savez(tmp_path / 'b.npz', frames=color, spacing_mm=[0.3, 0.2], fps=44.0)
  clip = read_any(tmp_path / 'b.npz')
  np.testing.assert_array_equal(clip.frames, video)
  assert (clip.spacing_mm, clip.fps) == ((0.3, 0.2), 44.0)


def bad_files(folder: pathlib.Path):
  video = moving_square()
  real = pathlib.Path(REAL).read_bytes()
  (folder / 'empty.avi').write_bytes(b'')
  (folder / 'text.mp4').write_text('not a video\n' * 50)
  (folder / 'text.nii.gz').write_text('not an image\n' * 50)
  (folder / 'text.npy').write_text('not an array\n' * 50)
  (folder / 'text.dcm').write_text('not a DICOM\n' * 50)
  (folder / 'notes.txt').write_text('hello\n')
  (folder / 'short.dcm').write_bytes(real[: len(real) // 2])
  (folder / 'shorter.dcm').write_bytes(real[:400])
  write_video(folder / 'whole.mp4', video, 'libx264', 'yuv420p')
  whole = (folder / 'whole.mp4').read_bytes()
  (folder / 'whole.mp4').unlink()
  (folder / 'short.mp4').write_bytes(whole[: len(whole) // 2])
  sitk.WriteImage(sitk.GetImageFromArray(video), str(folder / 'short.nii.gz'))
  whole = (folder / 'short.nii.gz').read_bytes()
  (folder / 'short.nii.gz').write_bytes(whole[: len(whole) // 2])
  # SimpleITK alone reads these three, and makes up what is not there.
  (folder / 'shorter.nii.gz').write_bytes(whole[:-12])
  (folder / 'cut.nii').write_bytes(gzip.decompress(whole)[:-99])
  nan = np.where(video > 0, np.nan, video).astype(np.float32)
  sitk.WriteImage(sitk.GetImageFromArray(nan), str(folder / 'nan.nii'))
  np.save(folder / 'zero.npy', video[:0])
  np.save(folder / 'nan.npy', np.full((4, 32, 32), np.nan, np.float32))
  np.save(folder / 'range.npy', np.full((4, 32, 32), 4000, np.int16))
  np.save(folder / 'tiny.npy', video[:, :8, :8])
  np.save(folder / 'objects.npy', np.array([{}, {}]), allow_pickle=True)
  np.savez(folder / 'unnamed.npz', a=video, b=video)
  write_dicom(folder / 'ct.dcm', video, Modality='CT')
  write_dicom(folder / 'rows.dcm', video, Rows=None)
  (folder / 'folder.avi').mkdir()
  return [*folder.iterdir(), folder / 'missing.avi']


def test_every_bad_file_is_one_clear_error(tmp_path):
  paths = bad_files(tmp_path)
  assert len(paths) >= 20
  for path in paths:
    with pytest.raises(InputError) as caught:
      read_any(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert '\n' not in message and len(message) < 700, message


def test_stems():
  assert stem_of('a/patient0001_4CH.nii.gz') == 'patient0001_4CH'
  assert stem_of('b.c/Clip.v2.AVI') == 'Clip.v2'
  assert stem_of('IM0001') == 'IM0001'
  assert stem_of('.avi') == '.avi'
