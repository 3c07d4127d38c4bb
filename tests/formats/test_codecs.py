"""Compressed DICOM: every transfer syntax gives the pixels that went in."""

import fractions
import io
import pathlib

import av
import gdcm
import numpy as np
import pydicom
from pydicom import encaps, examples, uid
from pydicom.data import get_testdata_file
import pytest

from echoforge_jax.formats import dicom, sector
from echoforge_jax.formats.readers import read_any

REAL = pathlib.Path(examples.get_path('ybr_color'))
LOSSLESS = {
  'rle': gdcm.TransferSyntax.RLELossless,
  'jpeg_lossless': gdcm.TransferSyntax.JPEGLosslessProcess14_1,
  'jpeg_lossless_14': gdcm.TransferSyntax.JPEGLosslessProcess14,
  'jpeg_ls': gdcm.TransferSyntax.JPEGLSLossless,
  'jpeg_2000': gdcm.TransferSyntax.JPEG2000Lossless,
}


def plain_dicom(path, color, frames=3):
  """A few uncompressed frames of the real clip, gray or RGB."""
  dataset = pydicom.dcmread(REAL)
  pixels = dataset.pixel_array[:frames]
  pixels = pixels if color else np.ascontiguousarray(pixels[..., 1])
  dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  dataset.SamplesPerPixel = 3 if color else 1
  dataset.PhotometricInterpretation = 'RGB' if color else 'MONOCHROME2'
  dataset.PlanarConfiguration = 0
  dataset.NumberOfFrames = frames
  dataset.PixelData = pixels.tobytes()
  dataset['PixelData'].VR = 'OW'
  dataset.save_as(path)
  return path


def transcoded(source, path, syntax):
  reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
  reader.SetFileName(str(source))
  assert reader.Read()
  change = gdcm.ImageChangeTransferSyntax()
  change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
  change.SetInput(reader.GetImage())
  assert change.Change()
  writer.SetFileName(str(path))
  writer.SetFile(reader.GetFile())
  writer.SetImage(change.GetOutput())
  assert writer.Write()
  return path


@pytest.mark.slow
@pytest.mark.parametrize('color', [False, True])
@pytest.mark.parametrize('name', LOSSLESS)
def test_lossless_syntaxes(tmp_path, name, color):
  plain = plain_dicom(tmp_path / 'plain.dcm', color)
  packed = transcoded(plain, tmp_path / 'packed.dcm', LOSSLESS[name])
  syntax = pydicom.dcmread(packed).file_meta.TransferSyntaxUID
  assert syntax.is_compressed
  # GDCM checks its input least: it serves only where nothing else does.
  assert (dicom._plugin(syntax) == '') == name.startswith('jpeg_lossless')
  error = np.abs(read_any(packed).frames.astype(int) - read_any(plain).frames)
  assert error.max() <= (1 if color else 0)


def test_video_in_dicom(tmp_path):
  source = read_any(REAL).frames
  film = io.BytesIO()
  with av.open(film, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=fractions.Fraction(30))
    stream.height, stream.width, stream.pix_fmt = 240, 320, 'yuv420p'
    for frame in source:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='gray')))
    container.mux(stream.encode())
  dataset = pydicom.dcmread(REAL)
  dataset.file_meta.TransferSyntaxUID = uid.MPEG4HP41
  dataset.PixelData = encaps.encapsulate([film.getvalue()])
  dataset.save_as(tmp_path / 'film.dcm')
  clip = read_any(tmp_path / 'film.dcm')
  assert clip.frames.shape == source.shape
  assert np.abs(clip.frames.astype(int) - source).mean() < 3
  assert clip.fps == pytest.approx(30, abs=0.01)
  assert 'fewer_frames' not in clip.flags


@pytest.mark.slow
def test_the_same_clip_in_full():
  path = get_testdata_file('color3d_jpeg_baseline.dcm')
  clip = read_any(path)
  assert clip.frames.shape == (120, 480, 640)
  assert clip.spacing_mm == pytest.approx((0.5105, 0.5105), abs=1e-4)
  assert clip.fps == pytest.approx(30, abs=0.01)
  assert clip.region == (31, 84, 415, 596)
  assert clip.flags == ('duplicate_frames',)
  found = sector.find_sector(clip.frames, clip.region)
  free = sector.find_sector(clip.frames)
  for box in (found.box, free.box):
    # The region without the empty rows below the arc.
    assert np.abs(np.asarray(box) - (41, 84, 408, 596)).max() <= 6
  assert found.fit > 0.97 and free.fit > 0.97
  assert not found.inside[:30, :120].any()  # The captions.
  assert not found.inside[450:].any() and not found.inside[:, 600:].any()
