"""Multi-frame ultrasound DICOM: frames, calibrated region, frame rate."""

import math
import pathlib

import numpy as np
import pydicom
from pydicom import pixels

from echoforge_jax.errors import InputError
from echoforge_jax.inference import raw_clip, sector

# Regions (DICOM C.8.5.5): spatial format 1 is a two-dimensional image, the
# unit code 3 is centimeters.
_TWO_DIMENSIONAL, _CENTIMETERS = 1, 3
_MODALITIES = ('US', 'OT', 'SC', '')
# A region past the image's edge is taken for one of a larger original only
# if, divided by a whole factor, it encloses the moving sector this well, and
# any other factor clearly worse.
_MIN_AGREEMENT, _MIN_MARGIN = 0.75, 0.15
_FACTORS = (2, 3, 4)


def is_dicom(path: pathlib.Path) -> bool:
  """True if the file starts as DICOM part 10 files do."""
  with open(path, 'rb') as file:
    return file.read(132)[128:] == b'DICM'


def read_dicom(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads one ultrasound cine loop.

  Args:
    path: a DICOM file of any transfer syntax that pydicom's plugins decode.

  Returns:
    The clip; `region` is the largest two-dimensional calibrated region.

  Raises:
    InputError: not DICOM, another modality, damaged, a still image.
  """
  try:
    dataset = pydicom.dcmread(path)
  except Exception as error:  # Damaged headers raise a dozen kinds.
    raise InputError(
        f'{path}: cannot be read as DICOM, damaged or of another kind '
        f'({_line(error)})') from error
  modality = str(dataset.get('Modality', '') or '')
  if modality not in _MODALITIES:
    raise InputError(
        f'{path}: found modality {modality}; wanted an ultrasound clip (US)')
  try:
    frames = _frames(path, dataset)
    region, spacing, notes, flags = _calibration(dataset, frames)
    return raw_clip.RawClip(
        frames, spacing, _frame_rate(dataset), region, tuple(notes),
        tuple(flags))
  except InputError:
    raise
  except (ArithmeticError, AttributeError, KeyError, TypeError,
          ValueError) as error:  # Values are parsed only when asked for.
    raise InputError(
        f'{path}: a field of its DICOM header is missing or no number '
        f'({_line(error)})') from error


def _frames(path: pathlib.Path, dataset: pydicom.Dataset) -> np.ndarray:
  """Gray frames uint8 [T, H, W] of any photometric interpretation."""
  if 'PixelData' not in dataset:
    raise InputError(f'{path}: this DICOM file holds no image, or is cut '
                     'short; wanted an ultrasound clip')
  count = raw_clip.known(dataset.get('NumberOfFrames'))
  count = 1 if math.isnan(count) else int(count)
  rows, columns = int(dataset.Rows), int(dataset.Columns)
  raw_clip.checked_size(path, count, rows, columns,
                        int(dataset.get('SamplesPerPixel', 1)))
  try:
    array = pixels.pixel_array(dataset)  # Converts YBR to RGB.
    if dataset.PhotometricInterpretation == 'PALETTE COLOR':
      array = pixels.apply_color_lut(array, dataset)
  except Exception as error:  # Codecs raise a dozen kinds.
    raise InputError(
        f'{path}: its {dataset.file_meta.TransferSyntaxUID.name} pixel data '
        f'cannot be decoded, damaged or of an unknown codec ({_line(error)})'
    ) from error
  is_color = (int(dataset.get('SamplesPerPixel', 1)) == 3
              or dataset.PhotometricInterpretation == 'PALETTE COLOR')
  if array.ndim == (3 if is_color else 2):
    array = array[None]
  if array.dtype != np.uint8:
    full = (65535 if dataset.PhotometricInterpretation == 'PALETTE COLOR'
            else 2 ** int(dataset.BitsStored) - 1)
    array = np.clip(array * (255.0 / full), 0, 255).astype(np.uint8)
  if is_color:
    array = raw_clip.luma(array)
  if dataset.PhotometricInterpretation == 'MONOCHROME1':
    array = 255 - array
  return raw_clip.to_gray(path, array)


def _frame_rate(dataset: pydicom.Dataset) -> float:
  """Frames per second from the frame time(s), else from the cine rates."""
  times = [raw_clip.known(dataset.get('FrameTime'))]
  vector = np.atleast_1d(dataset.get('FrameTimeVector') or [])
  times += [raw_clip.known(np.median([float(t) for t in vector[1:]]))] if len(
      vector) > 1 else []
  rates = [1000 / t for t in times if not math.isnan(t)]
  rates += [raw_clip.known(dataset.get(name))
            for name in ('CineRate', 'RecommendedDisplayFrameRate')]
  return next((rate for rate in rates if not math.isnan(rate)), math.nan)


def _calibration(dataset, frames):
  """Returns (region or None, spacing_mm, notes, flags)."""
  height, width = frames.shape[1:]
  best = _largest_region(dataset)
  if best is None:
    spacing = _pixel_spacing(dataset)
    known = not math.isnan(spacing[0])
    note = ('no calibrated image region; spacing from Pixel Spacing' if known
            else 'no calibrated image region: spacing unknown')
    return None, spacing, [note], []
  bounds, spacing = best
  if bounds[2] <= height and bounds[3] <= width:
    return bounds, spacing, [], []
  factor = matching_factor(bounds, frames)
  what = (f'region rows {bounds[0]}-{bounds[2] - 1}, columns {bounds[1]}-'
          f'{bounds[3] - 1} exceeds the {height}x{width} image')
  if factor is None:
    return (None, raw_clip.UNKNOWN_SPACING,
            [f'{what} and matches the moving sector at no whole factor: '
             'region ignored, spacing unknown'], ['region_unusable'])
  return (_divided(bounds, factor), tuple(s * factor for s in spacing),
          [f'{what}: the image is a copy scaled down by {factor} (the moving '
           f'sector fills the region divided by {factor}); region and '
           'spacing rescaled'], ['region_rescaled'])


def _largest_region(dataset):
  """(bounds, spacing_mm) of the largest two-dimensional region, or None."""
  found = []
  for item in dataset.get('SequenceOfUltrasoundRegions') or []:
    if item.get('RegionSpatialFormat') != _TWO_DIMENSIONAL:
      continue
    try:
      bounds = (int(item.RegionLocationMinY0), int(item.RegionLocationMinX0),
                int(item.RegionLocationMaxY1) + 1,
                int(item.RegionLocationMaxX1) + 1)
    except (AttributeError, TypeError, ValueError):
      continue
    if bounds[2] - bounds[0] < 16 or bounds[3] - bounds[1] < 16:
      continue
    units = (item.get('PhysicalUnitsYDirection'),
             item.get('PhysicalUnitsXDirection'))
    spacing = raw_clip.UNKNOWN_SPACING
    if units == (_CENTIMETERS, _CENTIMETERS):
      spacing = tuple(
          raw_clip.known(abs(float(item.get(name) or 0)) * 10)
          for name in ('PhysicalDeltaY', 'PhysicalDeltaX'))
    found.append((bounds, spacing))
  def area(entry):
    return ((entry[0][2] - entry[0][0])
                          * (entry[0][3] - entry[0][1]))
  return max(found, key=area, default=None)


def _pixel_spacing(dataset) -> tuple[float, float]:
  """Spacing from Pixel Spacing (mm, row then column), or unknown."""
  values = np.atleast_1d(
      dataset.get('PixelSpacing') or raw_clip.UNKNOWN_SPACING)
  spacing = tuple(raw_clip.known(value) for value in values)
  return spacing if len(spacing) == 2 else raw_clip.UNKNOWN_SPACING


def matching_factor(bounds, frames: np.ndarray) -> int | None:
  """The whole factor by which an image was scaled down, if one is certain.

  Args:
    bounds: (top, left, bottom, right) of a region that exceeds the image.
    frames: uint8 [T, H, W].

  Returns:
    The factor from 2 to 4 at which the region fits the image and agrees with
    the extent of what moves (intersection over union at least 0.75 and 0.15
    above every other factor's, ours), or None.
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
  return (top // factor, left // factor, -(-bottom // factor),
          -(-right // factor))


def _overlap(a, b) -> float:
  """Intersection over union of two (top, left, bottom, right) boxes."""
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  both = max(height, 0) * max(width, 0)
  def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])
  return both / (area(a) + area(b) - both)


def _line(error: Exception) -> str:
  """The first line of an error's message, or its kind."""
  text = str(error).strip().splitlines()
  return text[0][:160] if text else error.__class__.__name__
