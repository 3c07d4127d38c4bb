"""Ultrasound DICOM: frames, calibrated region, frame rate."""

import io
import math
import pathlib

import numpy as np
import pydicom
from pydicom import encaps, pixels, uid

from echoforge_jax.errors import InputError
from echoforge_jax.formats import raw_clip, sector, video
from echoforge_jax.formats.color import ColorSeen
from echoforge_jax.textio import first_line

# Regions (DICOM C.8.5.5): spatial formats 1 (two-dimensional image), 2 (M-mode) and 3 (spectral
# Doppler); the unit code 3 is centimeters.
_TWO_DIMENSIONAL, _NO_IMAGE, _CENTIMETERS = 1, (2, 3), 3
_MODALITIES = ('US', 'OT', 'SC', '')
# Bytes above which an element stays in the file until it is asked for.
_DEFER = 2**20
# A region past the image's edge is taken for one of a larger original only if, divided by a whole
# factor, it encloses the moving sector this well, and any other factor clearly worse.
_MIN_AGREEMENT, _MIN_MARGIN = 0.75, 0.15
_FACTORS = (2, 3, 4)


def is_dicom(path: pathlib.Path) -> bool:
  """Returns True if the file starts as DICOM part 10 files do."""
  with open(path, 'rb') as file:
    return file.read(132)[128:] == b'DICM'


def read_dicom(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads one ultrasound cine loop.

  pydicom's plugins or, for MPEG-2, MPEG-4 and HEVC, PyAV decode it. `region` is the largest
  two-dimensional calibrated region.
  """
  try:
    dataset = pydicom.dcmread(path, defer_size=_DEFER)
  except Exception as error:  # Damaged headers raise a dozen kinds.
    raise InputError(
      f'{path}: cannot be read as DICOM, damaged, cut short or of another kind '
      f'({first_line(error)[:160]}); fetch it again'
    ) from error
  modality = str(dataset.get('Modality', '') or '')
  if modality not in _MODALITIES:
    raise InputError(f'{path}: found modality {modality[:16]}; wanted an ultrasound clip (US)')
  try:
    items = dataset.get('SequenceOfUltrasoundRegions') or []
    formats = {item.get('RegionSpatialFormat') for item in items}
    if formats & set(_NO_IMAGE) and _TWO_DIMENSIONAL not in formats:
      raise InputError(
        f'{path}: found M-mode or spectral Doppler regions only; wanted a two-dimensional (B-mode) '
        'clip'
      )
    frames, color, decoded_flags = _frames(path, dataset)
    fps, time_flags = _frame_rate(dataset)
    region, spacing, notes, flags = _calibration(dataset, frames)
    return raw_clip.RawClip(
      frames, spacing, fps, region, tuple(notes), (*decoded_flags, *time_flags, *flags), color
    )
  except InputError:
    raise
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    # Values are parsed only when asked for.
    raise InputError(
      f'{path}: a field of its DICOM header is missing or no number ({first_line(error)[:160]}); '
      'export it again'
    ) from error


def _frames(path: pathlib.Path, dataset: pydicom.Dataset):
  """Returns (gray frames uint8 [T, H, W], color seen, flags)."""
  if 'PixelData' not in dataset:
    raise InputError(
      f'{path}: this DICOM file holds no image, or is cut short; wanted an ultrasound clip: fetch '
      'it again'
    )
  syntax = dataset.file_meta.get('TransferSyntaxUID')
  if syntax in uid.MPEGTransferSyntaxes:
    count = max(int(dataset.get('NumberOfFrames') or 1), 1)
    # One stream, in however many pieces.
    stream = b''.join(encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    found = video.read_video(path, io.BytesIO(stream))
    return (found.frames, found.color, ('fewer_frames',) if len(found.frames) < count else ())
  count = raw_clip.known(dataset.get('NumberOfFrames'))
  count = 1 if math.isnan(count) else int(count)
  shape = (count, int(dataset.Rows), int(dataset.Columns))
  raw_clip.checked_size(path, *shape)
  gray = np.empty(shape, np.uint8)
  color, filled = None, 0
  try:
    decoded = pixels.iter_pixels(path, decoding_plugin=_plugin(syntax))  # Converts YBR to RGB.
    for index, frame in enumerate(decoded):
      frame = _eight_bits(frame, dataset)
      if frame.ndim == 3 and ColorSeen.wants(index):
        color = color or ColorSeen(shape[1:])
        color.add(frame)
      gray[index] = raw_clip.luma(frame) if frame.ndim == 3 else frame
      filled = index + 1
    if filled < count:
      raise ValueError(f'{count} frames announced, {filled} found')
  except Exception as error:  # Codecs raise a dozen kinds.
    raise InputError(
      f'{path}: its {getattr(syntax, "name", "unnamed")} pixel data cannot be decoded, damaged, '
      f'cut short or of an unknown codec ({first_line(error)[:160]}); fetch it again, or export it '
      'uncompressed'
    ) from error
  return gray, color, ()


def _plugin(syntax) -> str:
  """Returns the decoder to use; GDCM, which checks least, only where it is alone."""
  try:
    names = pixels.get_decoder(syntax).available_plugins
  except NotImplementedError:
    return ''
  return next((name for name in names if name != 'gdcm'), '')


def _eight_bits(frame: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
  """Returns a decoded frame as uint8 [H, W] gray or [H, W, 3] RGB."""
  photometric = dataset.PhotometricInterpretation
  full = 2 ** int(dataset.BitsStored) - 1
  if photometric == 'PALETTE COLOR':
    frame = pixels.apply_color_lut(frame, dataset)
    full = 2 ** (8 * frame.dtype.itemsize) - 1
  if frame.dtype != np.uint8:
    frame = np.clip(frame * (255.0 / full), 0, 255).astype(np.uint8)
  return 255 - frame if photometric == 'MONOCHROME1' else frame


def _frame_rate(dataset: pydicom.Dataset) -> tuple[float, tuple[str, ...]]:
  """Returns (frames per second, flags) of the frame time(s), else the cine rates."""
  times, flags = [raw_clip.known(dataset.get('FrameTime'))], ()
  vector = np.atleast_1d(dataset.get('FrameTimeVector') or [])
  steps = [raw_clip.known(step) for step in vector[1:]]  # The first is 0.
  good = [step for step in steps if not math.isnan(step)]
  if good:
    times.append(float(np.median(good)))
    uneven = max(good) - min(good) > 0.5 * times[-1]
    flags = ('uneven_frames',) if uneven or len(good) < len(steps) else ()
  rates = [1000 / t for t in times if not math.isnan(t)]
  rates += [raw_clip.known(dataset.get(key)) for key in ('CineRate', 'RecommendedDisplayFrameRate')]
  rate = next((rate for rate in rates if not math.isnan(rate)), math.nan)
  return rate, flags


def _calibration(dataset, frames):
  """Returns (region or None, spacing_mm, notes, flags)."""
  height, width = frames.shape[1:]
  best = _largest_region(dataset)
  if best is None:
    values = np.atleast_1d(dataset.get('PixelSpacing') or raw_clip.UNKNOWN_SPACING)
    spacing = tuple(raw_clip.known(value) for value in values)
    spacing = spacing if len(spacing) == 2 else raw_clip.UNKNOWN_SPACING
    note = 'no calibrated image region; spacing from Pixel Spacing'
    if math.isnan(spacing[0]):
      note = 'no calibrated image region: spacing unknown'
    return None, spacing, [note], []
  bounds, spacing = best
  if bounds[2] <= height and bounds[3] <= width:
    return bounds, spacing, [], []
  factor = matching_factor(bounds, frames)
  what = (
    f'region rows {bounds[0]}-{bounds[2] - 1}, columns {bounds[1]}-{bounds[3] - 1} exceeds the '
    f'{height}x{width} image'
  )
  if factor is None:
    note = (
      f'{what} and matches the moving sector at no whole factor: region ignored, spacing unknown'
    )
    return None, raw_clip.UNKNOWN_SPACING, [note], ['region_unusable']
  note = (
    f'{what}: the image is a copy scaled down by {factor} (the moving sector fills the region '
    f'divided by {factor}); region and spacing rescaled'
  )
  spacing = tuple(s * factor for s in spacing)
  return _divided(bounds, factor), spacing, [note], ['region_rescaled']


def _largest_region(dataset):
  """Returns (bounds, spacing_mm) of the largest two-dimensional region, or None."""
  found = []
  for item in dataset.get('SequenceOfUltrasoundRegions') or []:
    if item.get('RegionSpatialFormat') != _TWO_DIMENSIONAL:
      continue
    try:
      bounds = (
        int(item.RegionLocationMinY0),
        int(item.RegionLocationMinX0),
        int(item.RegionLocationMaxY1) + 1,
        int(item.RegionLocationMaxX1) + 1,
      )
    except (AttributeError, TypeError, ValueError):
      continue
    if min(bounds) < 0 or bounds[2] - bounds[0] < 16 or bounds[3] - bounds[1] < 16:
      continue
    units = (item.get('PhysicalUnitsYDirection'), item.get('PhysicalUnitsXDirection'))
    spacing = raw_clip.UNKNOWN_SPACING
    if units == (_CENTIMETERS, _CENTIMETERS):
      spacing = tuple(
        raw_clip.known(abs(float(item.get(name) or 0)) * 10)
        for name in ('PhysicalDeltaY', 'PhysicalDeltaX')
      )
    found.append((bounds, spacing))

  return max(found, key=lambda entry: _area(entry[0]), default=None)


def matching_factor(bounds, frames: np.ndarray) -> int | None:
  """Returns the factor by which an image was scaled down, if one is certain.

  It is the factor from 2 to 4 at which the region fits the image and agrees with the extent of what
  moves (intersection over union at least 0.75 and 0.15 above every other factor's, ours), or None.

  Args:
    bounds: (top, left, bottom, right) of a region that exceeds the image.
    frames: uint8 [T, H, W].
  """
  height, width = frames.shape[1:]
  moving = sector.find_sector(frames)
  if not moving.found:
    return None
  agreement = {}
  for factor in _FACTORS:
    scaled = _divided(bounds, factor)
    fits = scaled[2] <= height and scaled[3] <= width
    agreement[factor] = _overlap(scaled, moving.extent) if fits else 0.0
  best, second = sorted(agreement.values(), reverse=True)[:2]
  if best < _MIN_AGREEMENT or best - second < _MIN_MARGIN:
    return None
  return max(agreement, key=agreement.get)


def _divided(bounds, factor: int):
  top, left, bottom, right = bounds
  return (top // factor, left // factor, -(-bottom // factor), -(-right // factor))


def _overlap(a, b) -> float:
  """Returns the intersection over union of two (top, left, bottom, right) boxes."""
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  both = max(height, 0) * max(width, 0)
  return both / (_area(a) + _area(b) - both)


def _area(box) -> int:
  return (box[2] - box[0]) * (box[3] - box[1])
