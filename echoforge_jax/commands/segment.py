"""echoforge segment: masks, overlay, areas and EF for any clip."""

import argparse
import logging
import math
import os
import warnings

from echoforge_jax.commands import STEP_HELP, new_parser
from echoforge_jax.errors import InputError


def _parser() -> argparse.ArgumentParser:
  parser = new_parser(
    'segment',
    'Segments clips (DICOM, AVI, MP4, GIF, NIfTI, MetaImage, NPY, NPZ, a folder of PNGs). Writes '
    'masks, overlay, area curve and result.json per clip.',
  )
  add = parser.add_argument
  text = 'workdir of a training run, or a .safetensors of export '
  text += '(default: the model shipped with the package)'
  add('--checkpoint', default='default', metavar='DIR', help=text)
  add('--out', required=True, metavar='DIR', help='gets one folder per clip')
  text = 'which parameters to use'
  add('--which', choices=('teacher', 'student'), default='teacher', help=text)
  add('--step', default='latest', metavar='STEP', help=STEP_HELP)
  text = "mm per pixel, instead of the files' own"
  add('--spacing_mm', type=_spacing, metavar='ROW,COL', help=text)
  text = "frames per second, instead of the files' own"
  add('--fps', type=_positive, metavar='N', help=text)
  text = 'look through folders, and all below them, for clips'
  add('--recursive', action='store_true', help=text)
  text = 'two views of one patient: biplane volumes and EF go to biplane.json; may be given again'
  add('--pair', nargs=2, action='append', default=[], metavar=('4CH', '2CH'), help=text)
  text = 'average each frame with L before and L after it, for smoother masks; '
  text += '0: as a live stream (default: 1)'
  add('--lag', type=int, default=1, metavar='L', help=text)
  text = 'write probability.nii.gz, the confidence in every pixel'
  add('--probabilities', action='store_true', help=text)
  text = 'a clip, a folder of PNG frames, or with --recursive a folder of clips'
  add('inputs', nargs='*', metavar='INPUT', help=text)
  return parser


def main(argv: list[str]) -> int:
  """Segments clips; 1 if any of them failed."""
  parser = _parser()
  args = parser.parse_args(argv)
  if not args.inputs and not args.pair:
    parser.error('wanted at least one INPUT or --pair')
  _quiet()
  from echoforge_jax import inference
  from echoforge_jax.inference import batch, receipt
  from echoforge_jax.inference.stream import check_lag

  check_lag(args.lag)
  for pair in args.pair:
    if os.path.abspath(pair[0]) == os.path.abspath(pair[1]):
      raise InputError(
        f'--pair {pair[0]} {pair[1]}: one clip twice; wanted a four-chamber and a two-chamber view'
      )
  segmenter = inference.load(args.checkpoint, args.which, args.step)
  print(receipt.DISCLAIMER)
  print(receipt.describe(args.checkpoint, segmenter.receipt))
  results, failures = batch.segment_files(
    segmenter,
    args.inputs,
    args.out,
    spacing_mm=args.spacing_mm,
    fps=args.fps,
    recursive=args.recursive,
    pairs_of=args.pair,
    lag=args.lag,
    probabilities=args.probabilities,
  )
  named = {' + '.join(pair) for pair in args.pair}
  total = len(results) + len(set(failures) - named)
  print(
    f'{len(results)} of {total} clips segmented into {args.out}'
    + (f'; {len(failures)} failed' if failures else '')
  )
  return 1 if failures else 0


def _quiet() -> None:
  """Turns off readers' warnings: a line per file says what matters."""
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
