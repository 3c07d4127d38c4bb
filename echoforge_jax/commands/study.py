"""bench ablation | cost | profile | speed | stream: studies and speed."""

import argparse
import math
from pathlib import Path
import sys

from echoforge_jax import textio
from echoforge_jax.errors import InputError

_TEXT = """\
  bench cost --config=configs/camus_echoforge.py    parameters, GFLOP, frames/s
  bench stream --checkpoint=RUN                     latency from frame to mask
  bench speed --config=configs/tiny.py              every part, side by side
  bench profile --config=configs/tiny.py            where a step's time goes
  bench ablation --out=DIR                          train and compare many rows
"""
_ABLATION = """\
Trains every row of a study with several seeds, evaluates it on test patients,
and writes DIR/STUDY.{md,json,png}. Without --data_dir it makes phantom patients
first. The same command continues what was interrupted; a finished run is a line
of DIR/results.jsonl. --config.FIELD=VALUE holds for every row.
"""
# A study's size unless flags say otherwise; chosen for two CPU cores.
PATIENTS, TEST, SEED, IMAGE_SIZE = 130, 40, 3, 96


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='echoforge bench',
    allow_abbrev=False,
    description=_TEXT,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
  cost = kinds.add_parser(
    'cost', allow_abbrev=False, help='parameters, operations, frames per second'
  )
  cost.add_argument('--config', required=True, metavar='FILE[:ARG]')
  cost.add_argument('--frames', type=int, default=10)
  cost.add_argument(
    '--image_size',
    type=int,
    default=0,
    help="side of a frame (default: the config's)",
  )
  cost.add_argument(
    '--repeats', type=int, default=5, help='timed calls; 0: count only'
  )
  _add_stream(kinds)
  _add_speed(kinds)
  _add_profile(kinds)
  study = kinds.add_parser(
    'ablation',
    allow_abbrev=False,
    help='train and compare rows',
    description=_ABLATION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  study.add_argument('--out', required=True, metavar='DIR', type=Path)
  study.add_argument(
    '--study', default='rows', help='rows, anchors, labels or supervision'
  )
  study.add_argument(
    '--rows',
    default='',
    metavar='A,B',
    help='only these rows, and the reference',
  )
  study.add_argument('--seeds', type=int, default=3, metavar='N')
  study.add_argument('--jobs', type=int, default=1, help='runs at a time')
  study.add_argument(
    '--config', default='phantom_lite.py', help='a file of configs/'
  )
  study.add_argument(
    '--data_dir',
    type=Path,
    metavar='DIR',
    help='prepared data (default: makes phantoms)',
  )
  study.add_argument(
    '--style',
    choices=['camus', 'randomized'],
    default='randomized',
    help='of the phantoms',
  )
  study.add_argument('--protocol', default='camus_full')
  study.add_argument(
    '--no_cost',
    action='store_true',
    help='leave parameters, GFLOP and frames/s out',
  )
  return parser


def _add_stream(kinds) -> None:
  stream = kinds.add_parser(
    'stream',
    allow_abbrev=False,
    help='latency from a frame to its mask',
    description='Times one frame after another, as a live stream would come; '
    'decoding is not part of it, compiling is timed apart.',
  )
  model = stream.add_mutually_exclusive_group(required=True)
  model.add_argument(
    '--checkpoint', metavar='DIR', help='workdir of a training run'
  )
  model.add_argument(
    '--config', metavar='FILE[:ARG]', help='a config, untrained: as fast'
  )
  stream.add_argument('--frames', type=int, default=10_000)
  stream.add_argument(
    '--size',
    default='480x640',
    metavar='HxW',
    help='of a native frame (default: 480x640)',
  )
  stream.add_argument(
    '--fps',
    type=float,
    default=math.nan,
    metavar='N',
    help='for the pace of the memory (default: unknown)',
  )
  stream.add_argument(
    '--lag',
    type=int,
    default=0,
    metavar='L',
    help='frames to wait for smoother masks (default: 0)',
  )
  stream.add_argument('--json', metavar='FILE', type=Path)


def _add_speed(kinds) -> None:
  speed = kinds.add_parser(
    'speed',
    allow_abbrev=False,
    help='speed of every part, side by side',
    description='Times model, training, data, scores and checkpoints after '
    'warm-up, compiling apart, on noise: needs neither data nor weights.',
  )
  speed.add_argument('--config', required=True, metavar='FILE[:ARG]')
  speed.add_argument(
    '--parts', default='', metavar='A,B', help='only these (default: all)'
  )
  speed.add_argument(
    '--repeats',
    type=int,
    default=10,
    metavar='N',
    help='measurements of each part (default: 10)',
  )
  speed.add_argument(
    '--batch', type=int, metavar='B', help="clips (default: the config's)"
  )
  speed.add_argument(
    '--json', metavar='FILE.jsonl', type=Path, help='gets one more line a part'
  )
  speed.add_argument(
    '--compare', metavar='OLD.jsonl', type=Path, help='lines of an earlier run'
  )


def _add_profile(kinds) -> None:
  profile = kinds.add_parser(
    'profile',
    allow_abbrev=False,
    help="where a step's time goes",
    description='Runs the step a few times under the profiler, on noise, and '
    'names the operations that take longest.',
  )
  profile.add_argument('--config', required=True, metavar='FILE[:ARG]')
  profile.add_argument(
    '--target',
    default='train',
    metavar='STEP',
    help='train, forward or stream (default: train)',
  )
  profile.add_argument(
    '--repeats',
    type=int,
    default=3,
    metavar='N',
    help='steps in the trace (default: 3)',
  )
  profile.add_argument(
    '--batch', type=int, metavar='B', help="clips (default: the config's)"
  )
  profile.add_argument(
    '--top',
    type=int,
    default=10,
    metavar='N',
    help='operations to name (default: 10)',
  )
  profile.add_argument(
    '--trace', metavar='DIR', type=Path, help='keeps the trace, for XProf'
  )
  profile.add_argument(
    '--json',
    metavar='FILE.jsonl',
    type=Path,
    help='gets a line of the step and one an operation',
  )


def main(argv: list[str]) -> int:
  """Runs a benchmark.

  Args:
    argv: flags after the verb.

  Returns:
    0, or 1 where runs of a study failed.
  """
  fields = [flag for flag in argv if flag.startswith('--config.')]
  args = _parser().parse_args([flag for flag in argv if flag not in fields])
  if args.kind == 'cost':
    return _cost(args, fields)
  if args.kind == 'stream':
    return _stream(args, fields)
  if args.kind == 'speed':
    return _speed(args, fields)
  if args.kind == 'profile':
    return _profile(args, fields)
  from echoforge_jax.experiments import runner

  try:
    return _ablation(args, fields)
  except runner.RunFailed as error:
    print(f'error: {error}', file=sys.stderr)
    return 1


def _cost(args, fields: list[str]) -> int:
  if args.frames < 1 or args.repeats < 0 or args.image_size < 0:
    raise InputError(
      'bench cost: wanted --frames of at least 1, --repeats and '
      '--image_size of at least 0'
    )
  from echoforge_jax.config import parse_config
  from echoforge_jax.experiments import cost

  config = parse_config([f'--config={args.config}', *fields])
  print(
    cost.cost_text(
      args.config,
      cost.of_config(
        config,
        frames=args.frames,
        image_size=args.image_size,
        repeats=args.repeats,
      ),
    )
  )
  return 0


def _stream(args, fields: list[str]) -> int:
  rows, _, columns = args.size.partition('x')
  size = tuple(int(n) if n.isdecimal() else 0 for n in (rows, columns))
  if min(size) < 16:
    raise InputError(f'--size={args.size}: wanted HxW, at least 16x16')
  if args.frames < 1:
    raise InputError(f'--frames={args.frames}: wanted at least 1')
  if args.json and not args.json.resolve().parent.is_dir():
    raise InputError(f'--json={args.json}: no such folder; make it first')
  if args.checkpoint and fields:
    raise InputError(
      f'{fields[0]}: a checkpoint has its own config; wanted '
      'this with --config only'
    )
  from benchmarks.speed import latency
  from echoforge_jax import inference
  from echoforge_jax.inference import lag

  lag.check(args.lag)
  if args.checkpoint:
    name, segmenter = args.checkpoint, inference.load(args.checkpoint)
  else:
    from echoforge_jax.config import parse_config

    name = args.config
    segmenter = latency.untrained(
      parse_config([f'--config={args.config}', *fields])
    )
  found = latency.measure_stream(
    segmenter, frames=args.frames, size=size, fps=args.fps, lag=args.lag
  )
  print(latency.latency_text(name, found))
  if args.json:
    textio.write_json(args.json, found)
  return 0


def _speed(args, fields: list[str]) -> int:
  if args.repeats < 1 or (args.batch is not None and args.batch < 1):
    raise InputError('bench speed: wanted --repeats and --batch of at least 1')
  from benchmarks.speed import report as speed_report
  from benchmarks.speed import speed
  from echoforge_jax.config import parse_config
  from echoforge_jax.parallel import mesh

  parts = speed.check_parts([p for p in args.parts.split(',') if p])
  config = parse_config([f'--config={args.config}', *fields])
  # Read first: it may be the file that is appended to.
  old = speed_report.read(args.compare) if args.compare else None
  if args.json:
    speed_report.check_output(args.json)
  mesh.split_cpu(config.cpu_devices)
  path, colon, argument = args.config.partition(':')
  lines = speed.measure(
    config,
    name=f'{Path(path).name}{colon}{argument}',
    overrides=fields,
    parts=parts,
    repeats=args.repeats,
    batch=args.batch or 0,
    on_line=lambda line: args.json and speed_report.append(line, args.json),
  )
  print(speed_report.table(lines))
  if old is not None:
    print(speed_report.compare(lines, old, str(args.compare)))
  return 0


def _profile(args, fields: list[str]) -> int:
  if min(args.repeats, args.top, 1 if args.batch is None else args.batch) < 1:
    raise InputError(
      'bench profile: wanted --repeats, --batch and --top of at least 1'
    )
  from benchmarks.speed import profile
  from benchmarks.speed import report as speed_report
  from echoforge_jax.config import parse_config
  from echoforge_jax.parallel import mesh

  config = parse_config([f'--config={args.config}', *fields])
  if args.json:
    speed_report.check_output(args.json)
  mesh.split_cpu(config.cpu_devices)
  found = profile.measure(
    config,
    name=Path(args.config).name,
    target=args.target,
    repeats=args.repeats,
    batch=args.batch or 0,
    trace=args.trace,
  )
  for line in profile.lines(found, args.top) if args.json else ():
    speed_report.append(line, args.json)
  print(profile.table(found, args.top))
  return 0


def _ablation(args, fields: list[str]) -> int:
  from echoforge_jax.experiments import runner, study, tables

  if args.seeds < 1 or args.jobs < 1:
    raise InputError(
      f'--seeds={args.seeds} --jobs={args.jobs}: wanted at least 1 of each'
    )
  rows = [name for name in args.rows.split(',') if name]
  chosen = study.get_study(args.study, rows)
  if not (runner.CONFIGS / args.config).is_file():
    raise InputError(
      f'--config={args.config}: no such file in configs/, which '
      'comes with the repository'
    )
  overrides = tuple(
    tuple(flag.removeprefix('--config.').split('=', 1)) for flag in fields
  )
  if args.data_dir is None:
    overrides = (('data.image_size', IMAGE_SIZE), *overrides)
  settings = runner.Settings(
    out_dir=args.out,
    data_dir=(args.data_dir or args.out / 'data').resolve(),
    config=args.config,
    overrides=overrides,
    protocol=args.protocol,
    jobs=args.jobs,
  )
  # A flag that no config takes stops here, not in every run.
  configs = runner.check(chosen, settings)
  if args.data_dir is None:
    _make_phantoms(args.out, args.style)
  lines = runner.run_study(chosen, range(args.seeds), settings)
  costs = None
  if not args.no_cost:
    from echoforge_jax.experiments import cost

    costs = {name: cost.of_config(config) for name, config in configs.items()}
  found = tables.summarise(chosen, lines)
  written = tables.write(found, args.out, costs)
  print(tables.markdown(found, costs))
  print('\n'.join(map(str, written)))
  return 0


def _make_phantoms(out_dir: Path, style: str) -> None:
  from echoforge_jax.data import prepare as builder
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
  builder.prepare(
    'camus', out_dir / 'raw', out_dir / 'data', IMAGE_SIZE, progress=progress
  )
