"""One case of a folder: its images and masks, read and checked in one pass."""

from collections.abc import Iterator
import math
import pathlib

import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats import arrays, raw_clip, readers
from echoforge_jax.formats.cases_csv import is_number
from echoforge_jax.formats.findings import ERROR, Finding, make_finding, of_decoder
from echoforge_jax.formats.folder import ALL, Case
from echoforge_jax.formats.label_names import UNKNOWN, Labels
from echoforge_jax.formats.masks import VOLUMES, read_mask_volume
from echoforge_jax.formats.raw_clip import RawClip

# Areas that differ by less are no evidence of swapped frames.
_SWAPPED = 0.95


class CaseReading:
  """One case, as far as `read` could read it."""

  def __init__(self, case: Case, labels: Labels):
    self.case, self.labels = case, labels
    self.frames: np.ndarray | None = None  # uint8 [T, H, W].
    self.masks: dict[int, np.ndarray] = {}  # Frame -> uint8 [H, W] of `LABELS`, not blank.
    self.ends: tuple[int, int] | None = None
    self.spacing_mm, self.fps = raw_clip.UNKNOWN_SPACING, math.nan

  def read(self) -> Iterator[Finding]:
    """Reads the files, and yields what is wrong with them."""
    if self.case.faults:
      yield from self.case.faults
      return
    yield from self._read_images()
    if self.frames is None:
      return
    wrong = []
    for number, path in sorted(self.case.masks.items()):
      wrong += self._read_mask(number, path)
    yield from wrong
    if any(finding.severity == ERROR for finding in wrong):
      return  # What follows from them is no fault of its own.
    yield from self._find_ends()
    if self.ends:
      yield from self._judge()

  def _read_images(self) -> Iterator[Finding]:
    clips = []
    for path in self.case.images:
      try:
        clips.append(readers.read_any(path))
      except InputError as error:
        yield of_decoder('image-unreadable', path, error, 'a whole image')
        return
    first, path = clips[0], self.case.images[-1]
    if self.case.is_pair and any(len(clip.frames) > 1 for clip in clips):
      found = ' and '.join(str(len(clip.frames)) for clip in clips) + ' frames'
      yield make_finding('mask-frames', path, found, 'one frame in each still')
      return
    shapes = [clip.frames.shape[1:] for clip in clips]
    if shapes[0] != shapes[-1]:
      wanted = f'{_size(shapes[0])} as {self.case.images[0].name}'
      yield make_finding('mask-size', path, _size(shapes[-1]), wanted)
      return
    self.frames = np.concatenate([clip.frames for clip in clips])
    row = self.case.row
    self.fps = row.fps if row and row.fps > 0 else first.fps
    if self._has_row_spacing():
      self.spacing_mm = row.spacing_mm
    else:
      self.spacing_mm = first.spacing_mm
      yield from _check_spacing(self.case.images, clips)
    if self.frames.max() <= max(LABELS.values()):
      found = f'values 0 to {self.frames.max()}'
      yield make_finding('image-is-mask', self.case.images[0], found, 'gray levels')

  def _has_row_spacing(self) -> bool:
    return self.case.row is not None and self.case.row.spacing_mm[0] > 0

  def _read_mask(self, number: int, path: pathlib.Path) -> Iterator[Finding]:
    """Reads one file of masks, of a frame or of `ALL`."""
    count, shape = len(self.frames), self.frames.shape[1:]
    try:
      masks, spacing = read_mask_volume(path)
      numbers = [number] if number != ALL else self._numbers(path, len(masks))
    except InputError as error:
      yield of_decoder('mask-unreadable', path, error, 'a whole mask')
      return
    if masks.shape[1:] != shape:
      wanted = f'{_size(shape)} as {self.case.images[0].name}'
      yield make_finding('mask-size', path, _size(masks.shape[1:]), wanted)
      return
    if len(numbers) != len(masks) or len(set(numbers)) < len(masks):
      wanted = '1' if number != ALL else f'{count}, as the clip has frames, each once'
      yield make_finding('mask-frames', path, f'{len(masks)} masks', wanted)
      return
    if beyond := [n for n in numbers if not 0 <= n < count]:
      found = f'a mask of frame {beyond[0]}'
      yield make_finding('frame-beyond', path, found, f'0 to {count - 1} as the clip has')
      return
    if not (self._has_row_spacing() or _is_same(spacing, self.spacing_mm)):
      wanted = f'{_millimeters(self.spacing_mm)} as {self.case.images[0].name}'
      yield make_finding('spacing-mismatch', path, _millimeters(spacing), wanted)
    mapped = self.labels.table[masks]
    if (mapped == UNKNOWN).any():
      values = np.unique(masks[mapped == UNKNOWN]).tolist()
      known = np.flatnonzero(self.labels.table != UNKNOWN).tolist()
      yield make_finding('mask-values', path, f'the values {values[:8]}', f'some of {known[:12]}')
      return
    drawn = {n: mask for n, mask in zip(numbers, mapped) if self._area(mask)}
    self.masks |= drawn
    if len(drawn) < len(numbers):
      blank = sorted(set(numbers) - set(drawn))
      found = f'nothing drawn on {len(blank)} frames, the first is {blank[0]}'
      yield make_finding('frame-unlabeled', path, found, 'a left ventricle')

  def _numbers(self, path: pathlib.Path, count: int) -> list[int]:
    """Returns the frames that a file with `count` masks labels; wrong ones are found later."""
    if path.suffix.lower() == '.npz':
      named = arrays.read_fields(path, ('masks', 'frames')).get('frames')
      if named is not None:
        if named.dtype.kind not in 'ui':
          raise InputError(f'{path}: {named.dtype} frames, no whole numbers; wanted frames from 0')
        return np.ravel(named).astype(np.int64).tolist()
    row = self.case.row
    if count == 2 != len(self.frames) and row and is_number(row.ed) and is_number(row.es):
      return [int(row.ed), int(row.es)]
    return list(range(len(self.frames)))

  def _area(self, mask: np.ndarray) -> int:
    """Returns the pixels of the left ventricle, or of all labels where it is none of them."""
    return int((mask == LABELS['lv']).sum() if 'lv' in self.labels.classes else (mask > 0).sum())

  def _find_ends(self) -> Iterator[Finding]:
    """Takes ED and ES from the stills or the table, else from the areas (ours)."""
    count, row, path = len(self.frames), self.case.row, self.case.images[0]
    if self.case.is_pair or count == 1:
      self.ends = (0, count - 1)
    elif row and row.ed:
      for name in ('ed', 'es'):
        text = getattr(row, name)
        if not is_number(text) or int(text) >= count:
          found = f'{name} is {text!r}'
          yield make_finding('frame-beyond', path, found, f'a frame, 0 to {count - 1}')
          return
      self.ends = int(row.ed), int(row.es)
    else:
      order = sorted(self.masks, key=lambda n: (-self._area(self.masks[n]), n))
      if len(order) < 2 or self._area(self.masks[order[0]]) == self._area(self.masks[order[-1]]):
        found = f'{len(order)} labeled frames of {count}'
        wanted = 'two or more whose ventricles differ, or ed and es in cases.csv'
        yield make_finding('ends-unknown', path, found, wanted)
        return
      self.ends = order[0], order[-1]

  def _judge(self) -> Iterator[Finding]:
    """Checks the frames and masks at ED and ES."""
    path = self.case.images[0]
    for frame, name in dict(zip(self.ends[::-1], ('ES', 'ED'))).items():
      if np.ptp(self.frames[frame]) == 0:
        where = self.case.images[-1] if frame and self.case.is_pair else path
        yield make_finding('image-blank', where, f'one value only on frame {frame}', 'ultrasound')
      if frame not in self.masks:
        mask = self.case.masks.get(frame, self.case.masks.get(ALL))
        code = 'mask-empty' if mask else 'mask-missing'
        found = f'nothing at {name} (frame {frame} of {self.case.name})'
        yield make_finding(code, mask or path, found, 'a labeled ventricle')
    ed, es = self.ends
    if ed != es and (self.frames[ed] == self.frames[es]).all():
      yield make_finding('ed-equals-es', path, 'the same pixels at ED and ES', 'two frames')
    if all(frame in self.masks for frame in self.ends):
      ed, es = (self._area(self.masks[frame]) for frame in self.ends)
      if ed < es:
        code = 'ends-swapped' if ed < _SWAPPED * es else 'ed-es-close'
        found = f'{ed} pixels at ED, {es} at ES'
        yield make_finding(code, path, found, 'the larger ventricle at ED')

  def clip(self) -> Clip:
    """Returns the clip of a case that was read without an error."""
    row = self.case.row
    masks = np.zeros_like(self.frames)
    for number, mask in self.masks.items():
      masks[number] = mask
    ed, es = self.ends
    return Clip(
      patient=self.case.patient,
      view=self.case.view,
      frames=self.frames,
      masks=masks,
      labeled=np.isin(np.arange(len(masks)), list(self.masks)),
      ed=ed,
      es=es,
      spacing_mm=np.asarray(self.spacing_mm, np.float32),
      fps=self.fps,
      ef_percent=row.ef_percent if row else math.nan,
    )


def _size(shape) -> str:
  return f'{shape[0]} x {shape[1]} pixels'


def _check_spacing(paths: list[pathlib.Path], clips: list[RawClip]) -> Iterator[Finding]:
  for path, clip in zip(paths, clips):
    if 'spacing_implausible' in clip.flags:
      note = next(note for note in clip.notes if 'mm a pixel' in note)
      yield make_finding('spacing-unit', path, note, '0.01 to 5 mm')
    elif path.name.lower().endswith(VOLUMES) and not np.isfinite(clip.spacing_mm).all():
      yield make_finding('spacing-unknown', path, _millimeters(clip.spacing_mm), '0.01 to 5 mm')
  if not _is_same(clips[0].spacing_mm, clips[-1].spacing_mm):
    wanted = f'{_millimeters(clips[0].spacing_mm)} as {paths[0].name}'
    found = _millimeters(clips[-1].spacing_mm)
    yield make_finding('spacing-mismatch', paths[-1], found, wanted)


def _is_same(first, second) -> bool:
  """Tells whether two spacings agree; unknown ones, and the writers' default 1 x 1, always do."""
  pair = np.array([first, second], np.float64)
  is_unknown = np.isnan(pair).any() or (pair == 1).all(axis=1).any()
  return bool(is_unknown or np.allclose(*pair, rtol=1e-3))


def _millimeters(spacing) -> str:
  return f'{spacing[0]:.4g} x {spacing[1]:.4g} mm a pixel'
