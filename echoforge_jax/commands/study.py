"""study --study=NAME --out=DIR: train and compare runs, or count costs."""

import dataclasses
import os
from pathlib import Path
import sys

from echoforge_jax.commands import new_parser
from echoforge_jax.errors import InputError
from echoforge_jax.experiments.jobs import own_cores

_TEXT = """\
Trains every row of a study with several seeds, evaluates it on patients held
out, and writes DIR/STUDY.{md,tex,json,png,pdf}. The same command continues what
was interrupted; a finished run is a line of DIR/results.jsonl. Without data it
makes phantom patients first. --config.FIELD=VALUE holds for every row.

  study --study=labels --data=camus_stills --raw=RAW --out=DIR
      supervised, from random and from phantom weights, with labels of 5 to all
      patients, scored on the validation patients
  ... --table    what is done so far as a table; trains nothing

--study=cost trains nothing: it counts parameters and operations of configs and
times their forward pass, and writes DIR/cost.md and DIR/cost.json.
"""
# --data -> config, protocol and split of a study, and fields of the config.
DATA = {
  'phantom': ('phantom_lite', 'camus_full', 'test', ()),
  # The shipped model, whose weights are to fit, remembers three frames.
  'camus_stills': ('camus_stills', 'camus_semi', 'validation', (('model.memory_frames', 3),)),
}
# Runs at a time on a CPU: two on a core each took less time than one after the other on both.
MAX_JOBS = 4
# The phantoms of a study; chosen for two CPU cores.
PATIENTS, TEST, SEED, IMAGE_SIZE = 130, 40, 3, 96


def main(argv: list[str]) -> int:
  """Runs a study; returns 0, 1 where runs failed, 128 + n after signal n."""
  parser = new_parser('study', _TEXT)
  add = parser.add_argument
  add('--out', required=True, metavar='DIR', type=Path)
  add('--study', default='rows', help='rows, labels, methods, anchors, supervision or cost')
  add('--rows', default='', metavar='A,B', help='only these rows, and those compared with')
  text = 'a row more: the reference with fields of its config changed; may be given several times'
  add('--row', action='append', default=[], metavar='NAME:FIELD=VALUE,...', help=text)
  add('--seeds', type=int, default=0, metavar='N', help='of every row (default: as the study says)')
  add(
    '--steps', type=int, default=0, metavar='N', help='of every run (default: as the config says)'
  )
  text = 'labels: numbers of labeled patients; 0 means all'
  add('--patients', default='', metavar='N,M', help=text)
  add(
    '--weights', default='', metavar='FILE', help='labels, methods: in place of the shipped model'
  )
  add(
    '--jobs', type=int, default=0, help=f'runs at a time (default: one a core, at most {MAX_JOBS})'
  )
  add('--data', choices=sorted(DATA), default='phantom', help='chooses the four flags below')
  text = 'of all rows; cost: several FILE[:ARG],... (default: the four of docs/ablation.md)'
  add('--config', metavar='FILE', help=text)
  add('--protocol')
  add('--split', help='whose patients are scored')
  text = 'prepared data (default: DIR/data, prepared from --raw, or of new phantoms)'
  add('--data_dir', type=Path, metavar='DIR', help=text)
  add('--raw', type=Path, metavar='DIR', help='raw data to prepare')
  add('--style', choices=['camus', 'randomized'], default='randomized', help='of the phantoms')
  add('--table', action='store_true', help='write tables of what is done, and stop')
  text = 'leave parameters, GFLOP and frames/s out of the table'
  add('--no_cost', action='store_true', help=text)
  fields = [flag for flag in argv if flag.startswith('--config.')]
  args = parser.parse_args([flag for flag in argv if flag not in fields])
  if min(args.seeds, args.jobs, args.steps) < 0:
    raise InputError('--seeds, --jobs, --steps: found a negative number, wanted 0 or more')
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

  numbers = [_whole('--patients', text) for text in args.patients.split(',') if text]
  chosen = study.get_study(
    args.study,
    [name for name in args.rows.split(',') if name],
    seeds=args.seeds,
    steps=args.steps,
    patients=numbers,
    weights=args.weights,
    more=args.row,
  )
  config, protocol, split, overrides = DATA[args.data]
  overrides += tuple(tuple(flag.removeprefix('--config.').split('=', 1)) for flag in fields)
  new_phantoms = args.data == 'phantom' and not (args.data_dir or args.raw)
  if new_phantoms:
    overrides = (('data.image_size', IMAGE_SIZE), *overrides)
  settings = runner.Settings(
    out_dir=args.out,
    data_dir=(args.data_dir or args.out / 'data').resolve(),
    config=args.config or config,
    overrides=overrides,
    protocol=args.protocol or protocol,
    split=args.split or split,
    jobs=args.jobs or 1,
  )
  # A flag that no config takes stops here, not in every run.
  configs = runner.check(chosen, settings)
  if args.table:
    lines = runner.done_lines(chosen, settings)
    if not lines:
      raise InputError(f'{args.out / runner.RESULTS}: found no run of --study={args.study}')
  else:
    if new_phantoms:
      _make_phantoms(args.out, args.style)
    elif args.raw:
      data = next(iter(configs.values())).data
      _prepare(data.dataset, args.raw, settings.data_dir, data.image_size, data.split_scheme)
    elif args.data_dir is None and not settings.data_dir.is_dir():
      raise InputError(f'--data={args.data}: wanted --raw=DIR, or prepared data in --data_dir')
    platform = _keep_programs(args.out)
    if not args.jobs and platform == 'cpu':
      settings = dataclasses.replace(settings, jobs=min(len(own_cores()), MAX_JOBS))
    lines = runner.run_study(chosen, settings)
  costs = {} if args.no_cost or args.study == 'labels' else cost.of_configs(configs)
  found = tables.summarise(chosen, lines)
  written = tables.write(found, args.out, costs)
  print(tables.markdown(found, costs))
  print('\n'.join(map(str, written)))
  return 0


def _keep_programs(out_dir: Path) -> str:
  """Shares compiled programs with the runs, and leaves accelerators' memory to them.

  Returns the platform that they compute on.
  """
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  folder = os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(out_dir.resolve() / 'compiled'))
  import jax

  jax.config.update('jax_compilation_cache_dir', folder)
  return jax.default_backend()


def _whole(flag: str, text: str) -> int:
  if not text.isdigit():
    raise InputError(f'{flag}: found {text!r}, wanted whole numbers, such as 10,40')
  return int(text)


def _prepare(dataset: str, raw: Path, data_dir: Path, image_size: int, scheme='official') -> None:
  from echoforge_jax.data import prepare

  progress = sys.stderr.isatty()
  prepare.prepare(dataset, raw, data_dir, image_size, split_scheme=scheme, progress=progress)


def _make_phantoms(out_dir: Path, style: str) -> None:
  from echoforge_jax.phantom import camus_writer
  from echoforge_jax.phantom.config import PhantomConfig

  camus_writer.write_camus(
    out_dir / 'raw',
    num_patients=PATIENTS,
    num_test=TEST,
    seed=SEED,
    config=PhantomConfig.named(style),
    num_workers=1,
    progress=sys.stderr.isatty(),
  )
  _prepare('camus', out_dir / 'raw', out_dir / 'data', IMAGE_SIZE)
