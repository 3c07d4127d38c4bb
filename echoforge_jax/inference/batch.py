"""Clips in, one folder of results each out."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import itertools
import logging
import os
import pathlib
import sys
import time

import tqdm

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.formats import readers
from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.formats.sector import Sector
from echoforge_jax.inference import checks, dicom_seg, inputs, outputs, pairs
from echoforge_jax.inference import cycle as cycles
from echoforge_jax.inference.segmenter import Segmenter

# The next clip is read while one of at most this size is segmented: two
# clips of 2,000 large frames would not fit a small machine.
_READ_AHEAD_BYTES = 2**30
BIPLANE = 'biplane.json'


@dataclasses.dataclass(frozen=True)
class _Ready:
  """A clip that was read and looked at, ready for the network."""

  clip: RawClip
  sector: Sector


def segment_file(
  segmenter: Segmenter,
  path,
  out_dir,
  *,
  spacing_mm=None,
  fps: float | None = None,
  lag: int = 0,
  probabilities: bool = False,
) -> dict:
  """Segments one clip and writes all its results.

  Args:
    segmenter: the model.
    path: anything `readers.read_any` reads.
    out_dir: folder to fill with the files of `outputs.NAMES`; an earlier
      clip's files there are removed first.
    spacing_mm: mm per pixel (row, column) to use instead of the file's.
    fps: frames per second to use instead of the file's.
    lag: frames on either side to average with, see `Segmenter.stream`.
    probabilities: whether to write probability.nii.gz too.

  Returns:
    The content of result.json.

  Raises:
    InputError: it cannot be read as a clip, or shows what is no clip.
    OSError: `out_dir` cannot be written.
  """
  outputs.clear(out_dir)
  ready = _prepare(segmenter, path, spacing_mm, fps)
  return _finish(segmenter, path, out_dir, ready, lag, probabilities)


def segment_files(
  segmenter: Segmenter,
  paths: Sequence,
  out_dir,
  *,
  spacing_mm=None,
  fps: float | None = None,
  recursive: bool = False,
  pairs_of: Sequence = (),
  lag: int = 0,
  probabilities: bool = False,
  report: Callable[[str], None] = print,
) -> tuple[dict[str, dict], dict[str, str]]:
  """Segments many clips; a bad one is reported and does not stop the rest.

  The next clip is read and decoded in a thread while one is segmented. Each
  is segmented on its own: its results are the same whatever stands beside it.

  Args:
    segmenter: the model.
    paths: clips, and with `recursive` folders of clips (`inputs.expand`).
    out_dir: gets one folder a clip, named by its stem.
    spacing_mm: mm per pixel (row, column) to use instead of every file's.
    fps: frames per second to use instead of every file's.
    recursive: whether folders are looked through for clips.
    pairs_of: (4CH clip, 2CH clip) of one patient each, segmented as well;
      their biplane volumes go to `out_dir/biplane.json`.
    lag: frames on either side to average with, see `Segmenter.stream`.
    probabilities: whether to write probability.nii.gz too.
    report: gets one line a clip.

  Returns:
    (results by folder name, error messages by path).

  Raises:
    InputError: `out_dir` cannot be written.
  """
  out_dir = pathlib.Path(out_dir)
  try:
    out_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f'--out {out_dir} cannot be written ({error.strerror or error}); '
      'choose a directory you may write to'
    ) from error
  (out_dir / BIPLANE).unlink(missing_ok=True)
  every = (
    list(
      {
        os.path.abspath(path): path
        for path in (*paths, *itertools.chain(*pairs_of))
      }.values()
    )
    if pairs_of
    else paths
  )
  clips, failures = inputs.expand(every, recursive, skip=out_dir)
  if pairs_of:  # A folder may hold what a pair names too.
    first = {
      os.path.abspath(path): (path, name) for path, name in reversed(clips)
    }
    clips = [clip for clip in clips if first[os.path.abspath(clip[0])] == clip]
  results: dict[str, dict] = {}
  bar = tqdm.tqdm(total=len(clips), unit='clip', file=sys.stderr, disable=None)

  def say(line):
    with bar.external_write_mode(file=sys.stderr):
      report(line)

  for message in failures.values():
    say(f'error: {message}')

  def prepare(path):
    return _prepare(segmenter, path, spacing_mm, fps)

  with bar:
    for (path, name), ready in zip(
      clips, _read_ahead(prepare, [path for path, _ in clips])
    ):
      bar.set_postfix_str(name)
      start = time.perf_counter()
      try:
        outputs.clear(out_dir / name)
        results[name] = _finish(
          segmenter, path, out_dir / name, ready(), lag, probabilities
        )
        say(
          f'{summary(name, results[name])}  '
          f'({time.perf_counter() - start:.1f} s)'
        )
      except Exception as error:  # Whatever it is, the rest goes on.
        failures[str(path)] = _message(error, path, out_dir / name)
        say(f'error: {failures[str(path)]}')
      bar.update()
  if pairs_of:
    names = {
      os.path.abspath(path): name for path, name in clips if name in results
    }
    _measure_pairs(pairs_of, names, out_dir, failures, report)
  return results, failures


def _measure_pairs(pairs_of, names, out_dir, failures, report) -> None:
  """Writes biplane.json; a pair that cannot be measured is a failure."""
  measured = []
  for pair in pairs_of:
    try:
      lacking = [
        str(path) for path in pair if os.path.abspath(path) not in names
      ]
      if lacking:
        raise InputError(
          f'{" and ".join(lacking)}: not segmented as one clip, so no '
          'biplane volume of the pair; name two clips that succeed alone'
        )
      measured.append(
        pairs.measure(
          {
            view: out_dir / names[os.path.abspath(path)]
            for view, path in zip(pairs.VIEWS, pair)
          }
        )
      )
      report(pairs.summary(measured[-1]))
    except InputError as error:
      failures[' + '.join(map(str, pair))] = str(error)
      report(f'error: {error}')
  textio.write_json(out_dir / BIPLANE, {'pairs': measured})


def _prepare(segmenter, path, spacing_mm, fps) -> _Ready:
  """Reads a clip, finds its sector and checks what it shows."""
  clip = _overridden(readers.read_any(path), spacing_mm, fps)
  sector = segmenter.locate(clip.frames, clip.spacing_mm, clip.region)
  flags = checks.check_content(path, clip, sector)
  return _Ready(dataclasses.replace(clip, flags=(*clip.flags, *flags)), sector)


def _finish(
  segmenter, path, out_dir, ready: _Ready, lag: int, probabilities: bool
) -> dict:
  """Segments, measures and writes; `result.json` last."""
  clip, sector = ready.clip, ready.sector
  found = segmenter.segment_clip(
    clip.frames, clip.spacing_mm, fps=clip.fps, sector=sector, lag=lag
  )
  masks, low = found.masks, segmenter.calibration.low
  cycle = cycles.measure(
    masks,
    clip.spacing_mm,
    clip.fps,
    sector.box,
    still='still_image' in clip.flags,
    confidence=found.confidence,
    low=low,
  )
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  outputs.write_masks(out_dir / 'masks.nii.gz', masks, clip.spacing_mm)
  problem = dicom_seg.write_if_dicom(
    out_dir / 'masks.dcm',
    path,
    masks,
    clip.spacing_mm,
    segmenter.classes,
    segmenter.receipt,
  )
  if problem:
    clip = dataclasses.replace(clip, notes=(*clip.notes, problem))
  outputs.write_overlay(out_dir / 'overlay.mp4', clip, masks, cycle)
  outputs.write_gif(out_dir / 'overlay.gif', clip, masks, cycle)
  outputs.write_sheet(out_dir / 'overlay.png', clip, masks, cycle)
  outputs.write_curve(
    out_dir / 'area_curve.png', clip, cycle, found.confidence < low
  )
  if probabilities:
    outputs.write_probability(
      out_dir / 'probability.nii.gz', found, sector.box, clip.spacing_mm
    )
  result = outputs.result_of(
    pathlib.Path(path).name,
    clip,
    cycle,
    sector,
    found,
    segmenter.receipt,
    segmenter.calibration,
    lag,
  )
  textio.write_json(out_dir / 'result.json', result)
  return result


def _read_ahead(
  prepare: Callable, paths: Sequence
) -> Iterator[Callable[[], _Ready]]:
  """Yields, in order, what waits for each clip and returns or raises.

  The next clip is read as soon as the one before is: at most two are in
  memory, and only one if that is large.
  """
  executor = concurrent.futures.ThreadPoolExecutor(1, 'read-ahead')
  try:
    future = executor.submit(prepare, paths[0]) if paths else None
    for index in range(len(paths)):
      concurrent.futures.wait([future])
      large = not future.exception() and (
        future.result().clip.frames.nbytes > _READ_AHEAD_BYTES
      )
      box, future = [future], None  # Emptied when taken: nothing is kept.
      following = paths[index + 1 : index + 2]
      if following and not large:
        future = executor.submit(prepare, following[0])
      yield lambda box=box: box.pop().result()
      if following and large:
        future = executor.submit(prepare, following[0])
  finally:
    executor.shutdown(wait=False, cancel_futures=True)


def _message(error: Exception, path, out_dir) -> str:
  """One line about a failed clip that names its file."""
  if isinstance(error, InputError):
    message = str(error)  # A header may blame the file it points to.
    message = message if str(path) in message else f'{path}: {message}'
    return ' '.join(message.splitlines())
  if isinstance(error, MemoryError):
    return (
      f'{path}: found a clip that does not fit into memory; wanted a '
      'shorter one: cut it'
    )
  if isinstance(error, OSError):
    return (
      f'{path}: cannot be read, or {out_dir} not be written '
      f'({error.strerror or error}); check both'
    )
  logging.getLogger(__name__).debug('%s', path, exc_info=error)
  reason = ' '.join(f'{error.__class__.__name__}: {error}'.split())[:200]
  return (
    f'{path}: failed for a reason this program did not foresee '
    f'({reason}); please report it'
  )


def _overridden(clip: RawClip, spacing_mm, fps) -> RawClip:
  changes = {}
  if spacing_mm is not None:
    changes['spacing_mm'] = tuple(float(s) for s in spacing_mm)
  if fps is not None:
    changes['fps'] = float(fps)
  return dataclasses.replace(clip, **changes)


def summary(name: str, result: dict) -> str:
  """One line about a segmented clip.

  Args:
    name: of the clip.
    result: content of its result.json.

  Returns:
    Frames, EF, volumes and flags; '?' where unknown.
  """

  def show(value, unit):
    return '?' if value is None else f'{value:.0f} {unit}'

  flags = f'  [{", ".join(result["flags"])}]' if result['flags'] else ''
  count = result['frames']
  name = ' '.join(name.splitlines())
  return (
    f'{name}: {count} frame{"" if count == 1 else "s"}, EF '
    f'{show(result["ef_percent"], "%")}, EDV '
    f'{show(result["edv_ml"], "ml")}, ESV '
    f'{show(result["esv_ml"], "ml")}{flags}'
  )
