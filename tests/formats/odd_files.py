"""Writers of malformed and odd clips, for test_odd_inputs.py.

A row is (name, writer, wanted): texts of which the refusal must hold one
(split by |), or the flags that a clip which is taken must carry.
"""

import gzip
import os
import pathlib
import struct
import zipfile

import av
import cv2
import numpy as np
from PIL import Image
import pydicom
from pydicom import encaps, examples, uid
import SimpleITK as sitk

from echoforge_jax.formats import sector as sectors

REAL = examples.get_path('ybr_color')


def speckle(frames=12, height=96, width=128, seed=0):
  """Speckle in a sector, black around it: uint8 [T, H, W]."""
  inside = sectors.sector_pixels((height, width), (6, width / 2), 0.85 * height, (0.6, 0.6))
  noise = np.random.default_rng(seed).integers(5, 200, (frames, height, width), dtype=np.uint8)
  return np.where(inside, noise, 0).astype(np.uint8)


def colored(video, weights=(1, 1, 1)):
  return (video[..., None] * np.asarray(weights)).astype(np.uint8)


def flow(video):
  """Red and blue patches over the gray image, as color Doppler paints."""
  color = colored(video)
  height, width = video.shape[1:]
  row, column, side = height // 2, width // 2, height // 7
  for index, frame in enumerate(color):
    away = index % 4 < 2
    frame[row : row + side, column : column + side] = (220, 60, 20) if away else (20, 70, 230)
  return color


def trace(video):
  """A green ECG trace that runs across the lower edge of the sector."""
  color = colored(video)
  height, width = video.shape[1:]
  columns = np.arange(width)
  for index, frame in enumerate(color):
    beat = np.exp(-((((columns + 7 * index) % 50 - 20) / 2.0) ** 2))
    points = np.stack([columns, 0.88 * height - 12 * beat], 1)
    cv2.polylines(frame, [points.round().astype(np.int32)], False, (40, 230, 60), 1)
  return color


def npy(array):
  return lambda path: np.save(path, array, allow_pickle=True)


def raw_bytes(content):
  return lambda path: path.write_bytes(content)


def npy_header(shape):
  text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
  text += ' ' * (117 - len(text)) + '\n'
  return raw_bytes(b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text.encode() + bytes(64))


def numpy_rows():
  video, rgb = speckle(), colored(speckle())
  unit = video / np.float32(255)
  infinite = np.where(video > 190, np.inf, video).astype(np.float32)
  return [
    ('zero.npy', npy(video[:0]), 'found no frame'),
    ('none.npy', npy(np.zeros((4, 0, 0), np.uint8)), 'frames of 0x0'),
    ('black.npy', npy(np.zeros_like(video)), 'gray level 0'),
    ('white.npy', npy(np.full_like(video, 255)), 'gray level 255'),
    ('nan.npy', npy(video * np.float32('nan')), 'not finite'),
    ('inf.npy', npy(infinite), 'not finite'),
    ('wide.npy', npy(video.astype(np.uint16) * 200), 'rescale the clip'),
    ('minus.npy', npy(video.astype(np.int16) - 90), 'values from -90'),
    ('complex.npy', npy(video.astype(np.complex64)), 'type complex64'),
    ('text.npy', npy(np.full((4, 32, 32), 'a')), 'type <U1'),
    ('five.npy', npy(video[None, ..., None]), 'shape [1, 12, 96, 128, 1]'),
    ('one.npy', npy(video.ravel()), 'found an array of shape'),
    ('tiny.npy', npy(video[:, :12, :12]), 'frames of 12x12'),
    ('long.npy', npy(np.zeros((2, 20, 5000), np.uint8)), 'of 20x5000'),
    ('objects.npy', npy(np.array([{}, video], object)), 'never loaded'),
    ('pickle.npy', raw_bytes(b'\x80\x04]\x94.'), 'never loaded'),
    ('lying.npy', npy_header('(900000, 64, 64)'), 'damaged'),
    ('negative.npy', npy_header('(-4, 64, 64)'), 'damaged'),
    ('cut.npy', raw_bytes(b'\x93NUMPY\x01\x00'), 'damaged'),
    (
      'bomb.npz',
      lambda p: np.savez_compressed(p, frames=np.zeros((500, 512, 256), np.uint8)),
      'unpack to',
    ),
    ('two.npz', lambda p: np.savez(p, a=video, b=video), 'named "frames"'),
    ('zip.npz', lambda p: zipfile.ZipFile(p, 'w').close(), 'arrays []'),
    ('spacing.npz', lambda p: np.savez(p, frames=video, spacing_mm='x'), 'two numbers'),
    (
      'far.npz',
      lambda p: np.savez(p, frames=video, spacing_mm=[80, 80]),
      {'spacing_implausible', 'spacing_unknown'},
    ),
    (
      'back.npz',
      lambda p: np.savez(p, frames=video, spacing_mm=[-1, 0.3], fps=-4),
      {'spacing_unknown'},
    ),
    ('flow.npy', npy(flow(video)), 'color Doppler'),
    ('tint.npy', npy(colored(video, (1, 0.7, 0.3))), set()),
    ('trace.npy', npy(trace(video)), set()),
    ('rgb.npy', npy(rgb), set()),
    ('unit.npy', npy(unit), set()),
    ('bool.npy', npy(video > 90), set()),
    ('still.npy', npy(video[:1]), {'still_image'}),
    ('flat.npy', npy(video[0]), {'still_image'}),
    ('same.npy', npy(np.repeat(video[:1], 20, 0)), {'still_image'}),
    ('pair.npy', npy(video[:2]), {'few_frames'}),
    ('many.npy', npy(speckle(2000, 64, 64)), set()),
    ('small.npy', npy(speckle(12, 64, 64)), set()),
    ('large.npy', npy(speckle(3, 1024, 1280)), {'few_frames'}),
    ('portrait.npy', npy(speckle(12, 300, 160)), set()),
    ('inverted.npy', npy(255 - video), {'bright_background'}),
    (
      'square.npy',
      npy(np.pad(video[:, 20:60, 44:84], [(0, 0), (20, 60), (44, 44)])),
      {'not_a_sector'},
    ),
    ('dim.npy', npy(video // 32), {'low_contrast'}),
  ]


def real_dicom(pixels=None, **changes):
  """The real clip's header, other pixels, other fields (None removes one)."""

  def write(path):
    dataset = pydicom.dcmread(REAL)
    if pixels is not None:
      dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
      dataset.SamplesPerPixel = 1 if pixels.ndim == 3 else 3
      dataset.PlanarConfiguration = 0
      dataset.PhotometricInterpretation = 'MONOCHROME2' if pixels.ndim == 3 else 'RGB'
      dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape[:3]
      dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
      dataset.HighBit = dataset.BitsStored - 1
      dataset.SequenceOfUltrasoundRegions = []
      dataset.PixelData = pixels.tobytes()
      dataset['PixelData'].VR = 'OW'
    for name, value in changes.items():
      if value is None:
        delattr(dataset, name)
      else:
        setattr(dataset, name, value)
    dataset.save_as(path)

  return write


def dicom_rows():
  video, whole = speckle(), pathlib.Path(REAL).read_bytes()
  garbage = encaps.encapsulate([b'no picture at all'] * 30)
  m_mode = pydicom.Dataset()
  m_mode.RegionSpatialFormat = 2
  times = dict(FrameTime=None, FrameTimeVector=[0, 30, -4, 30, 2, *[30] * 7])
  return [
    ('half.dcm', raw_bytes(whole[: len(whole) // 2]), 'cut short'),
    ('head.dcm', raw_bytes(whole[:200]), 'no image'),
    ('magic.dcm', raw_bytes(bytes(128) + b'DICM'), 'damaged|no image'),
    ('noise.dcm', raw_bytes(bytes(128) + b'DICM' + os.urandom(900)), 'damaged|no image|modality'),
    ('plain.dcm', raw_bytes(b'not a DICOM file\n' * 30), 'damaged'),
    ('fragments.dcm', real_dicom(PixelData=garbage), 'cannot be decoded'),
    ('codec', real_dicom(video, PixelData=b'\0' * 10), 'cannot be decoded'),
    ('report', real_dicom(PixelData=None), 'no image'),
    ('ct.dcm', real_dicom(Modality='CT'), 'modality CT'),
    ('mmode.dcm', real_dicom(video, SequenceOfUltrasoundRegions=[m_mode]), 'M-mode'),
    ('rows.dcm', real_dicom(Rows=None), 'missing or no number'),
    ('none.dcm', real_dicom(video, Rows=0), 'frames of 0x'),
    ('huge.dcm', real_dicom(video, NumberOfFrames=900000), 'GiB'),
    ('more.dcm', real_dicom(video, NumberOfFrames=99), 'cannot be decoded'),
    ('flow.dcm', real_dicom(flow(video)), 'color Doppler'),
    ('sixteen.dcm', real_dicom(video.astype(np.uint16) * 257), set()),
    ('still.dcm', real_dicom(video[:1]), {'still_image'}),
    ('times.dcm', real_dicom(video, **times), {'uneven_frames'}),
    ('zero.dcm', real_dicom(video, FrameTime=0), {'fps_unknown'}),
    ('seconds.dcm', real_dicom(video, FrameTime=0.033), {'fps_implausible', 'fps_unknown'}),
    ('far.dcm', real_dicom(video, PixelSpacing=[99, 99]), {'spacing_implausible'}),
    ('anonymous.dcm', real_dicom(video, PatientName=None, StudyID=None), set()),
  ]


def sound(path, codec='aac'):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=8000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32 if codec == 'aac' else np.int16),
      format='fltp' if codec == 'aac' else 's16',
      layout='mono',
    )
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def film(video, codec='mjpeg', pix_fmt='yuvj420p'):
  def write(path):
    with av.open(str(path), 'w') as container:
      stream = container.add_stream(codec, rate=30)
      stream.height, stream.width = video.shape[1:3]
      stream.pix_fmt = pix_fmt
      for frame in video if video.ndim == 4 else colored(video):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
      container.mux(stream.encode())

  return write


def cut(write, share):
  def write_part(path):
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

  return write_part


def video_rows():
  video = speckle()
  mp4 = film(video, 'libx264', 'yuv420p')
  return [
    ('empty.avi', raw_bytes(b''), 'empty file'),
    ('text.mp4', raw_bytes(b'words ' * 99), 'cannot be decoded'),
    ('cut.mp4', cut(mp4, 0.5), 'cannot be decoded'),
    ('audio.mp4', sound, 'audio streams only'),
    ('audio.avi', lambda p: sound(p, 'pcm_s16le'), 'audio streams only'),
    ('flow.avi', film(flow(video)), 'color Doppler'),
    ('trace.avi', film(trace(video)), set()),
    (
      'named_mp4.avi',
      lambda p: (mp4(p.with_suffix('.mp4')), p.with_suffix('.mp4').rename(p)),
      set(),
    ),
    ('still.avi', film(video[:1]), {'still_image'}),
    ('still.gif', lambda p: Image.fromarray(video[0]).save(p), {'still_image'}),
  ]


def volume(video, spacing=(0.4, 0.4, 1)):
  def write(path):
    image = sitk.GetImageFromArray(video)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))

  return write


def patched(offset, content):
  """A NIfTI file with other bytes in its header."""

  def write(path):
    volume(speckle())(path)
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)

  return write


def volume_rows():
  bomb = bytearray(352)
  bomb[:4], bomb[40:56] = (struct.pack('<i', 348), struct.pack('<8h', 3, 512, 512, 999, 1, 1, 1, 1))
  bomb[70:74], bomb[108:112] = struct.pack('<2h', 2, 8), struct.pack('<f', 352)
  return [
    ('text.nii.gz', raw_bytes(b'words ' * 99), 'NIfTI-1 header'),
    ('size.nii', patched(40, struct.pack('<4h', 3, -5, 96, 12)), 'senseless'),
    ('type.nii', patched(70, struct.pack('<2h', 16, 8)), 'senseless'),
    ('big.nii', patched(40, struct.pack('<4h', 3, 30000, 30000, 9)), 'GiB'),
    ('zeros.nii.gz', raw_bytes(gzip.compress(bytes(bomb) + bytes(10**6))), 'GiB'),
    ('cut.nii.gz', cut(volume(speckle()), 0.6), 'ends early'),
    ('cut.mha', cut(volume(speckle()), 0.4), 'bytes of voxels'),
    ('cut.nrrd', cut(volume(speckle()), 0.4), 'cannot be read'),
    (
      'alone.mhd',
      lambda p: (volume(speckle())(p), p.with_suffix('.raw').unlink()),
      'found nothing',
    ),
    ('words.mhd', raw_bytes(b'words\n' * 9), 'no MetaImage header'),
    ('far.nii.gz', volume(speckle(), (900, 900, 1)), {'spacing_implausible'}),
    ('ones.nii.gz', volume(speckle(), (1, 1, 1)), {'spacing_unknown'}),
  ]


def folder(images, **files):
  def write(path):
    path.mkdir()
    for index, image in enumerate(images):
      Image.fromarray(image).save(path / f'frame {index + 1}.png')
    for name, content in files.items():
      (path / name.replace('_', '.')).write_bytes(content)

  return write


def path_rows():
  video = speckle()
  mixed = [*video[:4], video[4, :-9]]
  return [
    ('pngs', folder(video), {'fps_unknown'}),
    ('notes', folder(video, readme_txt=b'words'), {'fps_unknown'}),
    ('kinds', folder(video, extra_jpg=b'x'), 'several kinds'),
    ('sizes', folder(mixed), 'frame 5.png: found 87x128'),
    ('broken', folder(video, frame_png=b'x'), 'cannot be read as an image'),
    ('void', folder([]), 'without images or clips'),
    ('only.png', lambda p: Image.fromarray(video[0]).save(p), {'still_image'}),
    (
      'deep.png',
      lambda p: Image.fromarray(video[0].astype(np.uint16) * 257).save(p),
      'rescale the clip',
    ),
    ('words.png', raw_bytes(b'words'), 'cannot be read as an image'),
    ('missing.npy', lambda p: None, 'no such file'),
    ('x' * 300 + '.npy', lambda p: None, 'no such file|too long'),
    ('loop.npy', lambda p: p.symlink_to(p), 'leads nowhere'),
    ('nowhere.npy', lambda p: p.symlink_to('gone'), 'leads nowhere'),
    ('pipe.npy', os.mkfifo, 'device or a pipe'),
    ('locked.npy', npy(video), 'Permission denied'),
    ('clip.docx', raw_bytes(b'PK words'), 'not a clip that can be read'),
    ('png_named.npy', lambda p: Image.fromarray(video[0]).save(p, 'PNG'), 'damaged'),
    ('no_suffix', raw_bytes(b'words' * 99), 'not a clip that can be read'),
    ('a b\'c"d é 心;$x.npy', npy(video), set()),
    ('line\nbreak.npy', npy(video), set()),
    (
      '-UPPER.NPY',
      lambda p: (npy(video)(p.with_suffix('.npy')), p.with_suffix('.npy').rename(p)),
      set(),
    ),
  ]


def rows():
  return [*numpy_rows(), *dicom_rows(), *video_rows(), *volume_rows(), *path_rows()]
