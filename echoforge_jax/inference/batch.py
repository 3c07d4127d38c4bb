"""Files in, one folder of results each out."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import time

from echoforge_jax.errors import InputError
from echoforge_jax.inference import cycle as cycles
from echoforge_jax.inference import outputs, readers
from echoforge_jax.inference.raw_clip import RawClip
from echoforge_jax.inference.segmenter import Segmenter


def segment_file(segmenter: Segmenter, path, out_dir, *,
                 spacing_mm=None, fps: float | None = None) -> dict:
  """Segments one clip file and writes all its results.

  Args:
    segmenter: the model.
    path: any file `readers.read_any` reads.
    out_dir: folder to fill with masks.nii.gz, overlay.mp4, overlay.png,
      area_curve.png and, last, result.json.
    spacing_mm: mm per pixel (row, column) to use instead of the file's.
    fps: frames per second to use instead of the file's.

  Returns:
    The content of result.json.

  Raises:
    InputError: the file cannot be read as a clip.
  """
  clip = _overridden(readers.read_any(path), spacing_mm, fps)
  sector = segmenter.locate(clip.frames, clip.spacing_mm, clip.region)
  masks = segmenter.segment(
      clip.frames, clip.spacing_mm, fps=clip.fps, sector=sector)
  cycle = cycles.measure(masks, clip.spacing_mm, clip.fps, sector.box)
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  result = outputs.result_of(
      pathlib.Path(path).name, clip, cycle, sector, masks, segmenter.receipt)
  (out_dir / 'result.json').unlink(missing_ok=True)
  outputs.write_masks(out_dir / 'masks.nii.gz', masks, clip.spacing_mm)
  outputs.write_overlay(out_dir / 'overlay.mp4', clip, masks, cycle)
  outputs.write_sheet(out_dir / 'overlay.png', clip, masks, cycle)
  outputs.write_curve(out_dir / 'area_curve.png', clip, cycle)
  outputs.write_json(out_dir / 'result.json', result)
  return result


def segment_files(
    segmenter: Segmenter, paths: Sequence, out_dir, *,
    spacing_mm=None, fps: float | None = None,
    report: Callable[[str], None] = print,
) -> tuple[dict[str, dict], dict[str, str]]:
  """Segments many files; a bad one is reported and does not stop the rest.

  Args:
    segmenter: the model.
    paths: clip files.
    out_dir: gets one folder a file, named by its stem.
    spacing_mm: mm per pixel (row, column) to use instead of every file's.
    fps: frames per second to use instead of every file's.
    report: gets one line a file.

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
        'choose a directory you may write to') from error
  results, failures = {}, {}
  for path, name in zip(paths, folder_names(paths)):
    start = time.perf_counter()
    try:
      result = segment_file(segmenter, path, out_dir / name,
                            spacing_mm=spacing_mm, fps=fps)
    except (InputError, OSError) as error:
      failures[str(path)] = str(error)
      report(f'error: {error}' if isinstance(error, InputError) else
             f'error: {path}: cannot be read, or {out_dir / name} not be '
             f'written ({error})')
      continue
    results[name] = result
    report(f'{summary(name, result)}  ({time.perf_counter() - start:.1f} s)')
  return results, failures


def folder_names(paths) -> list[str]:
  """One folder name a file: its stem, numbered where two files share it."""
  taken: set[str] = set()
  names = []
  for path in paths:
    stem = readers.stem_of(path)
    name, number = stem, 2
    while name in taken:
      name, number = f'{stem}-{number}', number + 1
    taken.add(name)
    names.append(name)
  return names


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
  return (f'{name}: {result["frames"]} frames, EF '
          f'{show(result["ef_percent"], "%")}, EDV '
          f'{show(result["edv_ml"], "ml")}, ESV '
          f'{show(result["esv_ml"], "ml")}{flags}')
