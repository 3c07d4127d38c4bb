"""NIfTI and MetaImage volumes, read only when every byte is there.

SimpleITK decodes a truncated `.nii.gz` without a word and leaves the missing voxels undefined,
turns NaN into zero, and ignores surplus bytes of a `.raw`. So each file's checksum and length are
compared with its own header, and its floating-point voxels are looked at, before it is decoded.
"""

import gzip
import math
from pathlib import Path
import struct
import threading
from typing import BinaryIO, NamedTuple
import zlib

import numpy as np
import SimpleITK as sitk

from echoforge_jax.formats import raw_clip
from echoforge_jax.formats.findings import absence, fault

# Its notes on odd headers come without being asked for; what matters is checked here.
sitk.ProcessObject.GlobalWarningDisplayOff()
# ITK's readers and writers share state between threads (SimpleITK issue 74): two at once may
# end the process. Whoever reads or writes through SimpleITK holds this.
ITK_LOCK = threading.Lock()

# Bytes per voxel of MetaImage element types.
_META_BYTES = {'MET_UCHAR': 1, 'MET_CHAR': 1, 'MET_USHORT': 2, 'MET_SHORT': 2, 'MET_UINT': 4}
_META_BYTES |= {'MET_INT': 4, 'MET_FLOAT': 4, 'MET_DOUBLE': 8}
# NIfTI codes of floating-point voxels.
_NIFTI_FLOATS = {16: 'f4', 64: 'f8'}
_LEVELS = 'whole numbers in 0..255'
# A small gzip file may unpack to very much: not beyond what anyone can use.
MAX_VOXEL_BYTES = 8 * 2**30
_MAX_SURPLUS = 2**20
_MAX_HEADER_LINES, _MAX_LINE = 500, 2**16


class Volume(NamedTuple):
  """Voxels and in-plane spacing of one file."""

  # [T, H, W] in the file's own dtype, or [T, H, W, C] color; T is 1 for a single frame. Other
  # shapes stay as they are.

  array: np.ndarray
  spacing_mm: np.ndarray  # float32 [2] per pixel (row, column); NaN where the header gives none.


def read_volume(path) -> Volume:
  """Reads a NIfTI, MetaImage or NRRD file after checking that it is whole.

  The header of an `.mhd` names its `.raw` beside it. The length of `.nrrd` is not checked.
  """
  path = Path(path)
  name, spacing = path.name.lower(), None
  if not name.endswith('.nrrd'):
    if not path.is_file():
      raise fault('missing-file', path, absence(path), 'a NIfTI or MetaImage volume')
    spacing = (_check_metaimage if name.endswith(('.mhd', '.mha')) else _check_nifti)(path)
  try:
    with ITK_LOCK:
      reader = sitk.ImageFileReader()
      reader.SetFileName(str(path))
      reader.ReadImageInformation()
      size = reader.GetSize()
      raw_clip.checked_size(path, math.prod(size[2:]), *size[1::-1])
      image = reader.Execute()
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[-1].strip()
    found = f'a file that cannot be read as a medical image ({reason[:160]})'
    wanted = 'a whole NIfTI, MetaImage or NRRD file'
    raise fault('damaged-file', path, found, wanted) from error
  array = sitk.GetArrayFromImage(image)
  dimensions = image.GetDimension()
  if dimensions == 4 and 1 in array.shape[:2]:  # [T, 1, H, W] or [1, T, H, W].
    array = array.reshape((-1, *array.shape[2:]))
  elif dimensions == 2:
    array = array[None]
  if spacing is None:
    spacing = _spacing(*image.GetSpacing()[1::-1])
  return Volume(array, spacing)


def write_volume(path, array: np.ndarray, spacing: tuple[float, ...]) -> None:
  """Writes an array as the format of the file's name; NIfTI is packed.

  `spacing` is in mm per pixel, in the order of ITK: column, row, and frame if there is one.
  """
  image = sitk.GetImageFromArray(np.ascontiguousarray(array))
  image.SetSpacing(spacing)
  with ITK_LOCK:
    sitk.WriteImage(image, str(path), useCompression=str(path).endswith('.gz'))


def as_uint8(array: np.ndarray, path: Path) -> np.ndarray:
  """Casts whole numbers in 0..255 to uint8.

  An array that is uint8 is returned itself; `path` names the file in messages.
  """
  if array.dtype == np.uint8:
    return array
  if not np.isfinite(array).all():
    raise fault('voxel-values', path, 'NaN or infinite values', _LEVELS)
  low, high = float(array.min()), float(array.max())
  if low < 0 or high > 255 or not (array == np.rint(array)).all():
    raise fault('voxel-values', path, f'{array.dtype} values from {low:g} to {high:g}', _LEVELS)
  return array.astype(np.uint8)


def _check_nifti(path: Path) -> np.ndarray:
  """Checks gzip checksum, header and length; returns the spacing."""
  with open(path, 'rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
  try:
    with (gzip.open if packed else open)(path, 'rb') as file:
      return _check_nifti_stream(path, file)
  except EOFError as error:
    raise fault('truncated-file', path, 'a gzip stream that ends early', 'a whole file') from error
  except (gzip.BadGzipFile, zlib.error) as error:
    raise fault('damaged-file', path, f'a damaged gzip stream ({error})', 'a whole file') from error


def _check_nifti_stream(path: Path, file: BinaryIO) -> np.ndarray:
  """The same, of the unpacked bytes; never holds more than the header says."""
  header = file.read(352)
  order = '<'
  if len(header) >= 348 and struct.unpack('>i', header[:4])[0] == 348:
    order = '>'
  if len(header) < 348 or struct.unpack(order + 'i', header[:4])[0] != 348:
    raise fault('damaged-file', path, 'no NIfTI-1 header', 'a NIfTI-1 file')
  dims = struct.unpack(order + '8h', header[40:56])
  datatype, bits = struct.unpack(order + '2h', header[70:74])
  pixdim = struct.unpack(order + '8f', header[76:108])
  offset = struct.unpack(order + 'f', header[108:112])[0]
  sizes = dims[1 : 1 + dims[0]] if 1 <= dims[0] <= 7 else ()
  floats = _NIFTI_FLOATS.get(datatype)
  wrong_bits = floats and bits != 8 * np.dtype(floats).itemsize
  if not sizes or min(sizes) < 1 or bits < 8 or not 348 <= offset < 1e9 or wrong_bits:
    found = f'a senseless header (dim {dims}, bitpix {bits}, offset {offset:g})'
    raise fault('damaged-file', path, found, 'sizes of a NIfTI-1 volume')
  voxels = math.prod(sizes) * bits // 8
  if voxels > MAX_VOXEL_BYTES:
    found = f'a header that announces {voxels / 2**30:.1f} GiB (size {sizes})'
    wanted = f'at most {MAX_VOXEL_BYTES / 2**30:.0f} GiB: a shorter clip, as uint8'
    raise fault('damaged-file', path, found, wanted)
  payload = header[int(offset) :]
  file.read(max(int(offset) - len(header), 0))
  payload += file.read(voxels - len(payload))
  wanted = f'{int(offset) + voxels} for the size {sizes} in its header'
  if len(payload) < voxels:
    found = f'{int(offset) + len(payload)} bytes of header and voxels'
    raise fault('truncated-file', path, found, wanted)
  if len(file.read(_MAX_SURPLUS + 1)) > _MAX_SURPLUS:  # To the checksum.
    found = f'more than {int(offset) + voxels + _MAX_SURPLUS} bytes'
    raise fault('truncated-file', path, found, wanted)
  if floats and not np.isfinite(np.frombuffer(payload, order + floats, math.prod(sizes))).all():
    raise fault('voxel-values', path, 'NaN or infinite values', _LEVELS)
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
      float(step) for step in header.get('ElementSpacing', header.get('ElementSize', '')).split()
    ]
    channels = int(header.get('ElementNumberOfChannels', '1'))
  except (KeyError, ValueError) as error:
    wanted = 'DimSize, ElementType and ElementDataFile'
    raise fault('damaged-file', path, f'no MetaImage header ({error!r})', wanted) from error
  if data_name == 'LOCAL':
    data_file, found = path, path.stat().st_size - start
  else:
    data_file = path.parent / data_name
    if not data_file.is_file():
      raise fault('missing-file', data_file, 'nothing', f'the voxels of {path.name}')
    found = data_file.stat().st_size
  packed = header.get('CompressedData', 'False').lower() == 'true'
  if not packed and element in _META_BYTES:
    wanted = math.prod(sizes) * channels * _META_BYTES[element]
    if found != wanted:
      wanted = f'{wanted} for the size {tuple(sizes)} in {path.name}'
      raise fault('truncated-file', data_file, f'{found} bytes of voxels', wanted)
  if len(steps) < 2:
    return np.full(2, np.nan, np.float32)
  return _spacing(steps[1], steps[0])


def _spacing(row: float, column: float) -> np.ndarray:
  """Returns the spacing float32 [2] (row, column); NaN where not a positive number."""

  spacing = np.array([row, column], np.float32)
  spacing[~(np.isfinite(spacing) & (spacing > 0))] = np.nan
  return spacing
