"""One clip to a `Result`; many clips, a folder of results each."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import logging
import os
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
import tqdm

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.formats import readers
from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.formats.sector import Sector
from echoforge_jax.inference import checks, dicom_seg, inputs, outputs, pairs
from echoforge_jax.inference.measurement import Measurement, measure_clip
from echoforge_jax.inference.segmenter import Segmenter, load

# The next clip is read while one of at most this size is segmented: two
# clips of 2,000 large frames would not fit a small machine.
_READ_AHEAD_BYTES = 2**30
BIPLANE = 'biplane.json'


class ReadClip(NamedTuple):
  """A clip that was read and looked at, ready for the network."""

  clip: RawClip
  sector: Sector


@dataclasses.dataclass(frozen=True)
class Result:
  """What `segment` finds in one clip."""

  measurement: Measurement
  content: dict  # Of result.json.

  @property
  def masks(self) -> np.ndarray:
    """uint8 [T, H, W] label values of `clip.LABELS`, native size."""
    return self.measurement.masks

  @property
  def flags(self) -> tuple[str, ...]:
    """Codes of `measurement.FLAGS`: what to doubt."""
    return self.measurement.flags


def segment_file(
  path,
  checkpoint: Segmenter | str | os.PathLike = 'default',
  *,
  which: str = 'teacher',
  step: str | int = 'latest',
  spacing_mm=None,
  fps: float | None = None,
  lag: int = 1,
  out_dir=None,
  probabilities: bool = False,
  read: ReadClip | None = None,
) -> Result:
  """Segments and measures one clip, as `echoforge segment` does.

  Args:
    path: anything `formats.readers.read_any` reads.
    checkpoint, which, step: as `inference.load` takes them, or a `Segmenter`, so that many
      clips load the model once.
    spacing_mm: mm per pixel (row, column) to use instead of the file's.
    fps: frames per second to use instead of the file's.
    lag: frames on either side to average with, see `Segmenter.stream`.
    out_dir: folder to fill with the files of `outputs.NAMES`; an earlier clip's
      files there are removed first. None writes nothing.
    probabilities: whether to write probability.nii.gz too.
    read: of `read_clip`, where the clip was read before.
  """
  if out_dir is not None:
    outputs.clear(out_dir)
  segmenter = checkpoint
  if isinstance(segmenter, str | os.PathLike):
    segmenter = load(segmenter, which, step)
  read = read or read_clip(segmenter, path, spacing_mm, fps)
  clip = read.clip
  found = segmenter.segment_clip(
    clip.frames, clip.spacing_mm, fps=clip.fps, sector=read.sector, lag=lag
  )
  measured = measure_clip(clip, found)
  name = pathlib.Path(path).name
  if out_dir is None:
    return Result(measured, outputs.result_of(name, measured))
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  problem = dicom_seg.write_if_dicom(out_dir / 'masks.dcm', path, measured)
  if problem:
    clip = dataclasses.replace(clip, notes=(*clip.notes, problem))
    measured = dataclasses.replace(measured, clip=clip)
  outputs.write_masks(out_dir / 'masks.nii.gz', found.masks, clip.spacing_mm)
  outputs.write_overlay(out_dir / 'overlay.mp4', measured)
  outputs.write_gif(out_dir / 'overlay.gif', measured)
  outputs.write_sheet(out_dir / 'overlay.png', measured)
  outputs.write_curve(out_dir / 'area_curve.png', measured)
  if probabilities:
    outputs.write_probability(out_dir / 'probability.nii.gz', measured)
  content = outputs.result_of(name, measured)
  textio.write_json(out_dir / 'result.json', content)  # Last: all is there.
  return Result(measured, content)


def read_clip(segmenter: Segmenter, path, spacing_mm=None, fps=None) -> ReadClip:
  """Reads a clip, finds its sector and checks what it shows; see `segment_file`."""
  clip = readers.read_any(path)
  if spacing_mm is not None:
    spacing_mm = tuple(float(s) for s in spacing_mm)
    clip = dataclasses.replace(clip, spacing_mm=spacing_mm)
  if fps is not None:
    clip = dataclasses.replace(clip, fps=float(fps))
  sector = segmenter.locate(clip.frames, clip.spacing_mm, clip.region)
  flags = (*clip.flags, *checks.check_content(path, clip, sector))
  return ReadClip(dataclasses.replace(clip, flags=flags), sector)


def segment_files(
  segmenter: Segmenter,
  paths: Sequence,
  out_dir,
  *,
  spacing_mm=None,
  fps: float | None = None,
  recursive: bool = False,
  pairs_of: Sequence = (),
  lag: int = 1,
  probabilities: bool = False,
  report: Callable[[str], None] = print,
) -> tuple[dict[str, dict], dict[str, str]]:
  """Segments many clips; a bad one is reported and does not stop the rest.

  The next clip is read and decoded in a thread while one is segmented. The
  results of a clip are the same whatever stands beside it.

  Args, other than those of `segment_file`:
    paths: clips, and with `recursive` folders of clips (`inputs.expand`).
    out_dir: gets one folder per clip, named by its stem.
    pairs_of: (4CH clip, 2CH clip) of one patient each, segmented as well;
      their biplane volumes go to `out_dir/biplane.json`.
    report: gets one line per clip.

  Returns:
    Contents of result.json by folder name, and error messages by path.
  """
  out_dir = pathlib.Path(out_dir)
  try:
    out_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f'--out {out_dir} cannot be written ({error.strerror or error}); choose a directory you '
      'may write to'
    ) from error
  (out_dir / BIPLANE).unlink(missing_ok=True)
  clips, failures = _clips_of(paths, pairs_of, recursive, out_dir)
  results: dict[str, dict] = {}
  bar = tqdm.tqdm(total=len(clips), unit='clip', file=sys.stderr, disable=None)

  def say(line):
    with bar.external_write_mode(file=sys.stderr):
      report(line)

  for message in failures.values():
    say(f'error: {message}')
  read = functools.partial(read_clip, segmenter, spacing_mm=spacing_mm, fps=fps)
  with bar:
    ahead = _read_ahead(read, [path for path, _ in clips])
    for (path, name), ready in zip(clips, ahead):
      bar.set_postfix_str(name)
      start = time.perf_counter()
      try:
        outputs.clear(out_dir / name)
        options = {'lag': lag, 'probabilities': probabilities, 'out_dir': out_dir / name}
        results[name] = segment_file(path, segmenter, read=ready(), **options).content
        seconds = time.perf_counter() - start
        say(f'{summary(name, results[name])}  ({seconds:.1f} s)')
      except Exception as error:  # Whatever it is, the rest goes on.
        failures[str(path)] = _message(error, path, out_dir / name)
        say(f'error: {failures[str(path)]}')
      bar.update()
  if pairs_of:
    names = {os.path.abspath(path): name for path, name in clips if name in results}
    failures |= _measure_pairs(pairs_of, names, out_dir, report)
  return results, failures


def _clips_of(paths, pairs_of, recursive, out_dir):
  """Returns `inputs.expand` of all paths, each clip once if there are pairs."""
  if not pairs_of:
    return inputs.expand(paths, recursive, skip=out_dir)
  every = {os.path.abspath(path): path for path in (*paths, *itertools.chain(*pairs_of))}
  clips, failures = inputs.expand(list(every.values()), recursive, skip=out_dir)
  once = {}
  for clip in clips:  # A folder may hold what a pair names too.
    once.setdefault(os.path.abspath(clip[0]), clip)
  return list(once.values()), failures


def _measure_pairs(pairs_of, names, out_dir, report) -> dict[str, str]:
  """Writes biplane.json; returns error messages by pair."""
  measured, failures = [], {}
  for pair in pairs_of:
    try:
      lacking = [str(path) for path in pair if os.path.abspath(path) not in names]
      if lacking:
        raise InputError(
          f'{" and ".join(lacking)}: not segmented as one clip, so no biplane volume of the '
          'pair; name two clips that succeed alone'
        )
      folders = [out_dir / names[os.path.abspath(path)] for path in pair]
      measured.append(pairs.measure_pair(dict(zip(pairs.VIEWS, folders))))
      report(pairs.summary(measured[-1]))
    except InputError as error:
      failures[' + '.join(map(str, pair))] = str(error)
      report(f'error: {error}')
  textio.write_json(out_dir / BIPLANE, {'pairs': measured})
  return failures


def _read_ahead(read: Callable, paths: Sequence) -> Iterator[Callable[[], ReadClip]]:
  """Yields functions that wait for each clip, in order, and return it or raise.

  The next clip is read as soon as the one before is: at most two are in memory,
  and only one if that is large.
  """
  executor = concurrent.futures.ThreadPoolExecutor(1, 'read-ahead')
  rest, reading = iter(paths), []

  def start():
    reading.extend(executor.submit(read, p) for p in itertools.islice(rest, 1))

  try:
    start()
    while reading:
      concurrent.futures.wait(reading)
      box = [reading.pop()]  # Emptied when taken: nothing is kept.
      large = not box[0].exception() and box[0].result().clip.frames.nbytes > _READ_AHEAD_BYTES
      if not large:
        start()
      yield lambda: box.pop().result()
      if large:
        start()
  finally:
    executor.shutdown(wait=False, cancel_futures=True)


def _message(error: Exception, path, out_dir) -> str:
  """Returns one line about a failed clip that names its file."""
  if isinstance(error, InputError):
    message = str(error)  # A header may blame the file it points to.
    message = message if str(path) in message else f'{path}: {message}'
    return ' '.join(message.splitlines())
  if isinstance(error, MemoryError):
    return f'{path}: found a clip that does not fit into memory; wanted a shorter one: cut it'
  if isinstance(error, OSError):
    return (
      f'{path}: cannot be read, or {out_dir} not be written ({error.strerror or error}); check both'
    )
  logging.getLogger(__name__).debug('%s', path, exc_info=error)
  reason = ' '.join(f'{error.__class__.__name__}: {error}'.split())[:200]
  return f'{path}: failed for a reason this program did not foresee ({reason}); please report it'


def summary(name: str, result: dict) -> str:
  """Returns one line about a clip from the content of its result.json."""
  frames = f'{result["frames"]} frame{"s" * (result["frames"] != 1)}'
  return f'{" ".join(name.splitlines())}: {frames}, EF {pairs.numbers(result)}'
