"""Plants what goes wrong in real EchoNet-Dynamic folders, one clip a trap."""

from collections.abc import Callable, Sequence
import csv
import dataclasses
from pathlib import Path

import numpy as np

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet, video


@dataclasses.dataclass
class _Folder:
  """Both tables, and where the videos are."""

  root: Path
  files: list[list[str]]
  tracings: list[list[str]]

  def line(self, name: str) -> list[str]:
    return next(row for row in self.files if row[0] == name)

  def rows(self, name: str) -> list[list[str]]:
    return [row for row in self.tracings if row[0] == f'{name}.avi']

  def drop(self, rows: list[list[str]]) -> None:
    gone = {id(row) for row in rows}
    self.tracings = [row for row in self.tracings if id(row) not in gone]


def _frames(folder: _Folder, name: str) -> list[int]:
  return sorted({int(row[5]) for row in folder.rows(name)})


def _no_tracing(folder, name):
  folder.drop(folder.rows(name))


def _known_no_tracing(folder, name):
  """One of the six clips that the release lists but never traced."""
  folder.drop(folder.rows(name))
  return _rename(folder, name, echonet.DEFAULT_EXCLUDED[0])


def _known_orphan(folder, name):
  """The one tracing of the release that has no clip."""
  name = _rename(folder, name, echonet.KNOWN_ORPHAN)
  _orphan_tracing(folder, name)
  return name


def _orphan_tracing(folder, name):
  folder.files.remove(folder.line(name))
  echonet.video_path(folder.root, name).unlink()


def _missing_video(folder, name):
  echonet.video_path(folder.root, name).unlink()


def _row_count(folder, name):
  """One traced frame keeps 15 rows: as in 93 real clips."""
  frame = _frames(folder, name)[0]
  rows = [r for r in folder.rows(name) if int(r[5]) == frame]
  folder.drop(rows[2::3][:6])


def _frame_count(folder, name):
  folder.line(name)[7] = str(int(folder.line(name)[7]) + 7)


def _ed_after_es(folder, name):
  """The recording runs backwards: ES is traced on the earlier frame."""
  _rewrite(folder, name, lambda frames: frames[::-1])
  last = int(folder.line(name)[7]) - 1
  for row in folder.rows(name):
    row[5] = str(last - int(row[5]))


def _short_interval(folder, name):
  """Every third frame is kept around the traced ones: under ten between."""
  first, second = _frames(folder, name)
  step = max(2, -(-(second - first) // 6))
  kept = np.unique(np.r_[np.arange(first, -1, -step)[::-1], np.arange(first, second, step), second])
  _rewrite(folder, name, lambda frames: frames[kept])
  place = {str(frame): str(int(np.flatnonzero(kept == frame)[0])) for frame in (first, second)}
  for row in folder.rows(name):
    row[5] = place[row[5]]
  folder.line(name)[7] = str(len(kept))


def _truncated(folder, name):
  path = echonet.video_path(folder.root, name)
  path.write_bytes(path.read_bytes()[:200])


def _cut_short(folder, name):
  """The download stopped before the last traced frame."""
  keep = _frames(folder, name)[1]
  _rewrite(folder, name, lambda frames: frames[:keep])


def _other_size(folder, name):
  _rewrite(folder, name, lambda frames: frames[:, 8:104, 4:108])


def _unknown_split(folder, name):
  folder.line(name)[8] = 'HOLDOUT'


def _lower_split(folder, name):
  folder.line(name)[8] = folder.line(name)[8].lower()


def _listed_twice(folder, name):
  folder.files.append(list(folder.line(name)))


def _ef_range(folder, name):
  folder.line(name)[1] = '142.5'


def _ef_volumes(folder, name):
  """EF contradicts the volumes beside it."""
  row = folder.line(name)
  row[2], row[3] = row[3], row[2]


def _blank(folder, name):
  _rewrite(folder, name, np.zeros_like)


def _same_video(folder, name):
  """A clip's pixels are another clip's: the first of the list."""
  other = folder.files[0][0]
  folder.line(name)[7] = folder.line(other)[7]
  echonet.video_path(folder.root, name).write_bytes(
    echonet.video_path(folder.root, other).read_bytes()
  )
  folder.drop(folder.rows(name))
  folder.tracings += [[f'{name}.avi', *row[1:]] for row in folder.rows(other)]


def _one_frame(folder, name):
  """Only one frame is traced."""
  frame = _frames(folder, name)[0]
  folder.drop([r for r in folder.rows(name) if int(r[5]) == frame])


def _bad_number(folder, name):
  folder.rows(name)[3][1] = 'nan'


# Name -> what it does to a clip; returns the clip's name if it is another
# afterwards. Noise outside the sector is in every
# clip, and no EF follows from one plane: those two need no planting.
TRAPS: dict[str, Callable[[_Folder, str], str | None]] = {
  'no_tracing': _no_tracing,
  'orphan_tracing': _orphan_tracing,
  'known_no_tracing': _known_no_tracing,
  'known_orphan': _known_orphan,
  'missing_video': _missing_video,
  'row_count': _row_count,
  'frame_count': _frame_count,
  'ed_after_es': _ed_after_es,
  'short_interval': _short_interval,
  'undecodable': _truncated,
  'cut_short': _cut_short,
  'other_size': _other_size,
  'unknown_split': _unknown_split,
  'lower_split': _lower_split,
  'listed_twice': _listed_twice,
  'ef_range': _ef_range,
  'ef_volumes': _ef_volumes,
  'blank': _blank,
  'same_video': _same_video,
  'one_frame': _one_frame,
  'bad_number': _bad_number,
}


def check(traps: Sequence[str], num_patients: int) -> None:
  """Raises `InputError` on an unknown name, or more traps than clips."""
  unknown = sorted(set(traps) - set(TRAPS))
  if unknown:
    raise InputError(
      f'traps: found {", ".join(unknown)}, wanted some of {", ".join(TRAPS)}, or all'
    )
  if len(set(traps)) >= num_patients:
    raise InputError(
      f'traps: {len(set(traps))} of {num_patients} patients; '
      'wanted fewer traps than patients, one clip each'
    )


def choose(truth: dict, traps: Sequence[str]) -> dict[str, str]:
  """Chooses a clip for each trap: training clips as far as there are any.

  The first clip stays whole, for comparison.
  """
  names = sorted(
    sorted(truth['patients'])[1:],
    key=lambda name: (truth['patients'][name]['split'] != 'TRAIN', name),
  )
  return dict(zip((t for t in TRAPS if t in traps), names))


def plant(root: Path, truth: dict, traps: Sequence[str]) -> dict[str, str]:
  """Plants each trap in a clip of its own; returns trap -> its later name."""
  if not traps:
    return {}
  folder = _Folder(root, *(_read(root / name) for name in (echonet.FILE_LIST, echonet.TRACINGS)))
  heads = folder.files.pop(0), folder.tracings.pop(0)
  planted = choose(truth, traps)
  for trap, name in planted.items():
    planted[trap] = TRAPS[trap](folder, name) or name
  for head, rows, name in zip(
    heads, (folder.files, folder.tracings), (echonet.FILE_LIST, echonet.TRACINGS)
  ):
    textio.write_text(root / name, ''.join(','.join(row) + '\n' for row in [head, *rows]))
  return planted


def _read(path: Path) -> list[list[str]]:
  with path.open(newline='') as file:
    return list(csv.reader(file))


def _rename(folder: _Folder, old: str, new: str) -> str:
  for row in folder.rows(old):
    row[0] = f'{new}.avi'
  folder.line(old)[0] = new
  echonet.video_path(folder.root, old).replace(echonet.video_path(folder.root, new))
  return new


def _rewrite(folder: _Folder, name: str, change) -> None:
  """Encodes a clip anew with changed frames [T, H, W]."""

  path = echonet.video_path(folder.root, name)
  frames = np.ascontiguousarray(change(video.read_video(path).frames))
  path.write_bytes(video.encode_mjpg(frames, float(folder.line(name)[6])))
