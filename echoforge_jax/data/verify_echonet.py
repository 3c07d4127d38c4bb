"""Checks a raw EchoNet-Dynamic folder before anything is built from it.

What makes the reader refuse a clip is found by the reader itself (`formats.echonet`); this file
adds what only the whole shows, and what the provider's own release is known to contain.
"""

import collections
from collections.abc import Iterator
import concurrent.futures
import functools
import hashlib
import os
from pathlib import Path
import sys

import numpy as np
from tqdm import tqdm

from echoforge_jax.clip import Clip
from echoforge_jax.data.datasets import SUFFIXES, Reader
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet
from echoforge_jax.formats.echonet_clip import MIN_ROWS, ROWS, Recording
from echoforge_jax.formats.findings import Finding, make_finding

SIZE = 112
# The protocols sample this many frames from ED to ES.
SAMPLED_FRAMES = 10
# EF against 100 (EDV - ESV) / EDV of the same line, percentage points.
_EF_TOLERANCE = 1.0


class EchoNet(Reader):
  """Reads EchoNet-Dynamic; see `formats.echonet`."""

  whole_clips = True
  excluded = echonet.DEFAULT_EXCLUDED
  suffixes = SUFFIXES

  @functools.cached_property
  def tables(self) -> echonet.Dataset:
    """Returns the tables, parsed once and not once per clip."""
    return echonet.Dataset(self.raw_dir)

  @property
  def synthetic(self) -> bool:
    """Returns True if the phantom wrote the clips."""
    return echonet.is_synthetic(self.raw_dir)

  def list_clips(self, split: str, scheme: str) -> list[tuple[str, str]]:
    """Returns the clips of a split; each is a patient, seen from four chambers."""
    return self.tables.clips_of(split)

  def read_clip(self, patient: str, view: str) -> Clip:
    """Reads one whole clip, frames as stored."""
    return self.tables.read_clip(patient, view)

  def verify(self) -> Iterator[Finding]:
    """Checks both tables and every video."""
    yield from verify_echonet(self.raw_dir, progress=sys.stderr.isatty())


def verify_echonet(raw_dir, *, progress=False, num_threads: int | None = None) -> list[Finding]:
  """Verifies a raw EchoNet-Dynamic folder; every video is decoded once.

  `raw_dir` holds FileList.csv, VolumeTracings.csv and Videos/. `num_threads` videos are decoded at
  once; None means one per core, 8 at most. Returns the findings, tables first, then clip after
  clip.
  """
  root = Path(raw_dir).expanduser()
  if not root.is_dir():
    raise InputError(
      f'{root}: no such folder; wanted the download that holds '
      f'{echonet.FILE_LIST} and {echonet.VIDEOS}/'
    )
  dataset = echonet.Dataset(root)
  rows = dataset.files
  findings = [*dataset.findings, *_judge_tables(dataset)]
  for path in sorted((root / echonet.VIDEOS).glob('*.avi')):
    if path.stem not in rows:
      wanted = f'a line in {echonet.FILE_LIST}'
      findings.append(make_finding('clip-unlisted', path, path.stem, wanted))
  threads = num_threads or min(8, os.cpu_count() or 1)
  first: dict[bytes, str] = {}
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    checks = pool.map(lambda name: _check_clip(dataset, name), rows)
    for name, (found, digest) in tqdm(
      zip(rows, checks), total=len(rows), unit='clip', desc='verify', disable=not progress
    ):
      findings += found
      other = first.setdefault(digest, name) if digest else name
      if other != name:
        code = 'duplicate-images' if rows[other].split == rows[name].split else 'split-leak'
        same = f'the frames of {other} ({rows[other].split}) in {rows[name].split}'
        path = echonet.video_path(root, name)
        findings.append(make_finding(code, path, same, 'a clip of its own'))
  return findings


def _judge_tables(dataset: echonet.Dataset) -> Iterator[Finding]:
  path = dataset.raw_dir / echonet.FILE_LIST
  for name in sorted(set(dataset.tracings) - set(dataset.files)):
    known = ' (known of the release)' if name == echonet.KNOWN_ORPHAN else ''
    found, wanted = f'{name}, traced but not listed{known}', f'a line in {echonet.FILE_LIST}'
    yield make_finding('tracing-unlisted', dataset.raw_dir / echonet.TRACINGS, found, wanted)
  for row in dataset.files.values():
    where = f'{row.name} (line {row.line})'
    split = row.split.upper()
    if split in echonet.SPLITS.values() and row.split != split:
      yield make_finding('split-case', path, f'{row.split!r} of {where}', split)
    if not 0 <= row.ef_percent <= 100:
      yield make_finding('ef-range', path, f'EF {row.ef_percent:g} of {where}', '0 to 100')
    elif row.edv_ml > 0:
      ef = 100 * (row.edv_ml - row.esv_ml) / row.edv_ml
      if abs(ef - row.ef_percent) > _EF_TOLERANCE:
        wanted = f'{ef:.1f} as its EDV {row.edv_ml:.1f} and ESV {row.esv_ml:.1f} say'
        yield make_finding('ef-volumes', path, f'EF {row.ef_percent:.1f} of {where}', wanted)
    if not 5 <= row.fps <= 500:
      yield make_finding('fps-range', path, f'FPS {row.fps:g} of {where}', '5 to 500')
  sizes = collections.Counter(r.split.upper() for r in dataset.files.values())
  for split in echonet.SPLITS.values():
    if not sizes[split]:
      yield make_finding('split-empty', path, f'no clip of {split}', 'at least one')


def _check_clip(dataset, name: str) -> tuple[list[Finding], bytes | None]:
  """Returns findings of one clip, and a digest of its pixels."""
  recording = dataset.recording(name)
  findings = list(recording.read())
  if recording.frames is None:
    return findings, None
  blank = any(finding.code == 'image-blank' for finding in findings)
  findings += _judge_frames(recording, blank)
  findings += judge_tracings(recording)
  return findings, hashlib.sha1(recording.frames.tobytes()).digest()


def _judge_frames(recording: Recording, blank: bool) -> Iterator[Finding]:
  """Yields what the reader copes with; `blank`: a blank frame is named."""
  frames, row, path = recording.frames, recording.row, recording.path
  height, width = frames.shape[1:]
  if len(frames) != row.num_frames:
    wanted = f'{row.num_frames} as {echonet.FILE_LIST} says'
    yield make_finding('frame-count', path, f'{len(frames)} frames', wanted)
  if (height, width) == (row.height, row.width) != (SIZE, SIZE):
    yield make_finding('video-size', path, f'{height} x {width}', f'{SIZE} x {SIZE}')
  flat = frames.reshape(len(frames), -1)
  if not blank and (flat.max(axis=1) == flat.min(axis=1)).any():
    yield make_finding('image-blank', path, 'a frame of a single gray level', 'ultrasound')


def _num_outside(rows: np.ndarray, shape: tuple[int, int]) -> int:
  """Counts the points of a tracing [R, 4] that lie outside the frame."""
  x, y = rows[1:, ::2], rows[1:, 1::2]
  height, width = shape
  return int(((x < -0.5) | (x > width) | (y < -0.5) | (y > height)).sum())


def judge_tracings(recording: Recording) -> Iterator[Finding]:
  """Yields what the reader of a clip copes with."""
  masks, shape, tables = recording.masks, recording.frames.shape[1:], recording.tables
  for frame, rows in sorted(recording.traced.items()):
    what = f'frame {frame} of {recording.row.name}'
    if MIN_ROWS <= len(rows) != ROWS and rows.shape[1] == 4:
      yield make_finding('tracing-rows', tables, f'{len(rows)} rows of {what}', f'{ROWS}')
    outside = _num_outside(rows, shape)
    if outside and frame in masks and masks[frame].any():
      wanted = f'points within {shape[0]} x {shape[1]} pixels'
      yield make_finding('tracing-outside', tables, f'{outside} points of {what}', wanted)
  if len(masks) != 2 or not all(mask.any() for mask in masks.values()):
    return
  ed, es = recording.ends()
  if ed > es:
    found = f'the larger tracing in frame {ed}, after frame {es}'
    yield make_finding('es-before-ed', recording.path, found, 'ED before ES')
  length = abs(es - ed) + 1
  if length < SAMPLED_FRAMES:
    wanted = f'{SAMPLED_FRAMES} or more'
    yield make_finding('interval-short', recording.path, f'{length} frames from ED to ES', wanted)
