"""phantom: write synthetic patients in a provider's raw layout."""

import sys

from echoforge_jax.commands import new_parser


def main(argv: list[str]) -> int:
  """Writes a phantom dataset, or prints how close the phantom is to CAMUS."""
  parser = new_parser(
    'phantom',
    'Writes synthetic patients with exact truth as raw files of CAMUS or EchoNet-Dynamic. '
    'Continues where an interrupted run with the same flags stopped.',
  )
  add = parser.add_argument
  text = "the provider's layout to write"
  add('--layout', choices=['camus', 'echonet'], default='camus', help=text)
  add('--out', metavar='DIR', help='a new or empty folder')
  add('--patients', type=int, default=20, metavar='N')
  add('--seed', type=int, default=0)
  add('--test', type=int, metavar='N', help='test patients (default: a tenth)')
  text = 'calibrated on CAMUS; domain-randomized for pretraining; or the wide half of what the '
  styles = ['camus', 'randomized', 'transfer']
  add('--style', choices=styles, default='camus', help=text + 'default model learned from')
  text = "CAMUS's present or older form"
  add('--camus_format', choices=['nifti', 'mhd'], default='nifti', help=text)
  text = 'echonet: plant faults of real downloads, "all" or names separated by commas '
  add('--traps', default='', metavar='LIST', help=text + '(docs/phantom.md)')
  text = 'processes beside this one (default 0)'
  add('--workers', type=int, default=0, metavar='N', help=text)
  text = 'write no patients; print what is measured on them beside real CAMUS frames'
  add('--calibrate', action='store_true', help=text)
  text = 'calibrate: labeled real frames to measure in place of the shipped figures'
  add('--raw', metavar='DIR', help=text)
  text = "calibrate: 'camus', 'echonet', 'folder' or 'module.path:Reader', how --raw is read"
  add('--dataset', default='camus', metavar='NAME', help=text)
  add('--split', default='train', help='calibrate: whose frames of --raw are measured')
  add('--measured', metavar='FILE', help='calibrate: keeps the figures of --raw as JSON')
  args = parser.parse_args(argv)
  if (args.raw or args.measured) and not (args.calibrate and args.raw):
    parser.error('--raw and --measured: wanted --calibrate and --raw')
  if args.out is None and not args.calibrate:
    parser.error('--out is required (or --calibrate)')
  if args.traps and args.layout != 'echonet':
    parser.error('--traps: wanted --layout=echonet')
  if args.calibrate and args.patients < 1:
    parser.error(f'--patients={args.patients}: wanted at least 1')
  from echoforge_jax.phantom.config import PhantomConfig

  config = PhantomConfig.named(args.style)
  if args.calibrate:
    _calibrate(args, config)
    return 0
  common = dict(
    num_patients=args.patients,
    seed=args.seed,
    config=config,
    num_test=args.test,
    num_workers=args.workers,
    progress=sys.stderr.isatty(),
  )
  if args.layout == 'echonet':
    from echoforge_jax.phantom import echonet_traps, echonet_writer

    traps = [trap.strip() for trap in args.traps.split(',') if trap.strip()]
    if args.traps == 'all':
      traps = list(echonet_traps.TRAPS)
    truth = echonet_writer.write_echonet(args.out, traps=traps, **common)
    for trap, name in truth['planted'].items():
      print(f'trap {trap}: {name}')
  else:
    from echoforge_jax.phantom.camus_writer import write_camus

    write_camus(args.out, layout=args.camus_format, **common)
  print(f'{args.patients} patients in {args.out}; truth in phantom.json')
  return 0


def _calibrate(args, config) -> None:
  """Prints the table of `phantom.calibration`."""
  from echoforge_jax.phantom import calibration

  if args.raw:
    from echoforge_jax.data.datasets import list_checked, read_checked, reader_of

    reader = reader_of(args.dataset)(args.raw)
    listed = list_checked(reader, args.split, reader.schemes[0])
    real = calibration.summarize(read_checked(reader, *names) for names in listed)
    source = f'{len(listed)} clips of {args.dataset}, split {args.split}'
    if args.measured:
      calibration.write_quantiles(args.measured, real, source)
  else:
    real, source = calibration.real_quantiles()
  clips = calibration.phantom_clips(args.patients, args.seed, config)
  found = calibration.summarize(clips)
  print(f'real: {source}\nphantom: {args.patients} patients, seed {args.seed}, {args.style}\n')
  print(calibration.format_table(real, found))
