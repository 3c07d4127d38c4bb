"""echoforge segment: masks, overlay, areas and EF for any clip."""

import argparse
import logging
import math
import warnings


def main(argv: list[str]) -> int:
  """Runs the verb; 1 if any input failed."""
  parser = argparse.ArgumentParser(
      prog='echoforge segment', allow_abbrev=False,
      description='Segments clips (DICOM, AVI, MP4, GIF, NIfTI, MetaImage, '
      'NPY, NPZ, a folder of PNGs). Writes masks, overlay, area curve and '
      'result.json a clip.')
  parser.add_argument('--checkpoint', required=True, metavar='DIR',
                      help='workdir of a training run')
  parser.add_argument('--out', required=True, metavar='DIR',
                      help='gets one folder a clip')
  parser.add_argument('--which', choices=('teacher', 'student'),
                      default='teacher', help='which parameters to use')
  parser.add_argument('--spacing_mm', type=_spacing, metavar='ROW,COL',
                      help='mm per pixel, instead of the files\' own')
  parser.add_argument('--fps', type=_positive, metavar='N',
                      help='frames per second, instead of the files\' own')
  parser.add_argument('--recursive', action='store_true',
                      help='look through folders, and all below them, for '
                      'clips')
  parser.add_argument('inputs', nargs='+', metavar='INPUT',
                      help='a clip, a folder of PNG frames, or with '
                      '--recursive a folder of clips')
  args = parser.parse_args(argv)
  _quiet()
  from echoforge_jax import inference
  from echoforge_jax.inference import batch, receipt
  segmenter = inference.load(args.checkpoint, args.which)
  print(receipt.DISCLAIMER)
  results, failures = batch.segment_files(
      segmenter, args.inputs, args.out, spacing_mm=args.spacing_mm,
      fps=args.fps, recursive=args.recursive)
  total = len(results) + len(failures)
  print(f'{len(results)} of {total} clips segmented into {args.out}'
        + (f'; {len(failures)} failed' if failures else ''))
  return 1 if failures else 0


def _quiet() -> None:
  """Readers' warnings off: what matters is said in one line a file."""
  import SimpleITK as sitk
  sitk.ProcessObject.SetGlobalWarningDisplay(False)
  logging.getLogger('pydicom').setLevel(logging.CRITICAL)
  warnings.filterwarnings('ignore', module=r'(pydicom|highdicom|PIL)(\.|$)')


def _positive(text: str) -> float:
  value = float(text)
  if not (math.isfinite(value) and value > 0):
    raise argparse.ArgumentTypeError(f'found {text}; wanted a number above 0')
  return value


def _spacing(text: str) -> tuple[float, float]:
  parts = text.split(',')
  if len(parts) not in (1, 2):
    raise argparse.ArgumentTypeError(f'found {text}; wanted ROW,COL in mm')
  return _positive(parts[0]), _positive(parts[-1])
