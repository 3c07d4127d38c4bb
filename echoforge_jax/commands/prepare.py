"""prepare: a raw dataset, squeezed to one grid, as ArrayRecord."""

import argparse
import pathlib
import sys

_TEXT = """\
Squeezes every clip of a raw dataset to a square grid and writes the splits as
ArrayRecord files. May be interrupted and started again; what is complete is
left alone. Run `echoforge verify` first: it lists all that is wrong at once.
"""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='echoforge prepare', description=_TEXT, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--dataset', required=True, help='camus')
  parser.add_argument('--raw', required=True, metavar='DIR', type=pathlib.Path,
                      help='root of the raw dataset')
  parser.add_argument('--data_dir', required=True, metavar='DIR',
                      type=pathlib.Path, help='root of all prepared data')
  parser.add_argument('--image_size', type=int, default=256, metavar='S',
                      help='side of the square in pixels (256)')
  parser.add_argument('--split_scheme', default='official',
                      help='official (400/50/50) or memsam (350/50/100)')
  parser.add_argument('--overwrite', action='store_true',
                      help='replace data prepared from other raw files')
  return parser


def main(argv: list[str]) -> int:
  """Runs the command; returns its exit status."""
  flags = _parser().parse_args(argv)
  from echoforge_jax.data import builder
  prepared = builder.prepare(
      flags.dataset, flags.raw, flags.data_dir, flags.image_size,
      split_scheme=flags.split_scheme, overwrite=flags.overwrite,
      progress=sys.stderr.isatty())
  state = 'already complete' if prepared.reused else 'written'
  print(f'{prepared.path}: {state}, {prepared.num_bytes / 1e6:.1f} MB')
  print(f'{"split":<12}{"patients":>9}{"clips":>7}{"frames":>8}')
  for split, (patients, clips, frames) in prepared.counts.items():
    print(f'{split:<12}{patients:>9}{clips:>7}{frames:>8}')
  return 0
