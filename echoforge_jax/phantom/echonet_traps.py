"""Plants what goes wrong in real EchoNet-Dynamic folders, one clip per trap."""

from collections.abc import Sequence
import csv
import dataclasses
from pathlib import Path

import numpy as np

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet, video


def _edit(column: int, change):
  """Returns a trap that changes one cell of a clip's line in the list."""

  def trap(self):
    self._line[column] = str(change(self._line[column]))

  return trap


def _film(change):
  """Returns a trap that changes a clip's frames [T, H, W]."""
  return lambda self: self._rewrite(change)


@dataclasses.dataclass
class _Clip:
  """One clip of a folder; each public method plants the trap of its name.

  Noise outside the sector is in every clip, and no EF follows from one plane: those two need no
  planting.
  """

  root: Path
  files: list[list[str]]  # Both tables with their heads, the same lists for all clips.
  tracings: list[list[str]]
  name: str  # A trap may change it.

  @property
  def _line(self) -> list[str]:
    return next(row for row in self.files if row[0] == self.name)

  @property
  def _rows(self) -> list[list[str]]:
    return [row for row in self.tracings if row[0] == f'{self.name}.avi']

  @property
  def _frames(self) -> list[int]:
    return sorted({int(row[5]) for row in self._rows})

  @property
  def _video(self) -> Path:
    return echonet.video_path(self.root, self.name)

  def _drop(self, rows: list[list[str]]) -> None:
    gone = {id(row) for row in rows}
    self.tracings[:] = [row for row in self.tracings if id(row) not in gone]

  def _rename(self, new: str) -> None:
    line, rows, path = self._line, self._rows, self._video
    self.name = line[0] = new
    for row in rows:
      row[0] = f'{new}.avi'
    path.replace(self._video)

  def _rewrite(self, change) -> None:
    frames = np.ascontiguousarray(change(video.read_video(self._video).frames))
    self._video.write_bytes(video.encode_mjpg(frames, float(self._line[6])))

  def no_tracing(self):
    self._drop(self._rows)

  def orphan_tracing(self):
    self.files.remove(self._line)
    self._video.unlink()

  def known_no_tracing(self):
    """One of the six clips that the release lists but never traced."""
    self._drop(self._rows)
    self._rename(echonet.DEFAULT_EXCLUDED[0])

  def known_orphan(self):
    """The one tracing of the release that has no clip."""
    self._rename(echonet.KNOWN_ORPHAN)
    self.orphan_tracing()

  def missing_video(self):
    self._video.unlink()

  def row_count(self):
    """One traced frame keeps 15 rows: as in 93 real clips."""
    rows = [r for r in self._rows if int(r[5]) == self._frames[0]]
    self._drop(rows[2::3][:6])

  frame_count = _edit(7, lambda count: int(count) + 7)

  def ed_after_es(self):
    """The recording runs backwards: ES is traced on the earlier frame."""
    self._rewrite(lambda frames: frames[::-1])
    for row in self._rows:
      row[5] = str(int(self._line[7]) - 1 - int(row[5]))

  def short_interval(self):
    """Every third frame is kept around the traced ones: under ten between."""
    first, second = self._frames
    step = max(2, -(-(second - first) // 6))
    kept = np.r_[np.arange(first, -1, -step)[::-1], np.arange(first, second, step), second]
    kept = np.unique(kept)
    self._rewrite(lambda frames: frames[kept])
    for row in self._rows:
      row[5] = str(np.searchsorted(kept, int(row[5])))
    self._line[7] = str(len(kept))

  def undecodable(self):
    self._video.write_bytes(self._video.read_bytes()[:200])

  def cut_short(self):
    """The download stopped before the last traced frame."""
    self._rewrite(lambda frames: frames[: self._frames[1]])

  other_size = _film(lambda frames: frames[:, 8:104, 4:108])
  unknown_split = _edit(8, lambda _: 'HOLDOUT')
  lower_split = _edit(8, str.lower)

  def listed_twice(self):
    self.files.append(list(self._line))

  ef_range = _edit(1, lambda _: 142.5)

  def ef_volumes(self):
    """EF contradicts the volumes beside it."""
    self._line[2:4] = self._line[3:1:-1]

  blank = _film(np.zeros_like)

  def same_video(self):
    """A clip's pixels are another clip's: the first of the list."""
    other = dataclasses.replace(self, name=self.files[1][0])
    self._line[7] = other._line[7]
    self._video.write_bytes(other._video.read_bytes())
    self._drop(self._rows)
    self.tracings += [[f'{self.name}.avi', *row[1:]] for row in other._rows]

  def one_frame(self):
    """Only one frame is traced."""
    self._drop([r for r in self._rows if int(r[5]) == self._frames[0]])

  def bad_number(self):
    self._rows[3][1] = 'nan'


TRAPS = tuple(name for name, trap in vars(_Clip).items() if callable(trap) and name[0] != '_')


def check(traps: Sequence[str], num_patients: int) -> None:
  """Raises `InputError` on an unknown name, or more traps than clips."""
  unknown = ', '.join(sorted(set(traps) - set(TRAPS)))
  if unknown:
    raise InputError(f'traps: found {unknown}, wanted some of {", ".join(TRAPS)}, or all')
  if len(set(traps)) >= num_patients:
    raise InputError(
      f'traps: {len(set(traps))} of {num_patients} patients; '
      'wanted fewer traps than patients, one clip each'
    )


def choose(truth: dict, traps: Sequence[str]) -> dict[str, str]:
  """Chooses a clip for each trap, training clips first; the first clip of all stays whole."""
  splits = {name: facts['split'] for name, facts in truth['patients'].items()}
  names = sorted(sorted(splits)[1:], key=lambda name: (splits[name] != 'TRAIN', name))
  return dict(zip((t for t in TRAPS if t in traps), names))


def plant(root: Path, truth: dict, traps: Sequence[str]) -> dict[str, str]:
  """Plants each trap in a clip of its own; returns trap -> its later name."""
  if not traps:
    return {}
  paths = root / echonet.FILE_LIST, root / echonet.TRACINGS
  tables = [list(csv.reader(path.read_text().splitlines())) for path in paths]
  planted = choose(truth, traps)
  for trap, name in planted.items():
    clip = _Clip(root, *tables, name)
    getattr(clip, trap)()
    planted[trap] = clip.name
  for path, rows in zip(paths, tables):
    textio.write_text(path, ''.join(','.join(row) + '\n' for row in rows))
  return planted
