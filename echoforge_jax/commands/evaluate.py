"""evaluate: score trained models or masks; metrics, tables, report, comparison."""

import argparse
import pathlib
import sys

from echoforge_jax.commands import STEP_HELP, new_parser
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.protocols import PROTOCOLS, get_protocol

_TEXT = """\
Scores a trained model on a prepared split: from the known ED to the known ES,
as the papers do, and on whole clips, where ED and ES must be found. Or scores
the masks of another tool on a raw dataset.

  evaluate --workdir=RUN --protocol=camus_full --out=DIR
  ... --compare=OTHER          Wilcoxon against another run or evaluation
  evaluate --workdir RUN1 RUN2 RUN3 ...    the same config, several seeds
  evaluate --workdir=default --protocol=camus_semi --dataset=camus --raw=CAMUS --out=DIR
  evaluate --predictions=MASKS --dataset=camus --raw=CAMUS --out=DIR
"""


def _parser() -> argparse.ArgumentParser:
  parser = new_parser('evaluate', _TEXT)
  add = parser.add_argument
  text = 'training runs: config.json and checkpoints/; several are aggregated as seeds of one '
  add('--workdir', nargs='+', default=[], metavar='RUN', help=text + 'experiment')
  add('--split', default='test', help='train, validation or test (default: test)')
  text = f'one of: {", ".join(PROTOCOLS)}; or a .json file with the fields of one; of masks by '
  add('--protocol', help=text + 'default the one of the dataset that scores ED and ES')
  add('--out', required=True, help='folder for metrics.json, per_case.csv, report/')
  text = 'the folder of another evaluation under the same protocol; with --workdir also another '
  add('--compare', metavar='OTHER', help=text + 'run')
  text = 'do not score whole clips with ED and ES unknown'
  add('--skip_whole_clip', action='store_true', help=text)
  add('--seed', type=int, default=0, help='of the bootstrap over patients (default: 0)')
  add = parser.add_argument_group('runs').add_argument
  add('--data_dir', help='prepared data (default: the one trained on, or with --raw OUT/data)')
  add('--which', default='teacher', choices=('teacher', 'student'))
  add('--step', default='latest', metavar='STEP', help=STEP_HELP)
  add = parser.add_argument_group('a raw dataset, for masks or runs').add_argument
  add('--dataset', metavar='NAME', help='the raw dataset, as `verify` takes it')
  add('--raw', metavar='DIR', help='its root; for runs it is prepared as the model wants it')
  add = parser.add_argument_group('masks of another tool').add_argument
  text = 'masks as NIfTI, PNG or NPZ, named PATIENT_VIEW (a whole clip), PATIENT_VIEW_ED, _ES or '
  add('--predictions', metavar='DIR', help=text + '_frameNN (see docs/evaluation.md)')
  text = 'what the values of masks mean (default: dataset.json beside them, or lv=1,myo=2,la=3)'
  add('--labels', metavar='NAME=VALUE,...', help=text)
  text = 'what is scored, such as lv,myo (default: what the masks hold)'
  add('--classes', metavar='NAME,...', help=text)
  text = 'masks of S x S are of clips squeezed to that size; they are enlarged'
  add('--image_size', type=int, metavar='S', help=text)
  add('--split_scheme', metavar='NAME', help='whose patient lists (as of `prepare`)')
  text = 'leave out clips without masks; the report counts them'
  add('--allow_missing', action='store_true', help=text)
  return parser


def _checked(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
  flags = parser.parse_args(argv)
  if flags.seed < 0:
    parser.error(f'--seed={flags.seed}: wanted zero or more')
  if bool(flags.workdir) == bool(flags.predictions):
    parser.error('wanted either --workdir or --predictions')
  if flags.predictions and not (flags.dataset and flags.raw):
    parser.error('--predictions: wanted --dataset and --raw too, with which masks are compared')
  names = ('labels', 'classes', 'image_size', 'split_scheme', 'allow_missing')
  given = [name for name in names if getattr(flags, name)]
  if flags.workdir and bool(flags.raw) != bool(flags.dataset):
    parser.error('--raw and --dataset: wanted both, with --workdir')
  if flags.workdir and given:
    parser.error(f'--{given[0]}: wanted with --predictions only')
  of_runs = flags.data_dir, flags.which != 'teacher', flags.step != 'latest'
  if flags.predictions and any(of_runs):
    parser.error('--data_dir, --which and --step: wanted with --workdir only')
  if flags.workdir and not flags.protocol:
    parser.error('the following arguments are required: --protocol')
  if len(flags.workdir) > 1 and flags.compare:
    parser.error(
      f'--compare: wanted a single --workdir, found {len(flags.workdir)}; compare one run at a time'
    )
  return flags


def main(argv: list[str]) -> int:
  """Evaluates runs on a prepared split, or masks on a raw one, prints a summary; returns 0."""
  flags = _checked(_parser(), argv)
  # Matplotlib, JAX and orbax are slow to import; --help needs none of them.
  from echoforge_jax.evaluation import evaluate
  from echoforge_jax.evaluation.comparison import seeds, two_runs
  from echoforge_jax.evaluation.comparison.document import write_comparison
  from echoforge_jax.evaluation.report import summary

  common = {
    'seed': flags.seed,
    'whole_clip': not flags.skip_whole_clip,
    'progress': sys.stderr.isatty(),
  }
  if flags.workdir and flags.raw:
    flags.data_dir = _prepare(flags)
  network = {'data_dir': flags.data_dir, 'which': flags.which, 'step': flags.step}

  def run(workdir, out):
    if workdir is None:
      done = _score_masks(flags, out, common)
    else:
      done = evaluate.evaluate(workdir, flags.split, flags.protocol, out, **network, **common)
    print(summary.summary_text(done.result) + '\n')
    return done.paths

  def receipt(workdir):
    protocol = get_protocol(flags.protocol)
    return evaluate.predict_split(workdir, flags.split, protocol, **network).receipt

  out = pathlib.Path(flags.out)
  if len(flags.workdir) > 1:
    folders = evaluate.folders_of_runs(flags.workdir, out)
    # The second run's fault is known before the first has been evaluated.
    seeds.check_receipts({workdir: receipt(workdir) for workdir in folders})
    for workdir, folder in folders.items():
      print(f'== {workdir} ==')
      run(workdir, folder)
    found = seeds.aggregate_runs(list(folders.values()), seed=flags.seed)
    print(seeds.seeds_table(found) + '\n')
    paths = write_comparison(found, out, 'seeds')
  else:
    first = next(iter(flags.workdir), None)
    other = flags.compare and pathlib.Path(flags.compare)
    if other and not first and not (other / 'metrics.json').is_file():
      raise InputError(
        f'--compare={other}: found no metrics.json, wanted the folder of an evaluation; evaluate a '
        'run or other masks with --out=DIR first, and give --compare=DIR'
      )
    if other and first and not (other / 'metrics.json').exists():
      receipt(first)
      print(f'== {other} ==')
      run(other, out / 'compared')
      other = out / 'compared'
      print(f'== {first} ==')
    paths = run(first, out)
    if other:
      found = two_runs.compare_runs(out, other, seed=flags.seed)
      print(two_runs.comparison_table(found) + '\n')
      paths |= write_comparison(found, out, 'comparison')
  for name, path in paths.items():
    print(f'{name:<10}  {path}')
  return 0


def _prepare(flags: argparse.Namespace) -> str:
  """Prepares the raw dataset at the runs' image size; returns where."""
  from echoforge_jax.data.prepare import prepare
  from echoforge_jax.evaluation import evaluate
  from echoforge_jax.training.workdir import read_config

  protocol = get_protocol(flags.protocol)
  if protocol.dataset not in ('', flags.dataset):
    raise InputError(
      f'--dataset={flags.dataset}: the protocol {protocol.name!r} scores {protocol.dataset}; '
      'choose another --protocol'
    )
  evaluate.check_writable(flags.out)
  data_dir = flags.data_dir or str(pathlib.Path(flags.out) / 'data')
  trained = [read_config(workdir).data for workdir in flags.workdir]
  for size, own in sorted({(data.image_size, data.split_scheme) for data in trained}):
    lists = {'split_scheme': protocol.split_scheme or own}
    prepare(flags.dataset, flags.raw, data_dir, size, progress=sys.stderr.isatty(), **lists)
  return data_dir


def _score_masks(flags: argparse.Namespace, out: pathlib.Path, common: dict):
  from echoforge_jax.evaluation.foreign import evaluate_foreign

  return evaluate_foreign(
    flags.predictions,
    flags.dataset,
    flags.raw,
    out,
    flags.split,
    flags.protocol,
    labels=flags.labels,
    classes=flags.classes,
    image_size=flags.image_size,
    split_scheme=flags.split_scheme,
    allow_missing=flags.allow_missing,
    **common,
  )
