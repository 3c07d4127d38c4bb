"""prepare: a raw dataset, squeezed to one grid, as ArrayRecord."""

import pathlib
import sys

from echoforge_jax.commands import new_parser
from echoforge_jax.commands.verify import LABELS, open_reader
from echoforge_jax.errors import InputError

_TEXT = """\
Squeezes every clip of a raw dataset to a square grid and writes the splits as
ArrayRecord files. May be interrupted and started again; what is complete is
left alone. Run `echoforge verify` first: it lists all that is wrong at once.
"""


def _excluded(flag: str | None) -> list[str] | None:
  if flag is None or flag == 'none':
    return None if flag is None else []
  try:
    lines = pathlib.Path(flag).read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f'--exclude {flag}: cannot be read ({error}); wanted a '
      'text file with one name a line, or "none"'
    ) from error
  names = [line.split('#')[0].strip() for line in lines]
  return [name.removesuffix('.avi') for name in names if name]


def _print_skipped(skipped) -> None:
  print(f'{len(skipped)} clips left out:')
  for skip in skipped:
    print(f'  {skip["split"]} {skip["patient"]} {skip["view"]}: {skip["reason"]}')


def main(argv: list[str]) -> int:
  """Prepares a dataset; returns 1 where clips fail without --allow_skips."""
  parser = new_parser('prepare', _TEXT)
  add = parser.add_argument
  text = "camus, echonet, folder (your own data), or 'module.path:Name' of a reader of your own"
  add('--dataset', required=True, metavar='NAME', help=text)
  text = 'root of the raw dataset'
  add('--raw', required=True, metavar='DIR', type=pathlib.Path, help=text)
  text = 'root of all prepared data'
  add('--data_dir', required=True, metavar='DIR', type=pathlib.Path, help=text)
  text = 'side of the square in pixels, for training a multiple of 32 '
  text += "(256; EchoNet's configs take 128)"
  add('--image_size', type=int, default=256, metavar='S', help=text)
  text = 'official (400/50/50) or memsam (350/50/100)'
  text += ', or of a folder seedN or foldKofN'
  add('--split_scheme', default='official', help=text)
  text = 'a folder: test on fold K of N, validate on the next, train on the others'
  add('--fold', metavar='K/N', help=text)
  add('--labels', default='', metavar='NAME=VALUE,...', help=LABELS)
  add('--overwrite', action='store_true', help='replace data prepared from other raw files')
  add('--allow_skips', action='store_true', help='go on without clips that cannot be read')
  text = 'text file, one patient (EchoNet: clip) a line to leave out, or "none"; by default what '
  text += 'is known to be unusable (EchoNet: six clips that were never traced)'
  add('--exclude', metavar='FILE', help=text)
  flags = parser.parse_args(argv)
  from echoforge_jax.data.patient_splits import fold_scheme
  from echoforge_jax.data.prepare import ClipsFailed, prepare

  if flags.fold:
    flags.split_scheme = fold_scheme(flags.fold)
  reader = open_reader(flags.dataset, flags.raw, flags.labels)
  for note in reader.notes(flags.split_scheme):
    print(note)
  try:
    prepared = prepare(
      flags.dataset,
      flags.raw,
      flags.data_dir,
      flags.image_size,
      split_scheme=flags.split_scheme,
      overwrite=flags.overwrite,
      allow_skips=flags.allow_skips,
      excluded=_excluded(flags.exclude),
      progress=sys.stderr.isatty(),
      reader=reader,
    )
  except ClipsFailed as error:
    _print_skipped(error.skipped)
    print(
      'error: nothing was finished, but what can be read is kept: mend the clips above and start '
      'again, or pass --allow_skips to go on without them',
      file=sys.stderr,
    )
    return 1
  state = 'already complete' if prepared.reused else 'written'
  print(f'{prepared.path}: {state}, {prepared.num_bytes / 1e6:.1f} MB')
  print(f'{"split":<12}{"patients":>9}{"clips":>7}{"frames":>8}')
  for split, (patients, clips, frames) in prepared.counts.items():
    print(f'{split:<12}{patients:>9}{clips:>7}{frames:>8}')
  if empty := [split for split, (_, clips, _) in prepared.counts.items() if not clips]:
    print(f'{flags.raw} lists no clip of the split {" or ".join(empty)}')
  for source, clips in prepared.ef_sources.items():
    print(f"EF of {clips} clips: measured on their patients' {source}")
  if prepared.skipped:
    _print_skipped(prepared.skipped)
  return 0
