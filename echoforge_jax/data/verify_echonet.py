"""Checks a raw EchoNet-Dynamic folder before anything is built from it.

Errors are what the reader refuses or what makes results wrong; warnings are
what a user should know and the reader copes with, and what the provider's own
release is known to contain.
"""

import collections
from collections.abc import Iterator
import concurrent.futures
import hashlib
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from echoforge_jax.data.findings import Finding, make_finding
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet

SIZE = 112
ROWS = 21
# The protocols sample this many frames from ED to ES.
SAMPLED_FRAMES = 10
# EF against 100 (EDV - ESV) / EDV of the same line, percentage points.
_EF_TOLERANCE = 1.0


def verify_echonet(
  raw_dir, *, progress: bool = False, num_threads: int | None = None
) -> list[Finding]:
  """Verifies a raw EchoNet-Dynamic folder; every video is decoded once.

  Args:
    raw_dir: holds FileList.csv, VolumeTracings.csv and Videos/.
    progress: shows a bar.
    num_threads: videos decoded at once; None means one a core, 8 at most.

  Returns:
    Findings: tables first, then clip after clip.

  Raises:
    InputError: `raw_dir` is no folder, or a table is absent or lacks columns.
  """
  root = Path(raw_dir).expanduser()
  if not root.is_dir():
    raise InputError(
      f'{root}: no such folder; wanted the download that holds '
      f'{echonet.FILE_LIST} and {echonet.VIDEOS}/'
    )
  rows, findings = _read_list(root)
  tracings, found = _read_tracings(root)
  findings += found
  findings += _check_tables(root, rows, tracings)
  videos = sorted((root / echonet.VIDEOS).glob('*.avi'))
  for path in videos:
    if path.stem not in rows:
      findings.append(
        make_finding(
          'clip-unlisted', path, path.stem, f'a line in {echonet.FILE_LIST}'
        )
      )
  threads = num_threads or min(8, os.cpu_count() or 1)
  first: dict[bytes, str] = {}
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    checks = pool.map(
      lambda row: _check_clip(root, row, tracings.get(row.name, {})),
      rows.values(),
    )
    for row, (found, digest) in tqdm(
      zip(rows.values(), checks),
      total=len(rows),
      unit='clip',
      desc='verify',
      disable=not progress,
    ):
      findings += found
      if digest is None:
        continue
      other = first.setdefault(digest, row.name)
      if other != row.name:
        code = (
          'split-leak' if rows[other].split != row.split else 'duplicate-images'
        )
        findings.append(
          make_finding(
            code,
            echonet.video_path(root, row.name),
            f'the frames of {other} ({rows[other].split}) in {row.split}',
            'a clip of its own',
          )
        )
  return findings


def _fault(error: InputError, path: Path) -> str:
  """What the reader found, without the path, what it wanted, the remedy."""
  text = str(error).removeprefix(f'{path}: ')
  return text.split('; ')[0].split(', wanted')[0]


def _read_list(root: Path) -> tuple[dict[str, echonet.FileRow], list[Finding]]:
  path = root / echonet.FILE_LIST
  rows, findings = {}, []
  for line, row in echonet.read_rows(path, echonet.LIST_COLUMNS):
    try:
      entry = echonet.parse_file_row(path, line, row)
    except InputError as error:
      findings.append(
        make_finding(
          'csv-line',
          path,
          _fault(error, path)
          + f' ({echonet.clip_name(row["FileName"] or "")})',
          'a number there',
        )
      )
      continue
    if entry.name in rows:
      findings.append(
        make_finding(
          'listed-twice',
          path,
          f'{entry.name} in lines {rows[entry.name].line} and {line}',
          'every clip once',
        )
      )
      continue
    rows[entry.name] = entry
  return rows, findings


def _read_tracings(root: Path):
  """name -> frame -> rows [R, 4]; lines that are no numbers are left out."""
  path = root / echonet.TRACINGS
  found, findings = {}, []
  for line, row in echonet.read_rows(path, echonet.TRACING_COLUMNS):
    try:
      name, frame, ends = echonet.parse_tracing_row(path, line, row)
    except InputError as error:
      findings.append(
        make_finding(
          'csv-line',
          path,
          _fault(error, path)
          + f' ({echonet.clip_name(row["FileName"] or "")})',
          'a number there',
        )
      )
      continue
    found.setdefault(name, {}).setdefault(frame, []).append(ends)
  return {
    name: {frame: np.asarray(rows) for frame, rows in frames.items()}
    for name, frames in found.items()
  }, findings


def _check_tables(root, rows, tracings) -> Iterator[Finding]:
  path = root / echonet.FILE_LIST
  for name in sorted(set(tracings) - set(rows)):
    known = name == echonet.KNOWN_ORPHAN
    yield make_finding(
      'tracing-unlisted',
      root / echonet.TRACINGS,
      f'{name}, traced but not listed'
      + (' (known of the release)' if known else ''),
      f'a line in {echonet.FILE_LIST}',
    )
  splits = collections.Counter()
  for row in rows.values():
    splits[row.split.upper()] += 1
    where = f'{row.name} (line {row.line})'
    if row.split.upper() in echonet.SPLITS.values():
      if row.split != row.split.upper():
        yield make_finding(
          'split-case', path, f'{row.split!r} of {where}', row.split.upper()
        )
    else:
      yield make_finding(
        'split-unknown',
        path,
        f'{row.split!r} of {where}',
        ', '.join(echonet.SPLITS.values()),
      )
    if not 0 <= row.ef_percent <= 100:
      yield make_finding(
        'ef-range', path, f'EF {row.ef_percent:g} of {where}', '0 to 100'
      )
    elif row.edv_ml > 0:
      ef = 100 * (row.edv_ml - row.esv_ml) / row.edv_ml
      if abs(ef - row.ef_percent) > _EF_TOLERANCE:
        yield make_finding(
          'ef-volumes',
          path,
          f'EF {row.ef_percent:.1f} of {where}',
          f'{ef:.1f} as its EDV {row.edv_ml:.1f} and ESV {row.esv_ml:.1f} say',
        )
    if not 5 <= row.fps <= 500:
      yield make_finding(
        'fps-range', path, f'FPS {row.fps:g} of {where}', '5 to 500'
      )
  for split in echonet.SPLITS.values():
    if not splits[split]:
      yield make_finding(
        'split-empty', path, f'no clip of {split}', 'at least one'
      )


def _check_clip(root, row, traced) -> tuple[list[Finding], bytes | None]:
  """Findings of one clip, and a digest of its pixels."""
  path = echonet.video_path(root, row.name)
  tables = root / echonet.TRACINGS
  findings = []

  def add(code, file, found, wanted):
    findings.append(make_finding(code, file, found, wanted))

  if row.name in echonet.DEFAULT_EXCLUDED and not traced:
    add(
      'tracing-known-missing',
      tables,
      f'{row.name}, listed but not traced',
      'two traced frames',
    )
  elif len(traced) != 2:
    add(
      'tracing-frames',
      tables,
      f'{len(traced)} traced frames of {row.name}',
      'two: ED and ES',
    )
  if not path.exists():
    add('missing-file', path, 'nothing', 'a clip')
    return findings, None
  try:
    frames, error = echonet.decode_frames(path)
  except InputError as wrong:
    add('video-undecodable', path, _fault(wrong, path), 'an MJPG AVI file')
    return findings, None
  missing = echonet.missing_bytes(path)
  if error or missing:
    add(
      'video-damaged',
      path,
      f'{len(frames)} frames, then '
      + (str(error) if error else f'{missing} bytes are missing'),
      'a file that decodes to its end',
    )
  _check_frames(row, path, frames, add)
  _check_tracing(row, path, tables, frames, traced, add)
  return findings, hashlib.sha1(frames.tobytes()).digest()


def _check_frames(row, path, frames, add) -> None:
  if len(frames) != row.num_frames:
    add(
      'frame-count',
      path,
      f'{len(frames)} frames',
      f'{row.num_frames} as {echonet.FILE_LIST} says',
    )
  if frames.shape[1:] != (row.height, row.width):
    add(
      'video-resized',
      path,
      f'{frames.shape[1]} x {frames.shape[2]}',
      f'{row.height} x {row.width} as {echonet.FILE_LIST} says',
    )
  elif frames.shape[1:] != (SIZE, SIZE):
    add(
      'video-size',
      path,
      f'{frames.shape[1]} x {frames.shape[2]}',
      f'{SIZE} x {SIZE}',
    )
  flat = frames.reshape(len(frames), -1)
  if (flat.max(axis=1) == flat.min(axis=1)).any():
    add('image-blank', path, 'a frame of a single gray level', 'ultrasound')


def _num_outside(rows: np.ndarray, shape: tuple[int, int]) -> int:
  """How many of the tracing's points [R, 4] lie outside the frame."""
  x, y = rows[1:, ::2], rows[1:, 1::2]
  height, width = shape
  return int(((x < -0.5) | (x > width) | (y < -0.5) | (y > height)).sum())


def _check_tracing(row, path, tables, frames, traced, add) -> None:
  """Rows, places and areas of the traced frames."""
  areas = {}
  for frame, rows in sorted(traced.items()):
    what = f'frame {frame} of {row.name}'
    if len(rows) < echonet.MIN_ROWS:
      add('tracing-short', tables, f'{len(rows)} rows of {what}', f'{ROWS}')
      continue
    if len(rows) != ROWS:
      add('tracing-rows', tables, f'{len(rows)} rows of {what}', f'{ROWS}')
    if not 0 <= frame < len(frames):
      add(
        'tracing-beyond',
        tables,
        what,
        f'a frame below {len(frames)}, the frames of {path.name}',
      )
      continue
    areas[frame] = int(echonet.tracing_mask(rows, frames.shape[1:]).sum())
    if not areas[frame]:
      add('lv-empty', tables, f'an empty polygon, {what}', 'a ventricle')
    elif outside := _num_outside(rows, frames.shape[1:]):
      add(
        'tracing-outside',
        tables,
        f'{outside} points of {what}',
        f'points within {frames.shape[1]} x {frames.shape[2]} pixels',
      )
  if len(areas) != 2 or not all(areas.values()):
    return
  early, late = areas
  if areas[late] > areas[early]:
    add(
      'es-before-ed',
      path,
      f'the larger tracing in frame {late}, after frame {early}',
      'ED before ES',
    )
  if late - early + 1 < SAMPLED_FRAMES:
    add(
      'interval-short',
      path,
      f'{late - early + 1} frames from ED to ES',
      f'{SAMPLED_FRAMES} or more',
    )
