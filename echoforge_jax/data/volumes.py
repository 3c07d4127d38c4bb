"""NIfTI and MetaImage volumes, read only when every byte is there.

SimpleITK decodes a truncated `.nii.gz` without a word and leaves the missing
voxels undefined, turns NaN into zero, and ignores surplus bytes of a `.raw`.
So each file's checksum and length are compared with its own header, and its
floating-point voxels are looked at, before it is decoded.
"""

import dataclasses
import gzip
import math
from pathlib import Path
import struct
import zlib

import numpy as np
import SimpleITK as sitk

from echoforge_jax.errors import InputError

# Bytes per voxel of MetaImage element types.
_META_BYTES = {
    'MET_UCHAR': 1, 'MET_CHAR': 1, 'MET_USHORT': 2, 'MET_SHORT': 2,
    'MET_UINT': 4, 'MET_INT': 4, 'MET_FLOAT': 4, 'MET_DOUBLE': 8,
}
# NIfTI codes of floating-point voxels.
_NIFTI_FLOATS = {16: 'f4', 64: 'f8'}
_NOT_FINITE = 'found NaN or infinite values, wanted whole numbers in 0..255'
_FETCH = 'fetch the file again from its provider'


class VolumeError(InputError):
  """A volume that cannot be used.

  Attributes:
    path: the file at fault.
    fault: what was found and what was wanted.
  """

  def __init__(self, path: Path, fault: str, remedy: str = _FETCH):
    super().__init__(f'{path}: {fault}; remedy: {remedy}')
    self.path = Path(path)
    self.fault = fault


class MissingFileError(VolumeError):
  """A volume, or the `.raw` its header names, that is not there."""


class TruncatedFileError(VolumeError):
  """A volume whose file holds fewer or more bytes than its header says."""


class VoxelError(VolumeError):
  """A volume whose values are no whole numbers in 0..255."""


class ShapeError(VolumeError):
  """A volume that is no stack of gray-level frames."""


@dataclasses.dataclass(frozen=True)
class Volume:
  """Voxels and in-plane spacing of one file.

  Attributes:
    array: [T, H, W] in the file's own dtype; T is 1 for a single frame.
    spacing_mm: float32 [2] mm per pixel (row, column); NaN where the header
      gives none.
  """
  array: np.ndarray
  spacing_mm: np.ndarray


def read_volume(path: Path) -> Volume:
  """Reads a `.nii.gz`, `.nii` or `.mhd` file after checking it is whole.

  Args:
    path: the file; for `.mhd` the header, its `.raw` lies beside it.

  Returns:
    The volume, frames first.

  Raises:
    VolumeError: the file is absent (`MissingFileError`), of the wrong length
      (`TruncatedFileError`), otherwise damaged, holds NaN (`VoxelError`), or
      is no gray-level [T, H, W] or [H, W] volume (`ShapeError`).
  """
  path = Path(path)
  spacing = check_file(path)
  try:
    image = sitk.ReadImage(str(path))
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[-1]
    raise VolumeError(path, f'not readable ({reason}); wanted a NIfTI or '
                      'MetaImage volume') from error
  array = sitk.GetArrayFromImage(image)
  if image.GetNumberOfComponentsPerPixel() == 1:
    if array.ndim == 2:
      array = array[None]
    elif array.ndim == 4 and array.shape[1] == 1:
      array = array[:, 0]
  if image.GetNumberOfComponentsPerPixel() != 1 or array.ndim != 3:
    raise ShapeError(path, f'found an array of shape {array.shape}, wanted '
                     '[frames, rows, columns] of gray levels',
                     'convert the file to one gray channel')
  return Volume(array, spacing)


def check_file(path) -> np.ndarray:
  """Compares a file with its own header; no voxel is decoded.

  Args:
    path: `.nii`, `.nii.gz` or `.mhd`.

  Returns:
    float32 [2] spacing (row, column), NaN where the header has none.

  Raises:
    VolumeError: the file is absent, of the wrong length, otherwise damaged or
      holds NaN.
  """
  path = Path(path)
  if not path.is_file():
    raise MissingFileError(path, 'file not found; wanted a NIfTI or MetaImage '
                           'volume')
  if path.name.lower().endswith('.mhd'):
    return _check_metaimage(path)
  return _check_nifti(path)


def as_uint8(array: np.ndarray, path: Path) -> np.ndarray:
  """Casts whole numbers in 0..255 to uint8; other values are refused.

  Args:
    array: any shape and dtype.
    path: the file the values came from, for the message.

  Returns:
    uint8 array of the same shape, the same object if it was uint8 already.

  Raises:
    VoxelError: a value is NaN, infinite, fractional or outside 0..255.
  """
  if array.dtype == np.uint8:
    return array
  if not np.isfinite(array).all():
    raise VoxelError(path, _NOT_FINITE)
  low, high = float(array.min()), float(array.max())
  if low < 0 or high > 255 or not (array == np.rint(array)).all():
    raise VoxelError(path, f'found {array.dtype} values from {low:g} to '
                     f'{high:g}, wanted whole numbers in 0..255',
                     'store gray levels or labels as uint8')
  return array.astype(np.uint8)


def _check_nifti(path: Path) -> np.ndarray:
  """Checks gzip checksum, header and length; returns the spacing."""
  payload = path.read_bytes()
  if payload[:2] == b'\x1f\x8b':
    try:
      payload = gzip.decompress(payload)
    except EOFError as error:
      raise TruncatedFileError(path, 'the gzip stream ends early; wanted a '
                               'whole file') from error
    except (OSError, zlib.error) as error:
      raise VolumeError(path, f'damaged gzip stream ({error}); wanted an '
                        'intact file') from error
  order = '<'
  if len(payload) >= 348 and struct.unpack('>i', payload[:4])[0] == 348:
    order = '>'
  if len(payload) < 348 or struct.unpack(order + 'i', payload[:4])[0] != 348:
    raise VolumeError(path, 'no NIfTI-1 header found')
  dims = struct.unpack(order + '8h', payload[40:56])
  datatype, bits = struct.unpack(order + '2h', payload[70:74])
  pixdim = struct.unpack(order + '8f', payload[76:108])
  offset = struct.unpack(order + 'f', payload[108:112])[0]
  sizes = dims[1:1 + dims[0]] if 1 <= dims[0] <= 7 else ()
  if not sizes or min(sizes) < 1 or bits < 8 or not 348 <= offset < 1e9:
    raise VolumeError(path, f'senseless NIfTI header (dim {dims}, bitpix '
                      f'{bits}, vox_offset {offset:g})')
  wanted = int(offset) + math.prod(sizes) * bits // 8
  if len(payload) < wanted:
    raise TruncatedFileError(
        path, f'found {len(payload)} bytes of header and voxels, wanted '
        f'{wanted} for the size {sizes} in its header')
  if datatype in _NIFTI_FLOATS and not np.isfinite(np.frombuffer(
      payload, order + _NIFTI_FLOATS[datatype], math.prod(sizes),
      int(offset))).all():
    raise VoxelError(path, _NOT_FINITE)
  return _spacing(pixdim[2], pixdim[1])


def _check_metaimage(path: Path) -> np.ndarray:
  """Checks the header and the length of its data file; returns the spacing."""
  header = {}
  for line in path.read_bytes().decode('latin-1').splitlines():
    key, found, value = line.partition('=')
    if found:
      header[key.strip()] = value.strip()
    if key.strip() == 'ElementDataFile':
      break
  try:
    sizes = [int(size) for size in header['DimSize'].split()]
    element, data_name = header['ElementType'], header['ElementDataFile']
    steps = [float(step) for step in header.get(
        'ElementSpacing', header.get('ElementSize', '')).split()]
    channels = int(header.get('ElementNumberOfChannels', '1'))
  except (KeyError, ValueError) as error:
    raise VolumeError(path, f'not a MetaImage header ({error!r}); wanted '
                      'DimSize, ElementType and ElementDataFile') from error
  data_file = path.parent / data_name
  if data_name != 'LOCAL':
    if not data_file.is_file():
      raise MissingFileError(data_file, f'file not found; {path.name} keeps '
                             'its voxels there')
    packed = header.get('CompressedData', 'False').lower() == 'true'
    if not packed and element in _META_BYTES:
      wanted = math.prod(sizes) * channels * _META_BYTES[element]
      found = data_file.stat().st_size
      if found != wanted:
        raise TruncatedFileError(
            data_file, f'found {found} bytes, wanted {wanted} for the size '
            f'{tuple(sizes)} in {path.name}')
  if len(steps) < 2:
    return np.full(2, np.nan, np.float32)
  return _spacing(steps[1], steps[0])


def _spacing(row: float, column: float) -> np.ndarray:
  """Spacing float32 [2] (row, column); NaN where not a positive number."""
  spacing = np.array([row, column], np.float32)
  spacing[~(np.isfinite(spacing) & (spacing > 0))] = np.nan
  return spacing
