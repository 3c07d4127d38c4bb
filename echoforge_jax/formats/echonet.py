"""EchoNet-Dynamic as Stanford distributes it.

    FileList.csv          a row a clip: EF, volumes, size, frame rate, split
    VolumeTracings.csv    two traced frames a clip, normally 21 rows each: the
                          long axis, then 20 chords across it
    Videos/<name>.avi     MJPG, 112 x 112, three equal channels

Facts that the files do not state, and what the reader makes of them: the
decoded number of frames may differ from the CSV (the decode is trusted); ED is
the traced frame with the larger area, which is the later one in about 1 % of
the clips; six clips have no tracing; there is no pixel spacing.
"""

from collections.abc import Iterator
import csv
import dataclasses
import io
import math
import os
import pathlib

import av
import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.errors import InputError

FILE_LIST = 'FileList.csv'
TRACINGS = 'VolumeTracings.csv'
VIDEOS = 'Videos'
VIEW = '4CH'
SPLITS = {'train': 'TRAIN', 'validation': 'VAL', 'test': 'TEST'}
# Listed by the provider, but never traced.
DEFAULT_EXCLUDED = (
  '0X234005774F4CB5CD',
  '0X2DC68261CBCC04AE',
  '0X35291BE9AB90FB89',
  '0X5515B0BD077BE68A',
  '0X6C435C1B417FDE8A',
  '0X5DD5283AC43CCDD1',
)
# Traced by the provider, but without a clip.
KNOWN_ORPHAN = '0X4F8859C8AB4DA9CB'
PHANTOM_FILE = 'phantom.json'
LIST_COLUMNS = (
  'FileName',
  'EF',
  'ESV',
  'EDV',
  'FrameHeight',
  'FrameWidth',
  'FPS',
  'NumberOfFrames',
  'Split',
)
TRACING_COLUMNS = ('FileName', 'X1', 'Y1', 'X2', 'Y2', 'Frame')
# The axis and two chords: fewer span no area.
MIN_ROWS = 3
_FAR = 1e5  # Pixels.


@dataclasses.dataclass(frozen=True)
class FileRow:
  """One line of FileList.csv.

  Attributes:
    name: clip, without '.avi'.
    ef_percent: ejection fraction in percent; NaN if empty.
    esv_ml: end-systolic volume in ml.
    edv_ml: end-diastolic volume in ml.
    height: rows of a frame.
    width: columns of a frame.
    fps: frames per second.
    num_frames: as listed; the decoded number may differ.
    split: as written, for example 'TRAIN'.
    line: line number in the file.
  """

  name: str
  ef_percent: float
  esv_ml: float
  edv_ml: float
  height: int
  width: int
  fps: float
  num_frames: int
  split: str
  line: int = 0


def clip_name(text: str) -> str:
  """Name of a clip from what a CSV calls it, with or without '.avi'."""
  text = text.strip()
  return text[:-4] if text.lower().endswith('.avi') else text


def video_path(raw_dir: str | os.PathLike, name: str) -> pathlib.Path:
  """Path of a clip's video, whether it exists or not."""
  return pathlib.Path(raw_dir) / VIDEOS / f'{name}.avi'


def is_synthetic(raw_dir: str | os.PathLike) -> bool:
  """Whether the clips were written by the phantom."""
  return (pathlib.Path(raw_dir) / PHANTOM_FILE).exists()


def read_rows(
  path: pathlib.Path, columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
  """Lines of a CSV file as (line number, column -> text).

  Raises:
    InputError: when the file cannot be read or lacks a column.
  """
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      missing = [c for c in columns if c not in (reader.fieldnames or ())]
      if missing:
        raise InputError(
          f'{path}: found the columns {reader.fieldnames or []}, wanted '
          f'{list(columns)}; fetch the file again from the provider'
        )
      for row in reader:
        yield reader.line_num, row
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(
      f'{path}: cannot be read ({error}); wanted a CSV file with the '
      f'columns {", ".join(columns)}; --raw is the folder that holds '
      f'{FILE_LIST}, {TRACINGS} and {VIDEOS}/'
    ) from error


def _number(path, line, row, column, *, whole=False, optional=False):
  text = (row[column] or '').strip()
  if not text and optional:
    return math.nan
  try:
    value = float(text)
    if not math.isfinite(value) or (whole and value != int(value)):
      raise ValueError
  except ValueError:
    raise InputError(
      f'{path}: line {line}: {column} is {text!r}, wanted a '
      f'{"whole " if whole else ""}number; correct the line, or fetch the '
      'file again'
    ) from None
  return int(value) if whole else value


def parse_file_row(path: pathlib.Path, line: int, row: dict) -> FileRow:
  """One line of FileList.csv.

  Raises:
    InputError: naming line and column of what is no number, or no name.
  """

  def number(column, **options):
    return _number(path, line, row, column, **options)

  name = clip_name(row['FileName'] or '')
  if not name or '/' in name or '\\' in name:
    raise InputError(
      f'{path}: line {line}: FileName is {name!r}, wanted the name of a clip '
      f'in {VIDEOS}/; correct the line, or fetch the file again'
    )
  if None in row:  # A decimal comma moves every later column.
    raise InputError(
      f'{path}: line {line}: {len(row[None])} fields more than columns, '
      'wanted one a column; correct the line, or fetch the file again'
    )
  return FileRow(
    name=name,
    ef_percent=number('EF', optional=True),
    esv_ml=number('ESV', optional=True),
    edv_ml=number('EDV', optional=True),
    height=number('FrameHeight', whole=True),
    width=number('FrameWidth', whole=True),
    fps=number('FPS'),
    num_frames=number('NumberOfFrames', whole=True),
    split=(row['Split'] or '').strip(),
    line=line,
  )


def parse_tracing_row(
  path: pathlib.Path, line: int, row: dict
) -> tuple[str, int, list[float]]:
  """One line of VolumeTracings.csv as (clip, frame, [x1, y1, x2, y2]).

  Raises:
    InputError: naming line and column of what is no number.
  """
  return (
    clip_name(row['FileName'] or ''),
    _number(path, line, row, 'Frame', whole=True),
    [_number(path, line, row, c) for c in ('X1', 'Y1', 'X2', 'Y2')],
  )


def missing_bytes(path: str | os.PathLike) -> int:
  """How many bytes an AVI file lacks of the length in its RIFF header.

  A cut file often decodes without an error, only shorter.

  Args:
    path: a readable file.

  Returns:
    0 where nothing is missing, or the header gives no length.
  """
  with open(path, 'rb') as file:
    head = file.read(8)
  if len(head) < 8 or head[:4] != b'RIFF':
    return 0
  wanted = 8 + int.from_bytes(head[4:], 'little')
  return max(0, wanted - os.path.getsize(path))


def decode_frames(
  path: str | os.PathLike,
) -> tuple[np.ndarray, Exception | None]:
  """Decodes a clip as far as it can be decoded.

  Args:
    path: an AVI file.

  Returns:
    uint8 [T, H, W] gray levels, and the error that ended them, if any.

  Raises:
    InputError: when the file is absent or no frame can be decoded.
  """
  frames, error = [], None
  try:
    with av.open(str(path)) as container:
      stream = next(iter(container.streams.video), None)
      if stream is None:
        raise InputError(f'{path}: no video stream; fetch the file again')
      for frame in container.decode(stream):
        # The three channels are equal: luma is the gray level.
        frames.append(frame.to_ndarray(format='gray'))
  except (av.FFmpegError, OSError, ValueError) as found:
    error = found
  if not frames:
    raise InputError(
      f'{path}: no frame can be decoded ({error or "it holds none"}); '
      'wanted an MJPG AVI file; fetch the file again'
    ) from error
  if len({frame.shape for frame in frames}) > 1:
    raise InputError(f'{path}: frames differ in size; fetch the file again')
  return np.stack(frames), error


def decode_video(path: str | os.PathLike) -> np.ndarray:
  """Decodes a whole clip.

  Args:
    path: an AVI file.

  Returns:
    uint8 [T, H, W] gray levels.

  Raises:
    InputError: when the file is absent or cannot be decoded to its end.
  """
  frames, error = decode_frames(path)
  if missing := missing_bytes(path):
    error = error or f'{missing} bytes are missing'
  if error:
    raise InputError(
      f'{path}: damaged after {len(frames)} frames ({error}); wanted an '
      'MJPG AVI file that decodes to its end; fetch the file again'
    )
  return frames


def tracing_mask(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """The mask of a tracing, by the provider's own rule.

  The polygon runs down the first ends of the chords and up the second ends;
  the long axis (row 0) is no part of it.

  Args:
    rows: float64 [R, 4] (x1, y1, x2, y2) in pixels, R >= 3.
    shape: (H, W).

  Returns:
    uint8 [H, W], 1 inside.

  Raises:
    ValueError: with fewer rows.
  """
  from skimage import draw  # A third of a second; needed here only.

  if len(rows) < MIN_ROWS:
    raise ValueError(
      f'found {len(rows)} tracing rows, wanted {MIN_ROWS} or '
      'more: the long axis and its chords'
    )
  # Points far outside would overflow; the border cuts the polygon anyhow.
  rows = np.clip(rows, -_FAR, _FAR)
  x = np.concatenate([rows[1:, 0], rows[:0:-1, 2]])
  y = np.concatenate([rows[1:, 1], rows[:0:-1, 3]])
  mask = np.zeros(shape, np.uint8)
  mask[draw.polygon(np.rint(y).astype(int), np.rint(x).astype(int), shape)] = 1
  return mask


class Dataset:
  """The tables of a raw folder, read once.

  A line that cannot be used costs its clip, not the dataset.
  """

  def __init__(self, raw_dir: str | os.PathLike):
    """Reads both tables.

    Args:
      raw_dir: root of the raw dataset.

    Raises:
      InputError: when a table is absent or lacks columns.
    """
    self.raw_dir = pathlib.Path(raw_dir)
    self.files: dict[str, FileRow] = {}
    self.tracings: dict[str, dict[int, list]] = {}
    self._split: dict[str, str] = {}
    self._broken: dict[str, str] = {}
    path = self.raw_dir / FILE_LIST
    for line, row in read_rows(path, LIST_COLUMNS):
      self._add_file(path, line, row)
    path = self.raw_dir / TRACINGS
    for line, row in read_rows(path, TRACING_COLUMNS):
      try:
        name, frame, ends = parse_tracing_row(path, line, row)
        self.tracings.setdefault(name, {}).setdefault(frame, []).append(ends)
      except InputError as error:
        self._broken.setdefault(clip_name(row['FileName'] or ''), str(error))

  def _add_file(self, path, line, row) -> None:
    name = clip_name(row['FileName'] or '')
    if name in self._split:
      self._broken.setdefault(
        name,
        (
          f'{path}: line {line}: {name!r} is listed twice; delete one of the '
          'lines'
        ),
      )
      return
    split = (row['Split'] or '').strip().upper()
    # What belongs nowhere is reported with the training clips.
    self._split[name] = split if split in SPLITS.values() else 'TRAIN'
    try:
      self.files[name] = parse_file_row(path, line, row)
    except InputError as error:
      self._broken.setdefault(name, str(error))
    if split not in SPLITS.values():
      self._broken.setdefault(
        name,
        (
          f'{path}: line {line}: {name!r} is in the split {split!r}, wanted '
          f'one of {", ".join(SPLITS.values())}; correct the line'
        ),
      )

  def clips_of(self, split: str) -> list[tuple[str, str]]:
    """(name, view) of the clips of 'train', 'validation' or 'test'."""
    return sorted(
      (name, VIEW)
      for name, found in self._split.items()
      if found == SPLITS[split]
    )

  def read_clip(self, name: str, view: str = VIEW) -> Clip:
    """Reads one whole clip, frames as stored.

    Args:
      name: as in FileList.csv, without '.avi'.
      view: '4CH'.

    Returns:
      The clip: the two traced frames labeled, `ed` the one with the larger
      area; `ed` may come after `es`.

    Raises:
      InputError: when the clip cannot be used.
    """
    if name in self._broken:
      raise InputError(self._broken[name])
    path = video_path(self.raw_dir, name)
    row = self.files[name]
    frames = decode_video(path)
    if frames.shape[1:] != (row.height, row.width):
      raise InputError(
        f'{path}: frames are {frames.shape[1]} x {frames.shape[2]}, wanted '
        f'{row.height} x {row.width} as {FILE_LIST} says: the tracing may '
        'not fit; fetch the clip again, or exclude it'
      )
    traced = self.tracings.get(name, {})
    if len(traced) != 2:
      raise InputError(
        f'{self.raw_dir / TRACINGS}: {name} has {len(traced)} traced frames, '
        'wanted two (ED and ES); exclude the clip'
      )
    masks = np.zeros(frames.shape, np.uint8)
    labeled = np.zeros(len(frames), bool)
    for frame, rows in traced.items():
      if not 0 <= frame < len(frames):
        raise InputError(
          f'{self.raw_dir / TRACINGS}: frame {frame} of {name} is traced, '
          f'but {path} has {len(frames)} frames; fetch the clip again, or '
          'exclude it'
        )
      if len(rows) < MIN_ROWS:
        raise InputError(
          f'{self.raw_dir / TRACINGS}: frame {frame} of {name} has '
          f'{len(rows)} rows, wanted {MIN_ROWS} or more; exclude the clip'
        )
      masks[frame] = LABELS['lv'] * tracing_mask(
        np.asarray(rows), frames.shape[1:]
      )
      labeled[frame] = True
      if frames[frame].min() == frames[frame].max():
        raise InputError(
          f'{path}: the traced frame {frame} is blank; fetch '
          'the clip again, or exclude it'
        )
      if not masks[frame].any():
        raise InputError(
          f'{self.raw_dir / TRACINGS}: the tracing of frame {frame} of '
          f'{name} encloses no pixel of {frames.shape[1]} x '
          f'{frames.shape[2]}; exclude the clip'
        )
    areas = {t: int(masks[t].sum()) for t in sorted(traced)}
    ed = max(areas, key=areas.get)
    (es,) = set(areas) - {ed}
    return Clip(
      patient=name,
      view=view,
      frames=frames,
      masks=masks,
      labeled=labeled,
      ed=ed,
      es=es,
      spacing_mm=np.full(2, np.nan, np.float32),
      fps=row.fps,
      ef_percent=row.ef_percent,
      edv_ml=row.edv_ml,
      esv_ml=row.esv_ml,
    )


def read_clip(
  raw_dir: str | os.PathLike, patient: str, view: str = VIEW
) -> Clip:
  """Reads one clip; `Dataset` reads many without parsing the tables again."""
  dataset = Dataset(raw_dir)
  if (patient, VIEW) not in [
    clip for split in SPLITS for clip in dataset.clips_of(split)
  ]:
    raise InputError(f'{dataset.raw_dir / FILE_LIST}: lists no {patient!r}')
  return dataset.read_clip(patient, view)


# Quantizer of the MJPG encoder; 2 is its finest.
_QUALITY = 2


def encode_video(frames: np.ndarray, fps: float) -> bytes:
  """An MJPG AVI of gray frames, three equal channels.

  Args:
    frames: uint8 [T, H, W].
    fps: frames per second.

  Returns:
    The file's bytes.
  """
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='avi') as container:
    stream = container.add_stream('mjpeg', rate=max(round(fps), 1))
    stream.height, stream.width = frames.shape[1:]
    stream.pix_fmt = 'yuvj420p'
    stream.codec_context.qmin = stream.codec_context.qmax = _QUALITY
    for gray in frames:
      frame = av.VideoFrame.from_ndarray(
        np.repeat(gray[..., None], 3, axis=-1), format='rgb24'
      )
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return buffer.getvalue()
