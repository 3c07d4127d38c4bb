"""study --study=NAME --out=DIR: train and compare runs, or count costs."""

from pathlib import Path
import sys

from echoforge_jax.commands import new_parser
from echoforge_jax.errors import InputError

_TEXT = """\
Trains every row of a study with several seeds, evaluates it on test patients,
and writes DIR/STUDY.{md,json,png}. Without --data_dir it makes phantom patients
first. The same command continues what was interrupted; a finished run is a line
of DIR/results.jsonl. --config.FIELD=VALUE holds for every row.

--study=cost trains nothing: it counts parameters and operations of configs and
times their forward pass, and writes DIR/cost.md and DIR/cost.json.
"""
# The phantoms of a study; chosen for two CPU cores.
PATIENTS, TEST, SEED, IMAGE_SIZE = 130, 40, 3, 96


def main(argv: list[str]) -> int:
  """Runs a study; returns 0, 1 where runs failed, 128 + n after signal n."""
  parser = new_parser('study', _TEXT)
  add = parser.add_argument
  add('--out', required=True, metavar='DIR', type=Path)
  add('--study', default='rows', help='rows, labels, methods, anchors, supervision or cost')
  add('--rows', default='', metavar='A,B', help='only these rows, and the reference')
  add('--seeds', type=int, default=3, metavar='N')
  add('--jobs', type=int, default=1, help='runs at a time')
  text = 'of all rows; cost: several FILE[:ARG],... '
  text += '(default: phantom_lite; cost: the four of docs/ablation.md)'
  add('--config', metavar='FILE', help=text)
  add('--data_dir', type=Path, metavar='DIR', help='prepared data (default: makes phantoms)')
  add('--style', choices=['camus', 'randomized'], default='randomized', help='of the phantoms')
  add('--protocol', default='camus_full')
  text = 'leave parameters, GFLOP and frames/s out of the table'
  add('--no_cost', action='store_true', help=text)
  fields = [flag for flag in argv if flag.startswith('--config.')]
  args = parser.parse_args([flag for flag in argv if flag not in fields])
  if args.seeds < 1 or args.jobs < 1:
    raise InputError(f'--seeds={args.seeds} --jobs={args.jobs}: wanted at least 1 of each')
  if args.study == 'cost':
    return _cost(args, fields)
  from echoforge_jax.experiments import runner

  try:
    return _compare(args, fields)
  except runner.RunFailed as error:
    print(f'error: {error}', file=sys.stderr)
    return error.status


def _cost(args, fields: list[str]) -> int:
  from echoforge_jax.config import parse_config
  from echoforge_jax.experiments import cost

  names = args.config.split(',') if args.config else cost.CONFIGS
  found = cost.of_configs({name: parse_config([f'--config={name}', *fields]) for name in names})
  print(cost.markdown(found), end='')
  print('\n'.join(map(str, cost.write(found, args.out))))
  return 0


def _compare(args, fields: list[str]) -> int:
  from echoforge_jax.experiments import cost, runner, study, tables

  rows = [name for name in args.rows.split(',') if name]
  chosen = study.get_study(args.study, rows)
  overrides = tuple(tuple(flag.removeprefix('--config.').split('=', 1)) for flag in fields)
  if args.data_dir is None:
    overrides = (('data.image_size', IMAGE_SIZE), *overrides)
  settings = runner.Settings(
    out_dir=args.out,
    data_dir=(args.data_dir or args.out / 'data').resolve(),
    config=args.config or 'phantom_lite',
    overrides=overrides,
    protocol=args.protocol,
    jobs=args.jobs,
  )
  # A flag that no config takes stops here, not in every run.
  configs = runner.check(chosen, settings)
  if args.data_dir is None:
    _make_phantoms(args.out, args.style)
  lines = runner.run_study(chosen, range(args.seeds), settings)
  costs = {} if args.no_cost else cost.of_configs(configs)
  found = tables.summarise(chosen, lines)
  written = tables.write(found, args.out, costs)
  print(tables.markdown(found, costs))
  print('\n'.join(map(str, written)))
  return 0


def _make_phantoms(out_dir: Path, style: str) -> None:
  from echoforge_jax.data import prepare
  from echoforge_jax.phantom import camus_writer
  from echoforge_jax.phantom.config import PhantomConfig

  progress = sys.stderr.isatty()
  camus_writer.write_camus(
    out_dir / 'raw',
    num_patients=PATIENTS,
    num_test=TEST,
    seed=SEED,
    config=PhantomConfig.named(style),
    num_workers=1,
    progress=progress,
  )
  prepare.prepare('camus', out_dir / 'raw', out_dir / 'data', IMAGE_SIZE, progress=progress)
