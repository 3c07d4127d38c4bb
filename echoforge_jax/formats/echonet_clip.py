"""One clip of EchoNet-Dynamic: its video and tracings, read and checked."""

from collections.abc import Iterator
import dataclasses
import math
import os
import pathlib

import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats import video
from echoforge_jax.formats.findings import Finding, make_finding

VIEW = '4CH'
# The code of clips without tracing in the release: no error of the download.
NEVER_TRACED = 'tracing-known-missing'
# The axis and 20 chords; with fewer than two chords they span no area.
ROWS, MIN_ROWS = 21, 3
_FAR = 1e5  # Pixels.


@dataclasses.dataclass(frozen=True)
class FileRow:
  """One line of FileList.csv; numbers are NaN if empty."""

  name: str  # Without '.avi'.
  ef_percent: float
  esv_ml: float
  edv_ml: float
  height: int
  width: int
  fps: float
  num_frames: int  # As listed (0: not listed); the decoded number may differ.
  split: str  # As written, for example 'TRAIN'.
  line: int  # Of the file.


def missing_bytes(path: str | os.PathLike) -> int:
  """Returns how many bytes an AVI file lacks of the length in its header.

  A cut file often decodes without an error, only shorter.
  """
  with open(path, 'rb') as file:
    head = file.read(8)
  if len(head) < 8 or head[:4] != b'RIFF':
    return 0
  return max(0, 8 + int.from_bytes(head[4:], 'little') - os.path.getsize(path))


def tracing_mask(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Returns the mask of a tracing uint8 {0, 1} of `shape` [H, W], by the provider's own rule.

  The polygon runs down the first ends of the chords and up the second ends; the long axis (row 0)
  is no part of it. `rows` is float64 [R, 4] (x1, y1, x2, y2) in pixels, or the polygon itself,
  [R, 2] (x, y); R >= 3.
  """
  from skimage import draw  # A third of a second; needed here only.

  if len(rows) < MIN_ROWS:
    raise ValueError(
      f'found {len(rows)} tracing rows, wanted {MIN_ROWS} or more: the long axis and its chords'
    )
  # Points far outside would overflow; the border cuts the polygon anyhow.
  rows = np.clip(rows, -_FAR, _FAR)
  if rows.shape[1] == 4:
    rows = np.concatenate([rows[1:, :2], rows[:0:-1, 2:]])
  x, y = rows.T
  mask = np.zeros(shape, np.uint8)
  mask[draw.polygon(np.rint(y).astype(int), np.rint(x).astype(int), shape)] = 1
  return mask


class Recording:
  """One clip, read and checked in one pass, as far as `read` could read it."""

  def __init__(
    self,
    path: pathlib.Path,
    tables: pathlib.Path,
    row: FileRow,
    traced: dict[int, np.ndarray],
    *,
    never_traced: bool = False,
    view: str = VIEW,
  ):
    """Reads nothing yet.

    Args:
      tables: the file of tracings, for messages.
      row: of the file list.
      traced: frame -> rows of `tracing_mask`.
      never_traced: the release is known to lack this clip's tracing.
    """
    self.path, self.row, self.traced = path, row, traced
    self.frames: np.ndarray | None = None  # uint8 [T, H, W]; None if no frame can be decoded.
    self.masks: dict[int, np.ndarray] = {}  # uint8 [H, W] {0, 1} of usable traced frames.
    self.fps = row.fps  # The video's own where the list has none.
    self.tables, self._never_traced, self._view = tables, never_traced, view

  def read(self) -> Iterator[Finding]:
    """Reads the clip, and yields what makes it unusable."""
    name, tables = self.row.name, self.tables
    if self._never_traced and not self.traced:
      found = f'{name}, listed but not traced'
      yield make_finding(NEVER_TRACED, tables, found, 'two traced frames')
    elif len(self.traced) != 2:
      found = f'{len(self.traced)} traced frames of {name}'
      yield make_finding('tracing-frames', tables, found, 'two: ED and ES')
    yield from self._read_video()
    if self.frames is None:
      return
    for frame, rows in sorted(self.traced.items()):
      yield from self._read_tracing(frame, rows)
    blank = [t for t in self.masks if np.ptp(self.frames[t]) == 0]
    if blank:
      found = f'a single gray level in the traced frames {blank}'
      yield make_finding('image-blank', self.path, found, 'ultrasound')

  def _read_video(self) -> Iterator[Finding]:
    path = self.path
    if not path.exists():
      yield make_finding('missing-file', path, 'nothing', 'a clip')
      return
    try:
      clip, error = video.decode(path, look_for_color=False)
    except InputError as wrong:
      reason = str(wrong).removeprefix(f'{path}: ').split(';')[0]
      yield make_finding('video-undecodable', path, reason, 'an MJPG AVI file')
      return
    self.frames = clip.frames
    self.fps = clip.fps if math.isnan(self.fps) else self.fps
    if missing := missing_bytes(path):
      error = error or f'{missing} bytes are missing'
    if error:
      found = f'{len(self.frames)} frames, then {error}'
      yield make_finding('video-damaged', path, found, 'a file that decodes to its end')
    height, width = self.frames.shape[1:]
    if (height, width) != (self.row.height, self.row.width):
      wanted = f'{self.row.height} x {self.row.width} as the list says'
      yield make_finding('video-resized', path, f'{height} x {width}', wanted)

  def _read_tracing(self, frame: int, rows: np.ndarray) -> Iterator[Finding]:
    what = f'frame {frame} of {self.row.name}'
    if len(rows) < MIN_ROWS:
      yield make_finding('tracing-short', self.tables, f'{len(rows)} rows of {what}', ROWS)
      return
    if not 0 <= frame < len(self.frames):
      count = f'a frame below {len(self.frames)}, the frames of the video'
      yield make_finding('tracing-beyond', self.tables, what, count)
      return
    self.masks[frame] = tracing_mask(rows, self.frames.shape[1:])
    if not self.masks[frame].any():
      yield make_finding('lv-empty', self.tables, f'an empty polygon, {what}', 'a ventricle')

  def ends(self) -> tuple[int, int]:
    """Returns (ed, es): the larger of the two traced areas is ED."""
    ed, es = sorted(self.masks, key=lambda t: (-int(self.masks[t].sum()), t))
    return ed, es

  def clip(self) -> Clip:
    """Returns the clip of a recording that was read without an error."""
    masks = np.zeros_like(self.frames)
    labeled = np.zeros(len(masks), bool)
    for frame, mask in self.masks.items():
      masks[frame], labeled[frame] = LABELS['lv'] * mask, True
    ed, es = self.ends()
    return Clip(
      patient=self.row.name,
      view=self._view,
      frames=self.frames,
      masks=masks,
      labeled=labeled,
      ed=ed,
      es=es,
      spacing_mm=np.full(2, np.nan, np.float32),
      fps=self.fps,
      ef_percent=self.row.ef_percent,
      edv_ml=self.row.edv_ml,
      esv_ml=self.row.esv_ml,
    )
