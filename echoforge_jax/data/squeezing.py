"""Squeezes the clips of a raw dataset one by one, so that it can be resumed."""

from collections.abc import Mapping, Sequence
import concurrent.futures
import dataclasses
import os
import pathlib

import numpy as np

from echoforge_jax.clip import Clip, cut_to_ends
from echoforge_jax.data import datasets as raw
from echoforge_jax.errors import InputError
from echoforge_jax.formats import resize as squeeze


@dataclasses.dataclass(frozen=True)
class Skip:
  """A clip that could not be prepared.

  Attributes:
    patient: identifier.
    view: '2CH' or '4CH'.
    split: 'train', 'validation' or 'test'.
    reason: what was wrong, with the file's name.
  """

  patient: str
  view: str
  split: str
  reason: str


class ClipsFailed(InputError):
  """Some clips could not be read; all others are squeezed and kept.

  Attributes:
    skipped: the clips.
  """

  def __init__(self, raw_dir, skipped: Sequence[Skip]):
    self.skipped = list(skipped)
    first = '; '.join(skip.reason for skip in self.skipped[:3])
    more = f'; and {len(skipped) - 3} more' if len(skipped) > 3 else ''
    super().__init__(
      f'{raw_dir}: {len(skipped)} clips cannot be prepared: {first}{more}. '
      'The others are kept: mend these and start again, or pass '
      '--allow_skips to go on without them; `echoforge verify` lists all '
      'that is wrong'
    )


def clip_to_example(clip: Clip, image_size: int) -> dict[str, np.ndarray]:
  """Squeezes one clip into the features of `example_features`."""
  native = clip.frames.shape[1:]
  return {
    'patient': np.str_(clip.patient),
    'view': np.str_(clip.view),
    'frames': squeeze.squeeze_frames(clip.frames, image_size),
    'masks': squeeze.squeeze_masks(clip.masks, image_size),
    'labeled': np.asarray(clip.labeled, np.bool_),
    'ed': np.int32(clip.ed),
    'es': np.int32(clip.es),
    'spacing_mm': squeeze.squeezed_spacing(clip.spacing_mm, native, image_size),
    'native_size': np.asarray(native, np.int32),
    'native_spacing_mm': np.asarray(clip.spacing_mm, np.float32),
    'fps': np.float32(clip.fps),
    'quality': np.str_(clip.quality),
    'ef_percent': np.float32(clip.ef_percent),
    'edv_ml': np.float32(clip.edv_ml),
    'esv_ml': np.float32(clip.esv_ml),
  }


def _read_clip(reader: raw.RawReader, raw_dir, patient, view) -> Clip:
  """Reads one clip; whatever is wrong with it is the user's to know."""
  try:
    return reader.read_clip(raw_dir, patient, view)
  except InputError:
    raise
  except (OSError, RuntimeError, ValueError) as error:
    raise InputError(
      f'{raw_dir}: cannot read {patient} {view} ({error})'
    ) from error


def _squeeze_clip(reader, raw_dir, patient, view, size, file, cut) -> dict:
  """Squeezes one clip into `file` unless it is there; returns its record."""
  if not file.exists():
    clip = _read_clip(reader, raw_dir, patient, view)
    temporary = file.with_suffix('.tmp')
    with temporary.open('wb') as stream:
      np.savez(
        stream, **clip_to_example(cut_to_ends(clip) if cut else clip, size)
      )
      stream.flush()
      os.fsync(stream.fileno())  # The name appears after the contents.
    temporary.rename(file)
  with np.load(file) as arrays:
    labeled, ed, es = (arrays[name] for name in ('labeled', 'ed', 'es'))
    return {
      'patient': patient,
      'view': view,
      'num_frames': len(labeled),
      'labeled': bool(labeled[ed] and labeled[es]),
    }


def squeeze_all(
  reader: raw.RawReader,
  raw_dir: pathlib.Path,
  splits: Mapping[str, Sequence[tuple[str, str]]],
  size: int,
  cache: pathlib.Path,
  bar,
):
  """Squeezes what is missing of all clips, several at a time.

  A clip that cannot be read does not stop the others.

  Args:
    reader: of the raw dataset.
    raw_dir: its root.
    splits: split -> [(patient, view), ...].
    size: S, side of the square in pixels.
    cache: folder of the squeezed clips.
    bar: progress, `update()` is called for each clip.

  Returns:
    split -> [file, ...], split -> [record of the index, ...], [Skip, ...].

  Raises:
    OSError: when `cache` cannot be written.
  """
  files = {split: [] for split in splits}
  records = {split: [] for split in splits}
  skipped = []
  # Decompression and resizing release the interpreter's lock.
  pool = concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
  try:
    pending = [
      (split, patient, view, cache / f'{patient}_{view}.npz')
      for split, clips in splits.items()
      for patient, view in clips
    ]
    futures = [
      pool.submit(
        _squeeze_clip,
        reader,
        raw_dir,
        patient,
        view,
        size,
        file,
        reader.whole_clips and split == 'train',
      )
      for split, patient, view, file in pending
    ]
    for (split, patient, view, file), future in zip(pending, futures):
      try:
        records[split].append(future.result())
        files[split].append(file)
      except InputError as error:
        skipped.append(Skip(patient, view, split, str(error)))
      bar.update()
  finally:
    pool.shutdown(cancel_futures=True)
  return files, records, skipped
