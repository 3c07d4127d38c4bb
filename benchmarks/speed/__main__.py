"""Times every part of a config side by side, on noise.

  python -m benchmarks.speed --config=configs/tiny.py [--parts=A,B]

Model, training, data, scores and checkpoints are timed after warm-up, compiling
apart; neither data nor weights are needed. --config.FIELD=VALUE sets a field.
"""

import argparse
from pathlib import Path
import sys

from absl import flags

from benchmarks.speed import report, speed
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh


def _run(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.speed',
    allow_abbrev=False,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--config', required=True, metavar='FILE[:ARG]')
  add('--parts', default='', metavar='A,B', help='default: all')
  add('--repeats', type=int, default=10, metavar='N', help='of each part')
  add('--batch', type=int, metavar='B', help="clips (default: the config's)")
  add('--json', metavar='FILE.jsonl', type=Path, help='gets a line per part')
  add('--compare', metavar='OLD.jsonl', type=Path, help='of an earlier run')
  fields = [flag for flag in argv if flag.startswith('--config.')]
  args = parser.parse_args([flag for flag in argv if flag not in fields])
  if args.repeats < 1 or (args.batch is not None and args.batch < 1):
    raise InputError('wanted --repeats and --batch of at least 1')
  parts = speed.check_parts([p for p in args.parts.split(',') if p])
  config = parse_config([f'--config={args.config}', *fields])
  # Read first: it may be the file that is appended to.
  old = report.read(args.compare) if args.compare else None
  if args.json:
    report.check_output(args.json)
  mesh.split_cpu(config.cpu_devices)
  path, colon, argument = args.config.partition(':')
  lines = speed.measure(
    config,
    name=f'{Path(path).name}{colon}{argument}',
    overrides=fields,
    names=parts,
    repeats=args.repeats,
    batch=args.batch or 0,
    on_line=lambda line: args.json and report.append(line, args.json),
  )
  print(report.table(lines))
  if old is not None:
    print(report.compare(lines, old, str(args.compare)))


def main(argv: list[str] | None = None) -> int:
  """Measures and prints; returns 0, or 2 on misuse."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags.
  try:
    _run(sys.argv[1:] if argv is None else argv)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
