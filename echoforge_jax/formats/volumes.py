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
from typing import BinaryIO
import zlib

import numpy as np
import SimpleITK as sitk

from echoforge_jax.errors import InputError

# Bytes per voxel of MetaImage element types.
_META_BYTES = {
  'MET_UCHAR': 1,
  'MET_CHAR': 1,
  'MET_USHORT': 2,
  'MET_SHORT': 2,
  'MET_UINT': 4,
  'MET_INT': 4,
  'MET_FLOAT': 4,
  'MET_DOUBLE': 8,
}
# NIfTI codes of floating-point voxels.
_NIFTI_FLOATS = {16: 'f4', 64: 'f8'}
_NOT_FINITE = 'found NaN or infinite values, wanted whole numbers in 0..255'
# A small gzip file may unpack to very much: not beyond what anyone can use.
MAX_VOXEL_BYTES = 8 * 2**30
_MAX_SURPLUS = 2**20
_MAX_HEADER_LINES, _MAX_LINE = 500, 2**16
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
    raise VolumeError(
      path, f'not readable ({reason}); wanted a NIfTI or MetaImage volume'
    ) from error
  array = sitk.GetArrayFromImage(image)
  if image.GetNumberOfComponentsPerPixel() == 1:
    if array.ndim == 2:
      array = array[None]
    elif array.ndim == 4 and array.shape[1] == 1:
      array = array[:, 0]
  if image.GetNumberOfComponentsPerPixel() != 1 or array.ndim != 3:
    raise ShapeError(
      path,
      f'found an array of shape {array.shape}, wanted '
      '[frames, rows, columns] of gray levels',
      'convert the file to one gray channel',
    )
  return Volume(array, spacing)


def check_file(path) -> np.ndarray:
  """Compares a file with its own header; no voxel is decoded.

  Args:
    path: `.nii`, `.nii.gz`, `.mhd` or `.mha`.

  Returns:
    float32 [2] spacing (row, column), NaN where the header has none.

  Raises:
    VolumeError: the file is absent, of the wrong length, otherwise damaged or
      holds NaN.
  """
  path = Path(path)
  if not path.is_file():
    raise MissingFileError(
      path, 'file not found; wanted a NIfTI or MetaImage volume'
    )
  if path.name.lower().endswith(('.mhd', '.mha')):
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
    raise VoxelError(
      path,
      f'found {array.dtype} values from {low:g} to '
      f'{high:g}, wanted whole numbers in 0..255',
      'store gray levels or labels as uint8',
    )
  return array.astype(np.uint8)


def _check_nifti(path: Path) -> np.ndarray:
  """Checks gzip checksum, header and length; returns the spacing."""
  with open(path, 'rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
  try:
    with (gzip.open if packed else open)(path, 'rb') as file:
      return _check_nifti_stream(path, file)
  except EOFError as error:
    raise TruncatedFileError(
      path, 'the gzip stream ends early; wanted a whole file'
    ) from error
  except (gzip.BadGzipFile, zlib.error) as error:
    raise VolumeError(
      path, f'damaged gzip stream ({error}); wanted an intact file'
    ) from error


def _check_nifti_stream(path: Path, file: BinaryIO) -> np.ndarray:
  """The same, of the unpacked bytes; never holds more than the header says."""
  header = file.read(352)
  order = '<'
  if len(header) >= 348 and struct.unpack('>i', header[:4])[0] == 348:
    order = '>'
  if len(header) < 348 or struct.unpack(order + 'i', header[:4])[0] != 348:
    raise VolumeError(path, 'no NIfTI-1 header found')
  dims = struct.unpack(order + '8h', header[40:56])
  datatype, bits = struct.unpack(order + '2h', header[70:74])
  pixdim = struct.unpack(order + '8f', header[76:108])
  offset = struct.unpack(order + 'f', header[108:112])[0]
  sizes = dims[1 : 1 + dims[0]] if 1 <= dims[0] <= 7 else ()
  floats = _NIFTI_FLOATS.get(datatype)
  if (
    not sizes
    or min(sizes) < 1
    or bits < 8
    or not 348 <= offset < 1e9
    or floats
    and bits != 8 * np.dtype(floats).itemsize
  ):
    raise VolumeError(
      path,
      f'senseless NIfTI header (dim {dims}, bitpix '
      f'{bits}, vox_offset {offset:g})',
    )
  voxels = math.prod(sizes) * bits // 8
  if voxels > MAX_VOXEL_BYTES:
    raise VolumeError(
      path,
      f'its header announces {voxels / 2**30:.1f} GiB of voxels (size '
      f'{sizes}); wanted at most {MAX_VOXEL_BYTES / 2**30:.0f} GiB',
      'cut the clip into shorter ones, as uint8',
    )
  payload = header[int(offset) :]
  file.read(max(int(offset) - len(header), 0))
  payload += file.read(voxels - len(payload))
  if len(payload) < voxels:
    raise TruncatedFileError(
      path,
      f'found {int(offset) + len(payload)} bytes of header and voxels, '
      f'wanted {int(offset) + voxels} for the size {sizes} in its header',
    )
  if len(file.read(_MAX_SURPLUS + 1)) > _MAX_SURPLUS:  # To the checksum.
    raise TruncatedFileError(
      path,
      f'found more than {int(offset) + voxels + _MAX_SURPLUS} bytes, '
      f'wanted {int(offset) + voxels} for the size {sizes} in its header',
    )
  if (
    floats
    and not np.isfinite(
      np.frombuffer(payload, order + floats, math.prod(sizes))
    ).all()
  ):
    raise VoxelError(path, _NOT_FINITE)
  return _spacing(pixdim[2], pixdim[1])


def _check_metaimage(path: Path) -> np.ndarray:
  """Checks the header and the length of its data file; returns the spacing."""
  header = {}
  with open(path, 'rb') as file:
    for _ in range(_MAX_HEADER_LINES):
      line = file.readline(_MAX_LINE).decode('latin-1')
      key, found, value = line.partition('=')
      if found:
        header[key.strip()] = value.strip()
      if not line or key.strip() == 'ElementDataFile':
        break
    start = file.tell()
  try:
    sizes = [int(size) for size in header['DimSize'].split()]
    element, data_name = header['ElementType'], header['ElementDataFile']
    steps = [
      float(step)
      for step in header.get(
        'ElementSpacing', header.get('ElementSize', '')
      ).split()
    ]
    channels = int(header.get('ElementNumberOfChannels', '1'))
  except (KeyError, ValueError) as error:
    raise VolumeError(
      path,
      f'not a MetaImage header ({error!r}); wanted '
      'DimSize, ElementType and ElementDataFile',
    ) from error
  if data_name == 'LOCAL':
    data_file, found = path, path.stat().st_size - start
  else:
    data_file = path.parent / data_name
    if not data_file.is_file():
      raise MissingFileError(
        data_file, f'file not found; {path.name} keeps its voxels there'
      )
    found = data_file.stat().st_size
  packed = header.get('CompressedData', 'False').lower() == 'true'
  if not packed and element in _META_BYTES:
    wanted = math.prod(sizes) * channels * _META_BYTES[element]
    if found != wanted:
      raise TruncatedFileError(
        data_file,
        f'found {found} bytes of voxels, wanted {wanted} for the '
        f'size {tuple(sizes)} in {path.name}',
      )
  if len(steps) < 2:
    return np.full(2, np.nan, np.float32)
  return _spacing(steps[1], steps[0])


def _spacing(row: float, column: float) -> np.ndarray:
  """Spacing float32 [2] (row, column); NaN where not a positive number."""
  spacing = np.array([row, column], np.float32)
  spacing[~(np.isfinite(spacing) & (spacing > 0))] = np.nan
  return spacing
